"""levelq.django: the settings that it makes of Django's, and what it says of wrong ones."""

import subprocess
import sys
from textwrap import dedent

import pytest


def run(driver: str, code: str) -> None:
    """Run code in a Django application on this driver."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.django_application", driver, "/nowhere", "site"],
        input=PREAMBLE + dedent(code),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


PREAMBLE = """
import os
from django.test import override_settings
from levelq import ConfigurationError
from levelq.django import levelq_settings, outbox, producer
"""


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_settings_come_from_levelq_the_database_and_the_environment(driver: str) -> None:
    run(driver, """
        os.environ["LEVELQ_NAMESPACE"] = "club"
        with override_settings(LEVELQ={"REDIS_URL": "redis://r/1", "REPLY_SECONDS": 120}):
            made = levelq_settings()
            assert (made.redis_url, made.reply_seconds, made.namespace) == ("redis://r/1", 120, "club")
            assert made.database_url == "postgresql://postgres:@/site?host=%2Fnowhere"
            assert levelq_settings() is made and producer() is producer() and producer().settings is made
            assert outbox().settings is made
            connection.settings_dict |= {
                "NAME": "test_s/te", "USER": "a@b", "PASSWORD": "p:/?", "HOST": "db", "PORT": 5433,
                "OPTIONS": {"sslmode": "require", "options": "-c search_path=game", "isolation_level": 2},
            }
            expected = "postgresql://a%40b:p%3A%2F%3F@/test_s%2Fte"
            options = "host=db&port=5433&sslmode=require&options=-c%20search_path%3Dgame"
            assert levelq_settings().database_url == f"{expected}?{options}", levelq_settings().database_url
        with override_settings(LEVELQ={}):
            assert producer().settings.redis_url == "redis://localhost:6379/0"
    """)  # fmt: skip


def test_wrong_setting_is_named_as_django_names_it_without_a_password() -> None:
    run("psycopg", """
        def refused(words, vendor="postgresql", **settings):
            connection.vendor = vendor
            with override_settings(**settings):
                try:
                    levelq_settings()
                except ConfigurationError as error:
                    assert words in str(error) and "hunter2" not in str(error), error
                else:
                    raise SystemExit(f"no error: {words}")

        refused("LEVELQ: expected a dict of levelq's settings, got str", LEVELQ="redis://:hunter2@localhost")
        refused("LEVELQ['REDIS_URL']: expected a URL that begins with redis://", LEVELQ={"REDIS_URL": "http://:hunter2@r"})
        refused("LEVELQ['REPLY_SECONDS']: ", LEVELQ={"REPLY_SECONDS": 0})
        refused("LEVELQ['REPLY']: Extra inputs are not permitted, got 5", LEVELQ={"REPLY": 5})
        refused("LEVELQ['DATABASE_URL']: expected DATABASES['default']", LEVELQ={"DATABASE_URL": "postgresql://:hunter2@d"})
        refused("DATABASES['default']['ENGINE']: expected PostgreSQL's, got 'django", vendor="sqlite")
        connection.settings_dict["OPTIONS"] = {"sslmode": "on"}
        refused("DATABASES['default']: sslmode: expected one of disable", LEVELQ={})
        os.environ["LEVELQ_NAMESPACE"] = "Club"
        refused("LEVELQ_NAMESPACE: ", LEVELQ={})
    """)  # fmt: skip

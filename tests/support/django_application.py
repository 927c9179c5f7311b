"""A Django application, run as a process of its own, because Django's settings hold for the whole process.

`python -m tests.support.django_application DRIVER HOST DATABASE`, with the application's code on stdin. DRIVER is
`psycopg`, or `psycopg2`: then neither psycopg 3 nor SQLAlchemy can be imported, as where they are not installed.
"""

# ruff: noqa: PLC0415 - what is imported depends on the driver and on Django's settings

import sys
from typing import Any


def application(driver: str, host: str, database: str) -> dict[str, Any]:
    """Set Django up; the names that the application's code may use."""
    if driver == "psycopg2":
        sys.modules.update({"psycopg": None, "sqlalchemy": None})  # type: ignore[dict-item]
    import django
    from django.conf import settings

    default = {"ENGINE": "django.db.backends.postgresql", "NAME": database, "HOST": host, "USER": "postgres"}
    light = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    other = default | {"AUTOCOMMIT": False}
    settings.configure(DATABASES={"default": default, "other": other, "light": light}, USE_TZ=True)
    django.setup()
    from django.core.cache import cache
    from django.db import IntegrityError, connection, connections, models, transaction

    import levelq

    class Match(models.Model):  # type: ignore[misc]
        class Meta:
            app_label = "game"
            db_table = "matches"

        number = models.IntegerField(primary_key=True, db_column="id")

    assert connection.Database.__name__ == driver
    public = ("InvalidCommand", "LevelUp", "Outbox", "SchemaError", "TransactionMisuse")
    names = {"Match": Match, "IntegrityError": IntegrityError, "cache": cache, "connection": connection}
    names |= {"connections": connections, "transaction": transaction}
    return names | {name: getattr(levelq, name) for name in public}


if __name__ == "__main__":
    exec(sys.stdin.read(), application(*sys.argv[1:]))

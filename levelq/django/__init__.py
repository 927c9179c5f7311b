"""levelq in a Django project.

    INSTALLED_APPS = [..., "levelq.django"]
    LEVELQ = {"REDIS_URL": "redis://localhost:6379/0"}

LEVELQ may hold each setting, by its name without LEVELQ_; the environment gives the others. The database is
DATABASES["default"]: `manage.py migrate` creates the tables there, and `manage.py levelq worker` starts a worker.
"""

import re
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings as django_settings
from django.db import connection

from levelq import ConfigurationError, Outbox, Producer, Settings
from levelq_core.database.urls import OPTIONS, check_database_urls

_producer = cache(Producer)
_loaded: tuple[dict[str, Any], Settings] | None = None


def levelq_settings() -> Settings:
    """The settings of LEVELQ, with the URL of Django's database. Raises ConfigurationError, which names the setting."""
    global _loaded  # noqa: PLW0603 - a test may change LEVELQ or the database; to build them takes longer than a send
    found = getattr(django_settings, "LEVELQ", {})
    if not isinstance(found, dict):
        raise ConfigurationError(f"LEVELQ: expected a dict of levelq's settings, got {type(found).__name__}")
    given = {str(name).lower(): value for name, value in found.items()}
    if "database_url" in given:
        raise ConfigurationError("LEVELQ['DATABASE_URL']: expected DATABASES['default'] alone to name the database")
    names = {name: f"LEVELQ[{name.upper()!r}]" for name in given} | {"database_url": "DATABASES['default']"}
    given["database_url"] = _database_url()
    if _loaded is None or _loaded[0] != given:
        try:
            settings = Settings.load(**given)
            check_database_urls(settings)
        except ConfigurationError as error:
            as_django = re.sub(r"\bLEVELQ_(\w+)", lambda name: names.get(name[1].lower(), name[0]), str(error))
            raise ConfigurationError(as_django) from None
        _loaded = given, settings
    return _loaded[1]


def outbox() -> Outbox:
    """An outbox on Django's connection: send inside `with transaction.atomic():`. Raises ConfigurationError."""
    return Outbox(connection, settings=levelq_settings())


def producer() -> Producer:
    """This process's producer. Send in `transaction.on_commit`, or outside a transaction. Raises ConfigurationError."""
    return _producer(levelq_settings())


def _database_url() -> str:
    given = connection.settings_dict
    if connection.vendor != "postgresql":
        raise ConfigurationError(f"DATABASES['default']['ENGINE']: expected PostgreSQL's, got {given['ENGINE']!r}")
    user, password, name = (quote(given[key] or "", safe="") for key in ("USER", "PASSWORD", "NAME"))
    login = user and f"{user}:{password}@"
    options = {key: given[key.upper()] for key in ("host", "port") if given[key.upper()]}
    options |= {key: value for key, value in given["OPTIONS"].items() if key in OPTIONS}  # the others are Django's own
    return f"postgresql://{login}/{name}?{urlencode(options, quote_via=quote)}"

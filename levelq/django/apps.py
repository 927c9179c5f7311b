"""The application `levelq.django`, as INSTALLED_APPS finds it."""

from typing import Any

from django.apps import AppConfig
from django.core.checks import Error, register

from levelq import ConfigurationError

from . import levelq_settings


class LevelqConfig(AppConfig):  # type: ignore[misc]
    """Its migrations have the label `levelq`."""

    name = "levelq.django"
    label = "levelq"

    def ready(self) -> None:
        """Register the check of the settings, which `manage.py` runs before most commands."""
        register(_check)


def _check(**_: Any) -> list[Error]:
    try:
        levelq_settings().tracks  # noqa: B018 - reads the catalog
    except ConfigurationError as error:
        return [Error(reason, id="levelq.E001") for reason in error.reasons]
    return []

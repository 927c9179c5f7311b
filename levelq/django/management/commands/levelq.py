"""`manage.py levelq worker`, `manage.py levelq status`: levelq's command line with the settings of Django."""

import argparse
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand

from levelq.django import levelq_settings


class Command(BaseCommand):  # type: ignore[misc]
    """Replaces its process, so that signals and the exit code are levelq's: not for `call_command`."""

    help = "Run levelq's command line with this project's settings, as in: manage.py levelq worker --processes 2"

    def add_arguments(self, parser: Any) -> None:
        """All that follows belongs to levelq."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *, arguments: list[str], **_: Any) -> None:
        """Become `levelq ARGUMENTS`."""
        environment = os.environ | levelq_settings().environment()
        os.execve(sys.executable, [sys.executable, "-m", "levelq", *arguments], environment)  # noqa: S606

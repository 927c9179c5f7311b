"""Where the command line and the demo meet the producer: by name, at run time.

Producer and worker know nothing of each other, so that either can be installed, changed and tested alone;
only the programs that put both together may ask for both.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from levelq_core.settings import Settings


def producer_for(settings: Settings) -> Any:
    """A levelq_producer.Producer for these settings."""
    return import_module("levelq_producer").Producer(settings)

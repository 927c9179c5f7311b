"""`levelq loadtest`: simulated users on a schedule drawn beforehand, watched, verified, and told in one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from levelq_core.errors import ConfigurationError

if TYPE_CHECKING:
    from levelq_core.settings import Settings

    from .wish import Wish

__all__ = ["run_loadtest"]


def run_loadtest(settings: Settings, wish: Wish) -> int:
    """Run a load test. Returns 0 if the checker found nothing, 1 if it did or time ran out, 130 if interrupted.

    Raises ConfigurationError for what cannot work, before anything is started.
    """
    try:
        from .running import run  # noqa: PLC0415 - needs extras that the rest of the command line can do without
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the load test needs {error.name}: pip install 'levelq[demo]'") from error
    return run(settings, wish)

"""`levelq loadtest`: simulated users on a schedule drawn beforehand, verified, and an HTML report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from levelq_core.errors import ConfigurationError

if TYPE_CHECKING:
    from levelq_core.settings import Settings

    from .options import LoadTestOptions

__all__ = ["run_loadtest"]


def run_loadtest(settings: Settings, options: LoadTestOptions) -> int:
    """Run a load test.

    Returns 0 if the checker found nothing, 1 if it found violations or commands were not decided in time, 130 if the
    test was interrupted. Raises ConfigurationError for impossible options, before anything is started.
    """
    try:
        from .load_test import run  # noqa: PLC0415 - needs extras that the rest of the command line does not
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the load test needs {error.name}: pip install 'levelq[demo]'") from error
    return run(settings, options)

"""The old name of LoadTestOptions."""

from .options import LoadTestOptions as Wish

__all__ = ["Wish"]

"""`python -m levelq_worker` is `python -m levelq`, for scripts that use the old name."""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("levelq", run_name="__main__", alter_sys=True)

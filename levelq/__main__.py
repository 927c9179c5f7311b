"""`python -m levelq` is `levelq`."""

from __future__ import annotations

import sys

from levelq.cli import main

if __name__ == "__main__":
    sys.exit(main())

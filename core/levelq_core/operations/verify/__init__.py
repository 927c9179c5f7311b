"""The verification: do the ledger, the tables, the lanes and the producers' records fit together?

`verify` is `levelq verify` as a call. The invariants I1 to I9 are in docs/; each check names its own.
"""

from .report import Check, Report, Violation
from .send_log import Recorder
from .verifier import STEPS, Options, verify

__all__ = ["STEPS", "Check", "Options", "Recorder", "Report", "Violation", "verify"]

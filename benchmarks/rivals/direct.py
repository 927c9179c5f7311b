"""No queue: application processes whose threads run the transaction themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from levelq_core import level_up_atomic

from ..site import SPECIALIZATION, Site
from ..transaction import level_up, sessions
from ..workload import Grant
from .kinds import Promises, Workers

Call = Callable[[int, int], None]


class Direct:
    """Two processes; `threads` in each."""

    most = 4_000

    def __init__(self, call: str = "orm", threads: int = 8) -> None:
        self.name = {"orm": "direct", "atomic": "level_up_atomic"}[call]
        self.how = f"2 processes of {threads} threads"
        once = {"orm": "no", "atomic": "yes"}[call]
        self.promises = Promises("as the callers race", once, "the caller knows what it had")
        self._call, self._threads = call, threads

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        for number in range(2):
            (site.folder / f"direct-{number}.json").write_text(json.dumps(grants[number::2]))

    def work(self, site: Site) -> Workers:
        commands = [
            ["-m", __name__, self._call, str(self._threads), str(site.folder / f"direct-{number}.json")]
            for number in range(2)
        ]
        return site.running(self.name, *commands)


def main() -> None:
    call, threads, share = sys.argv[1], int(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
    made = sessions(threads)

    def one(grant: tuple[int, int]) -> None:
        with made() as session:
            if call == "orm":
                level_up(session, *grant)
            else:
                done = level_up_atomic(session, grant[0], SPECIALIZATION, grant[1], sessions_completed=1)
                assert done["success"], done

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, share):
            pass


if __name__ == "__main__":
    main()

"""A script: award the points of a CSV file (lines of `user_id,xp`), many commands in few round trips.

levelq up                       # prints two export lines: paste them into each new terminal
levelq worker                   # in a second terminal
echo 42,1200 | python script.py  # in a third, in this folder
"""

import csv
import sys
from collections.abc import Iterable, Iterator

from levelq import LevelqError, LevelUp, Producer


def read(lines: Iterable[str]) -> Iterator[LevelUp]:
    """One command per line. Its key comes from the line, so a second run of the same file changes nothing."""
    for user_id, xp in csv.reader(lines):
        yield LevelUp(
            user_id=int(user_id),
            specialization="PLAYER",
            xp_gained=int(xp),
            idempotency_key=f"summer-camp:player-{user_id}",
        )


def main() -> int:
    failed = 0
    commands = list(read(sys.stdin))
    with Producer() as producer:  # reads LEVELQ_REDIS_URL
        handles = producer.send_many(commands, reply=True)
        for command, handle in zip(commands, handles, strict=True):
            try:
                outcome = handle.result(timeout=10)
                print(f"user {command.user_id}: {outcome.status}, {outcome.message}")
            except LevelqError as error:  # a full lane, a lost connection, no outcome in time
                print(f"user {command.user_id}: {error}", file=sys.stderr)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

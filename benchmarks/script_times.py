"""How long each Lua script holds the server under a deep backlog, by the server's own clock (SLOWLOG).

    .venv/bin/python -m benchmarks.script_times [--lanes 10000] [--deep 100000]

The backlog is `--lanes` lanes of one command and one lane of `--deep`. It is claimed and acknowledged in batches of the
default size, with sweeps of expired claims and status in between. While a script runs, the server answers no other
client: so its longest time matters, not its mean.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from redis import Redis
from rich.console import Console
from rich.table import Table

from levelq.embedded import Valkey
from levelq.server_account import temporary_folder
from levelq_core import LevelUp, Settings
from levelq_core.domain.codec import IDENTITY_AT, IDENTITY_BYTES, encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.protocol import Oversized
from levelq_core.lanes.script_files import load

from .command import options

PLAYER = Partition("PLAYER")
WINDOW = 2_500  # commands in one push, as a producer sends them
SCRIPTS = ("push", "claim", "renew", "ack", "sweep", "status", "yield")


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--lanes", type=int, default=10_000)
    parser.add_argument("--deep", type=int, default=100_000)
    given = parser.parse_args()
    with (
        temporary_folder("levelq-scripts-") as folder,
        Valkey(folder / "valkey", folder) as valkey,
        Redis.from_url(valkey.url) as redis,
    ):
        redis.config_set("slowlog-max-len", 1_000_000)
        redis.config_set("slowlog-log-slower-than", 0)
        work(redis, Lanes(redis, Settings.load(redis_url=valkey.url)), given.lanes, given.deep)
        Console().print(table(redis))
    return 0


def work(redis: Redis, lanes: Lanes, count: int, deep: int) -> None:
    """Push, then claim until nothing is left; the first two claims expire and are swept."""
    users = [count + 1] * deep + list(range(1, count + 1))
    for start in range(0, len(users), WINDOW):
        window: dict[int, list[bytes]] = {}
        for user in users[start : start + WINDOW]:
            window.setdefault(user, []).append(encode(LevelUp(user_id=user, specialization="PLAYER", xp_gained=1)))
        lanes.push([(PLAYER, list(window.items()))])
    for n in range(1_000_000):
        token = f"token {n}"
        claim = lanes.claim(PLAYER, "drain", token, 5_000)
        if claim.retired:
            break
        taken = [user for user, _ in claim.lanes]
        if n < 2:
            redis.zadd(lanes.keys.of(PLAYER, "claimed"), dict.fromkeys(taken, 1))
            lanes.sweep(PLAYER)
            continue
        lanes.renew(PLAYER, "drain", token, taken)
        lanes.ack(PLAYER, token, [(user, 0, identities(entries)) for user, entries in claim.lanes])
        lanes.status(PLAYER)
    lanes.yield_(PLAYER, "drain")


def identities(entries: list[bytes | Oversized]) -> bytes:
    return b"".join(e[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES] for e in entries if isinstance(e, bytes))


def table(redis: Redis) -> Table:
    names = {load(name).sha: name for name in SCRIPTS}
    times: dict[str, list[float]] = {name: [] for name in SCRIPTS}
    log: Any = redis.slowlog_get(1_000_000)
    for entry in log:
        words = entry["command"].split(maxsplit=2)
        # The first call of a script sends its text, which SLOWLOG cuts off; only later calls can be recognized.
        if words[0].upper() == b"EVALSHA" and words[1].decode() in names:
            times[names[words[1].decode()]].append(entry["duration"] / 1000)
    shown = Table("script", "calls", "median", "99 %", "longest")
    for name, found in times.items():
        found.sort()
        if found:
            high = found[int(0.99 * (len(found) - 1))]
            shown.add_row(name, f"{len(found):,}", *(f"{value:.2f} ms" for value in (median(found), high, found[-1])))
    return shown


if __name__ == "__main__":
    sys.exit(main())

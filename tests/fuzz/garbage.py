"""Raw garbage for lanes, written past push.lua, beside commands that are good."""

from collections import defaultdict
from hashlib import sha256
from random import Random
from typing import NamedTuple
from uuid import UUID

from redis import Redis

from levelq_core import LevelUp
from levelq_core.domain.codec import MAGIC, VERSION, encode
from levelq_core.keys import Partition
from levelq_worker.draining.context import Runtime
from tests.fuzz.mutating import BODY_AT, STAMP, forge
from tests.support.fixtures.keys import KEYS

PARTITION = Partition("PLAYER")
NO_USERS = (
    b"abc",
    b"",
    b"0",
    b"-5",
    b"007",
    b"1e3",
    b" 7",
    b"7\n",
    b"\xff\xfe",
    "\u00b2".encode(),
    b"9" * 19,
    b"9" * 400,
)


class Rejected(NamedTuple):
    """What the quarantine must hold of one entry."""

    user_id: int | None
    length: int
    sha256: bytes


class Garden:
    """Lanes with good commands and weeds; it remembers which are which."""

    def __init__(self, worker: Runtime, redis: Redis, rng: Random) -> None:
        self._worker, self._redis, self._rng = worker, redis, rng
        self.good: list[UUID] = []
        self.xp: defaultdict[int, int] = defaultdict(int)
        self.malformed: set[Rejected] = set()
        self.broken: set[bytes] = set()

    def sow(self, user: int) -> None:
        """A good command, by the front door."""
        command = LevelUp(user_id=user, specialization="PLAYER", xp_gained=self._rng.randrange(1, 500))
        (answer,) = self._worker.lanes.push([(PARTITION, [(user, [encode(command)])])])
        assert not isinstance(answer, Exception) and answer.lanes == [(1, "")]
        self.good.append(command.command_id)
        self.xp[user] += command.xp_gained

    def drop_a_boulder(self, user: int) -> None:
        """Some megabytes in a user's lane."""
        self._weed(user, self._rng.randbytes(self._rng.randrange(2**20, 4 * 2**20)))

    def weed(self, user: int) -> None:
        """Garbage in a user's lane."""
        raw = self._garbage(user)
        while raw[13:15] == MAGIC and raw[15:16] > bytes([VERSION]):  # by chance: that would wait for a newer worker
            raw = self._garbage(user)
        self._weed(user, raw)

    def _weed(self, user: int, raw: bytes) -> None:
        self._append(str(user).encode(), raw)
        self.malformed.add(Rejected(user, len(raw), sha256(raw[:4096]).digest()))

    def weed_where_nobody_lives(self, name: bytes) -> None:
        """A lane whose name is no user id, with an entry that would be good elsewhere."""
        raw = STAMP + encode(LevelUp(user_id=7, specialization="PLAYER", xp_gained=5))
        self._append(name, raw)
        self.malformed.add(Rejected(None, len(raw), sha256(raw).digest()))

    def break_lane(self, user: int) -> None:
        """A lane key that is no list, or none at all."""
        key, name = KEYS.lane(PARTITION, user), str(user).encode()
        match self._rng.randrange(4):
            case 0:
                self._redis.set(key, "no list")
            case 1:
                self._redis.hset(key, "no", "list")
            case 2:
                self._redis.zadd(key, {"no list": 1})
            case 3:
                self._redis.zadd(KEYS.of(PARTITION, "ready"), {name: 0})
                return
        self._redis.zadd(KEYS.of(PARTITION, "ready"), {name: 0})
        self.broken.add(name)

    def _append(self, user: bytes, raw: bytes) -> None:
        self._redis.rpush(KEYS.of(PARTITION, "lane:").encode() + user, raw)
        if self._redis.zscore(KEYS.of(PARTITION, "claimed"), user) is None:
            self._redis.zadd(KEYS.of(PARTITION, "ready"), {user: 0}, nx=True)

    def _garbage(self, user: int) -> bytes:
        rng = self._rng
        mine, other = (
            STAMP + encode(LevelUp(user_id=u, specialization="PLAYER", xp_gained=rng.randrange(9), reason="text"))
            for u in (user, user + 1)
        )
        at = rng.randrange(BODY_AT, len(mine))
        unknown_kind = bytes([rng.randrange(4, 256)]) + mine[BODY_AT + 1 :]
        salt = f"PLAYER:{user}:".encode()
        return rng.choice(
            (
                rng.randbytes(rng.randrange(1, 200)),
                b'{"job": "os.system", "n": %d}' % rng.randrange(10**9),
                mine[:at] + bytes([mine[at] ^ 1 << rng.randrange(8)]) + mine[at + 1 :],
                mine[: rng.randrange(len(mine))],
                mine[1:],
                mine + b"x",
                other,
                b"not a time : " + mine[1:],
                mine[:15] + b"\0" + mine[16:],
                forge(lambda body: unknown_kind, salt, mine),
                forge(lambda body: body + b"a\0b", salt, mine),
                forge(lambda body: body + b"\xff" + rng.randbytes(9), salt, mine),
                mine + rng.randbytes(rng.randrange(3_900, 4_300)),
                b"%d" % rng.randrange(10**12),
            )
        )

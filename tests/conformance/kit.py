"""A partition under test: the calls the library makes, and a look at the keys from outside."""

from hashlib import sha1
from typing import Any, Protocol
from uuid import UUID

from redis import Redis

from levelq_core import LevelUp, Settings
from levelq_core.domain.codec import IDENTITY_AT, IDENTITY_BYTES, STAMP_DIGITS, encode
from levelq_core.keys import Partition
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.parked import ParkedLane, read
from levelq_core.lanes.pauses import Pause, pause_of
from levelq_core.lanes.protocol import Claim, PushAnswer

PARTITION = Partition("PLAYER")
FAR = 1e16  # prelude.lua's PAUSED: the lane of a paused user
CLAIM_SECONDS = 600.0  # no test takes longer: time passes only where a test advances it


def payload(user_id: int, number: int = 0) -> bytes:
    """An entry without its stamp: command `number` of a user. The same number is the same command."""
    return encode(LevelUp(user_id=user_id, specialization="PLAYER", command_id=UUID(int=number + 1), xp_gained=number))


def identity(entry: bytes | Any) -> bytes:
    """What ack.lua knows a command's entry by."""
    assert isinstance(entry, bytes)
    return entry[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES]


def malformed_identity(entry: bytes) -> bytes:
    """What ack.lua knows any entry by."""
    return sha1(entry).hexdigest()[:IDENTITY_BYTES].encode()


class Bench:
    """One partition on one Redis."""

    def __init__(self, redis: Redis, **settings: Any) -> None:
        self.redis: Any = redis
        self.settings = Settings.load(**{"claim_seconds": CLAIM_SECONDS} | settings)
        self.lanes = LaneEditor(redis, self.settings)
        self.partition = PARTITION

    def push(self, user_id: int, *entries: bytes) -> PushAnswer:
        return self.push_to((user_id, entries))

    def push_to(self, *lanes: tuple[int, tuple[bytes, ...]]) -> PushAnswer:
        (answer,) = self.lanes.push([(self.partition, lanes)])
        assert isinstance(answer, PushAnswer)
        return answer

    def fill(self, **lanes: int) -> None:
        """fill(u1=3, u2=1): 3 and 2 commands, counted from 0, into the lanes of users 1 and 2, in that order."""
        for name, count in lanes.items():
            user_id = int(name.removeprefix("u"))
            self.push(user_id, *(payload(user_id, n) for n in range(count)))

    def claim(self, token: str = "token", commands: int = 1000, drain: str = "drain") -> Claim:
        return self.lanes.claim(self.partition, drain, token, commands)

    def ack(self, token: str, user_id: int, *identities: bytes, delay_ms: int = 0, reason: str = "") -> int:
        user = b"%d" % user_id
        (removed,) = self.lanes.ack(
            self.partition, token, [(user, delay_ms, b"".join(identities))], {user: reason} if reason else None
        )
        return removed

    def withdraw(self, user_id: int, *identities: bytes) -> int:
        (removed,) = self.lanes.withdraw(self.partition, [(b"%d" % user_id, b"".join(identities))])
        return removed

    def pause(self, user_id: int | None = None, for_ms: int = 0, reason: str = "") -> Pause | None:
        """Pause the partition or a user; what was paused before."""
        before, now = self.lanes.pause(self.partition, user_id, for_ms, "ann", reason)
        assert pause_of(self.redis, self.lanes.keys, self.partition, user_id) == now
        return before

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the partition, by moving everything in it into the past."""
        for name in ("ready", "claimed", "drains"):
            for member, score in self.scores(name).items():
                if score < FAR:
                    self.redis.zadd(self.key(name), {member: score - seconds * 1000})
        for who, pause in self.redis.hgetall(self.key("paused")).items():
            since, ends, why = pause.split(b" ", 2)
            shifted = [int(ms) and int(ms) - int(seconds * 1000) for ms in (since, ends)]
            self.redis.hset(self.key("paused"), who, b"%d %d %b" % (*shifted, why))
        left = self.redis.pttl(self.key("wake"))
        if left > seconds * 1000:
            self.redis.pexpire(self.key("wake"), int(left - seconds * 1000))
        elif left >= 0:
            self.redis.delete(self.key("wake"))

    def key(self, name: str) -> str:
        return self.lanes.keys.of(self.partition, name)

    def scores(self, name: str) -> dict[bytes, float]:
        return dict(self.redis.zrange(self.key(name), 0, -1, withscores=True))

    def members(self, name: str) -> list[int]:
        return [int(member) for member in self.redis.zrange(self.key(name), 0, -1)]

    def tokens(self) -> dict[bytes, bytes]:
        return dict(self.redis.hgetall(self.key("tokens")))

    def parked(self) -> dict[str, ParkedLane]:
        return {lane.user: lane for lane in read(self.redis, self.lanes.keys, self.partition).lanes}

    def entries(self, user_id: int) -> list[bytes]:
        """What lies in a lane, stamps and all."""
        return list(self.redis.lrange(self.lanes.keys.lane(self.partition, user_id), 0, -1))

    def payloads(self, user_id: int) -> list[bytes]:
        """What lies in a lane, without the stamps."""
        return [entry[STAMP_DIGITS:] for entry in self.entries(user_id)]

    def count(self) -> int:
        return int(self.redis.get(self.key("count")) or 0)

    def now_ms(self) -> int:
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def names(self) -> set[str]:
        """All keys of the namespace, without the partition's tag; but for the layouts, written at the first push."""
        keys = {key.decode() for key in self.all_keys()} - {self.lanes.keys.shards}
        return {key.removeprefix(self.key("")) for key in keys}

    def all_keys(self) -> list[bytes]:
        return list(self.redis.keys(f"{self.settings.namespace}:*"))

    def clear(self) -> None:
        if found := self.all_keys():
            self.redis.delete(*found)

    def everything(self) -> dict[str, Any]:
        """Every key with its value, to see that nothing changed."""
        found: dict[str, Any] = {}
        for name in self.names():
            key = self.key(name)
            kind = self.redis.type(key)
            found[name] = {
                b"string": lambda key=key: self.redis.get(key),
                b"list": lambda key=key: self.redis.lrange(key, 0, -1),
                b"hash": lambda key=key: self.redis.hgetall(key),
                b"zset": lambda key=key: self.redis.zrange(key, 0, -1, withscores=True),
            }[kind]()
        return found

    def check(self) -> None:
        """What always holds: no lane stranded, none in two sets, the count right, tokens and claims alike.

        And no note of why a lane is parked without the lane.
        """
        lanes = {name.removeprefix("lane:"): name for name in self.names() if name.startswith("lane:")}
        ready, claimed = self.scores("ready"), self.scores("claimed")
        assert not set(ready) & set(claimed)
        assert {user.encode() for user in lanes} <= set(ready) | set(claimed)
        assert set(claimed) == set(self.tokens())
        assert set(self.redis.hkeys(self.key("parked"))) <= set(ready) | set(claimed)
        assert self.count() == sum(self.redis.llen(self.key(name)) for name in lanes.values())


class Benches(Protocol):
    """The `bench` fixture: makes a bench with the settings a test needs."""

    def __call__(self, **settings: Any) -> Bench: ...

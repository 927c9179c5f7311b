"""What the audits of the two tables found, kept in Redis: pairs of progress and license that are out of step.

One worker at a time audits. It renews a lease after each range, and notes how far it is: when it ends, another worker
goes on there. The lease only saves work. Two audits at once, after a lease expired, would find the same pairs, and a
pair that is repaired twice is changed once.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NamedTuple, Self

from redis import Redis

from levelq_core.keys import Keys
from levelq_core.redis_client.topology import server_of, time_ms
from levelq_core.redis_client.wrong_type import unless_wrong_type
from levelq_core.untrusted_text import MOST_SHOWN, printable

MOST_EXAMPLES = 5
LEASE_MS = 60_000  # renewed after each range; an auditor that died keeps the others waiting for so long
_REPORT, _RUN = "report", "run"


class DriftedPair(NamedTuple):
    """A pair that was out of step and not repaired; a level of None is a missing row.

    `obstacle`: why no command can repair it; empty if one can.
    """

    user_id: int
    specialization: str
    progress_level: int | None
    license_level: int | None
    obstacle: str

    @classmethod
    def read(cls, found: Any) -> Self:
        """Read what JSON made of one. Raises ValueError or TypeError."""
        user_id, specialization, progress, license_, obstacle = found
        progress, license_ = (None if level is None else int(level) for level in (progress, license_))
        name, why = printable(str(specialization), MOST_SHOWN), printable(str(obstacle), 300)
        return cls(int(user_id), name, progress, license_, why)


class DriftReport(NamedTuple):
    """One audit. Times are Redis's, in ms; `finished_ms` is 0 while it is under way.

    `compared`: pairs. `out_of_step`: those of different levels, or with one row only. `repaired`: those of them for
    which a command was sent, by `policy`. `unrepairable`: those that no command can repair; `unknown`: rows whose name
    is not in the catalog, or spelt otherwise, which are not among the pairs out of step. `examples`: the first that
    were not repaired.
    """

    started_ms: int
    finished_ms: int = 0
    compared: int = 0
    out_of_step: int = 0
    repaired: int = 0
    unrepairable: int = 0
    unknown: int = 0
    policy: str = "report"
    examples: tuple[DriftedPair, ...] = ()

    @property
    def remaining(self) -> int:
        """How many pairs it found and did not repair."""
        return self.out_of_step - self.repaired

    def encode(self) -> str:
        """As Redis keeps it, in JSON."""
        return json.dumps(self._asdict())

    @classmethod
    def decode(cls, raw: bytes | None) -> Self | None:
        """Read what `encode` gives; None for anything else, because any program may have written it."""
        with suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
            found = json.loads(raw or b"")
            examples = tuple(DriftedPair.read(pair) for pair in found.pop("examples")[:MOST_EXAMPLES])
            policy = printable(str(found.pop("policy")), MOST_SHOWN)
            return cls(policy=policy, examples=examples, **{name: int(number) for name, number in found.items()})
        return None


def read(redis: Redis, keys: Keys) -> DriftReport | None:
    """The last finished audit; None if there is none. Raises RedisError."""
    return DriftReport.decode(unless_wrong_type(None, redis.hget, keys.drift, _REPORT))


def read_under_way(redis: Redis, keys: Keys) -> DriftReport | None:
    """What the audit under way found so far, also one that broke off; None if there is none. Raises RedisError."""
    run = AuditRun.decode(unless_wrong_type(None, redis.hget, keys.drift, _RUN))
    return None if run is None else run.report


def request_audit(redis: Redis, keys: Keys) -> None:
    """Have a worker audit within seconds, because what the last audit found was changed. Raises RedisError.

    An audit under way begins again: it counted pairs that are repaired by now.
    """
    redis.delete(keys.auditor)  # so the audit under way ends unpublished
    unless_wrong_type(None, redis.hdel, keys.drift, _REPORT, _RUN)


class AuditRun(NamedTuple):
    """An audit under way: what it found so far, and where it goes on, in whatever form the auditor chose."""

    report: DriftReport
    position: list[Any]

    def encode(self) -> str:
        """As Redis keeps it, in JSON."""
        return json.dumps([self.report.encode(), self.position])

    @classmethod
    def decode(cls, raw: bytes | None) -> Self | None:
        """Read what `encode` gives; None for anything else."""
        with suppress(ValueError, TypeError, RecursionError):
            encoded, position = json.loads(raw or b"")
            report = DriftReport.decode(encoded)
            if report is not None and isinstance(position, list):
                return cls(report, position)
        return None


class AuditLease:
    """The lease of one auditor, known by `token`. Raises RedisError."""

    def __init__(self, redis: Redis, keys: Keys, token: str) -> None:
        self._server: Any = server_of(redis, keys.drift)
        self._lease: Any = server_of(redis, keys.auditor)
        self._keys, self._token = keys, token.encode()
        self._noted = False  # whether Redis holds how far this audit is

    def take(self, every_ms: int, policy: str) -> AuditRun | None:
        """Begin an audit, or go on with one that broke off.

        None if another worker has the lease, or the last audit began less than `every_ms` ago.
        """
        now = time_ms(self._server)
        run, report = self._read(now)
        if run is None and report is not None and report.started_ms <= now < report.started_ms + every_ms:
            return None
        if not self._lease.set(self._keys.auditor, self._token, px=LEASE_MS, nx=True):
            if not 0 <= self._lease.pttl(self._keys.auditor) <= LEASE_MS:  # another program wrote this
                self._lease.delete(self._keys.auditor)
            return None
        run, finished = self._read(now)  # again: the holder before may have finished meanwhile
        if run is None and finished != report:
            self.release()
            return None
        self._noted = run is not None
        return run or AuditRun(DriftReport(now, policy=policy), [])

    def renew(self, run: AuditRun) -> bool:
        """Note how far the audit is, and keep the lease; False if another worker has it, or a new audit is wanted."""
        if self._lease.get(self._keys.auditor) != self._token:
            return False
        self._lease.pexpire(self._keys.auditor, LEASE_MS)
        added = self._server.hset(self._keys.drift, _RUN, run.encode())
        if added and self._noted:  # request_audit removed it
            self._server.hdel(self._keys.drift, _RUN)
            return False
        self._noted = True
        return True

    def finish(self, report: DriftReport) -> DriftReport:
        """Publish what the audit found and release the lease, unless the lease was lost: then another audit is due."""
        report = report._replace(finished_ms=time_ms(self._server))
        if self._lease.get(self._keys.auditor) != self._token:
            return report
        with self._server.pipeline() as pipeline:
            pipeline.hset(self._keys.drift, _REPORT, report.encode())
            pipeline.hdel(self._keys.drift, _RUN)
            pipeline.execute()
        self.release()
        return report

    def release(self) -> None:
        """Give the lease up, if it is still this one's."""
        if self._lease.get(self._keys.auditor) == self._token:
            self._lease.delete(self._keys.auditor)

    def _read(self, now: int) -> tuple[AuditRun | None, DriftReport | None]:
        """The audit under way and the last one. One that began in the future, by a clock set back, does not count."""
        raw, last = unless_wrong_type((None, None), self._server.hmget, self._keys.drift, _RUN, _REPORT)
        run = AuditRun.decode(raw)
        if run is not None and run.report.started_ms > now:
            run = None
        return run, DriftReport.decode(last)

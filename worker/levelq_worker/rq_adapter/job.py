"""The RQ job class: a wake-up, read with limits. Everything else that a job may hold is ignored."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes.wakeups import FAILURE_SECONDS, FUNCTION
from levelq_core.untrusted_text import MOST_SHOWN, printable
from levelq_worker.draining.drain import drain

MOST_DIGITS = 9  # of a lifetime in seconds
MOST_BYTES = 4_096  # of a job's data, as it is stored and once it is unpacked: a wake-up has some 60


class RefusedJob(Exception):
    """A job on a levelq queue that is not a wake-up; it was not run."""


class LaneJob(Job):
    """A wake-up. RQ would call any dotted path that a job names, as function, callback or webhook; this does not.

    Any program that can write to RQ's Redis can plant a job. So only its function, its argument and its result_ttl
    are read, within limits. Timeouts, retries, repeats, dependencies, groups, metadata and rate limits are ignored.
    """

    refused: RefusedJob | None = None

    def refresh(self) -> None:
        """Read the job. Raises NoSuchJobError if there is none, or if its key holds another type."""
        pipeline: Any = self.connection.pipeline(transaction=False)
        try:
            length, digits = pipeline.hstrlen(self.key, "data").hstrlen(self.key, "result_ttl").execute()
            wanted = ["data"] * (0 < length <= MOST_BYTES) + ["result_ttl"] * (0 < digits <= MOST_DIGITS)
            values: Any = self.connection.hmget(self.key, wanted) if wanted else ()
            found = dict(zip(wanted, values, strict=True))
        except ResponseError as error:
            raise NoSuchJobError(f"{printable(self.key, MOST_SHOWN)}: {error}") from None
        if not length:
            raise NoSuchJobError(f"no such job: {printable(self.key, MOST_SHOWN)}")
        self._read(found.get("data") or b"", length, found.get("result_ttl") or b"")

    def restore(self, raw_data: Mapping[bytes | str, bytes]) -> None:
        """Take data that RQ has read already, in its maintenance. Raises NoSuchJobError."""
        found = {
            name.decode(errors="replace") if isinstance(name, bytes) else name: raw_data[name] for name in raw_data
        }
        if not (data := found.get("data", b"")):
            raise NoSuchJobError(f"no such job: {printable(self.key, MOST_SHOWN)}")
        self._read(data, len(data), found.get("result_ttl", b"")[: MOST_DIGITS + 1])

    def perform(self) -> None:
        """Run the drain. Raises RefusedJob for any other job."""
        if self.refused is not None:
            raise self.refused
        drain(self.args[0])

    def _read(self, data: bytes, length: int, kept: bytes) -> None:
        arguments: tuple[str, ...] = ()
        try:
            arguments = (_partition_in(data, length),)
        except RefusedJob as refused:
            self.refused = refused
        self._status = JobStatus.QUEUED
        self.description = f"drain {arguments[0]}" if arguments else "refused"
        self._func_name, self._instance, self._args, self._kwargs = self.description, None, arguments, {}
        self._data = b"[]"  # so that RQ does not unpack the data
        kept_seconds = int(kept) if kept.isdigit() else 0
        self.result_ttl = min(kept_seconds, FAILURE_SECONDS)
        self.timeout, self.failure_ttl, self.ttl = -1, FAILURE_SECONDS, None


def _partition_in(data: bytes, length: int) -> str:
    """The partition that a wake-up names. Raises RefusedJob for any other job."""
    if length > MOST_BYTES:
        raise RefusedJob(f"its data has {length} bytes; a wake-up has at most {MOST_BYTES}")
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(data, MOST_BYTES)
        if unpacker.unconsumed_tail:
            raise RefusedJob(f"its data has more than {MOST_BYTES} bytes once it is unpacked")
        found = json.loads(plain)
        function, instance, arguments, options = found
    except (zlib.error, ValueError, TypeError, RecursionError):
        raise RefusedJob(f"expected {FUNCTION}(partition), got data that cannot be read") from None
    if function != FUNCTION or instance or options or not isinstance(arguments, list) or len(arguments) != 1:
        raise RefusedJob(f"expected {FUNCTION}(partition), got {printable(str(function), MOST_SHOWN)}")
    if not isinstance(arguments[0], str):
        raise RefusedJob(f"expected {FUNCTION}(partition), got another argument than a string")
    try:
        Partition.parse(arguments[0])
    except ConfigurationError:
        shown = printable(arguments[0], MOST_SHOWN)
        raise RefusedJob(f"expected {FUNCTION}(partition), got the partition {shown}") from None
    return arguments[0]

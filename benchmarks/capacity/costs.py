"""What a command costs: the numbers that `python -m benchmarks.scaling` measures, and the file it writes them to.

`costs.json` beside this file is one machine's; `make plan ARGS="--costs FILE"` takes another's.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from levelq_core.errors import ConfigurationError, describe

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PARTS = ("workers", "redis", "postgresql")


class Shape(NamedTuple):
    """Per command: lanes taken, lanes taken with more than one command (`deep`), and batches."""

    lanes: float
    deep: float
    batches: float

    @classmethod
    def of(cls, commands_per_lane: float, batch_commands: float, batch_lanes: float) -> Shape:
        """The shape of batches that are as full as their limits allow."""
        lanes = 1 / commands_per_lane
        deep = lanes * min(1.0, commands_per_lane - 1)  # between one and two, some lanes have one and others two
        return cls(lanes, deep, 1 / min(batch_commands, batch_lanes * commands_per_lane))


class _Measured(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Terms(_Measured):
    """An amount for each command, each lane that a batch takes, each lane of more than one command, and each batch.

    A lane of one command is a case of its own: Redis's scripts and the worker handle it faster.
    """

    command: Amount
    lane: Amount
    deep: Amount = 0.0
    batch: Amount

    def each(self, shape: Shape) -> float:
        """The amount for one command of this shape."""
        return self.command + self.lane * shape.lanes + self.deep * shape.deep + self.batch * shape.batches


class Drains(_Measured):
    """Microseconds of a core for a drain, by part."""

    workers: Terms
    redis: Terms
    postgresql: Terms

    def each(self, shape: Shape) -> float:
        """All three together, for one command."""
        return sum(terms.each(shape) for terms in (self.workers, self.redis, self.postgresql))


class Push(_Measured):
    """Microseconds of Redis's core: for each call of a producer, each lane and each command in it."""

    call: Amount
    lane: Amount
    command: Amount

    def each(self, commands_per_call: float, commands_per_lane: float) -> float:
        """For one command, where a call carries `commands_per_call`."""
        lanes = max(1.0, commands_per_call / commands_per_lane)
        return self.command + (self.call + self.lane * lanes) / commands_per_call


class Idle(_Measured):
    """Microseconds of a core in each second, with nothing to do.

    Every worker process checks every partition that it serves: two of the amounts are for each pair of a worker and a
    partition. PostgreSQL gets queries only from the one relay of each partition.
    """

    worker_partition_redis: Amount
    worker_partition_workers: Amount
    partition_postgresql: Amount


class Sizes(_Measured):
    """Bytes."""

    redis_command: Positive
    redis_lane: Amount
    wal: Terms  # without the images of whole pages that follow a checkpoint
    ledger_row: Positive  # with its indexes
    ledger_user_index_row: Positive  # its entry in the one index whose order is not that of time
    learner: Positive  # one user's rows of one specialization


class Connections(_Measured):
    """The most that each worker process holds."""

    redis: Positive
    postgresql: Positive


class Costs(_Measured):
    """All costs, and the machine they were measured on."""

    machine: dict[str, str]
    cores: Positive
    utilisation: Annotated[float, Field(gt=0, le=1)]  # of those cores, and of a worker's time
    drain_us: Drains
    wait_us: Amount  # for each batch: a worker waits for something else than PostgreSQL's processor
    push_us: Push
    wake_us: Amount  # of the processor of RQ's Redis, for each wake-up
    idle_us: Idle
    bytes: Sizes
    connections: Connections
    prune_rows: Positive  # that one `levelq prune` removes in a second

    @classmethod
    def load(cls, path: Path | None = None) -> Costs:
        """Read a file; without one, the costs in the repository. Raises ConfigurationError, OSError."""
        text = (path or files(__package__).joinpath("costs.json")).read_text()
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            found = "; ".join(describe(detail) for detail in error.errors(include_url=False)[:3])
            raise ConfigurationError(f"--costs {path}: {found}; `python -m benchmarks.scaling` writes it") from None

    def rate(self, shape: Shape, workers: float, cores: float | None = None) -> float:
        """Commands a second of worker processes that share the cores with both servers.

        A worker does one batch at a time: its own work, PostgreSQL's, and its waits. Together they cannot use more
        than the cores.
        """
        drain, busy = self.drain_us, self.utilisation
        turn = (drain.workers.each(shape) + drain.postgresql.each(shape)) / busy + self.wait_us * shape.batches
        return 1e6 * min(workers / turn, (cores or self.cores) * busy / drain.each(shape))

"""The input of a plan: the load, and the hosts it may use. Each field is an option of `make plan`, too."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from levelq_core.errors import ConfigurationError, describe

Number = Annotated[float, Field(allow_inf_nan=False)]


class Load(BaseModel):
    """Commands a second, of how many users; what was not measured is an assumption, to be given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: int = Field(ge=1, le=10**12, description="how many users there are")
    rate: Number = Field(ge=1, le=10**9, description="commands a second, averaged over a day")
    peak: Number = Field(1.0, ge=1, le=1_000, description="the busiest hour's rate, as a multiple of --rate")
    commands_per_lane: Number = Field(1.0, ge=1, le=1_000, description="commands of one user in a batch")
    commands_per_send: Number = Field(1.0, ge=1, le=2_500, description="commands in one call of a producer")
    specializations: int = Field(3, ge=1, le=10_000, description="how many share the load evenly")
    utilisation: Number = Field(0.6, ge=0.01, le=1, description="how busy a core or a process may be at the peak")
    cores: int = Field(16, ge=1, le=1_024, description="cores of one host")
    retention_days: Number = Field(30.0, ge=0.05, le=36_500, description="how long the ledger keeps a command")
    backlog_seconds: Number = Field(300.0, ge=0, le=10**6, description="how long PostgreSQL may be away at the peak")
    checkpoint_seconds: Number = Field(300.0, ge=30, le=86_400, description="between two checkpoints of PostgreSQL")
    wal_mb: Number = Field(250.0, ge=1, le=10**6, description="MB a second that one PostgreSQL host can log")
    disk_tb: Number = Field(10.0, ge=0.01, le=10**6, description="TB that one PostgreSQL host can store")
    trip_ms: Number = Field(0.3, ge=0, le=1_000, description="ms of a round trip between a worker and its database")

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Check it. Raises ConfigurationError that names each option that is wrong."""
        try:
            return cls(**given)
        except ValidationError as error:
            wrong = (describe(detail) for detail in error.errors(include_url=False))
            raise ConfigurationError("; ".join(f"--{_option(line)}" for line in wrong)) from None

    @property
    def most(self) -> float:
        """Commands a second at the peak."""
        return self.rate * self.peak


def _option(line: str) -> str:
    field, colon, rest = line.partition(":")
    return field.replace("_", "-") + colon + rest

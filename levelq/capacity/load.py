"""What a plan is asked for: the load, and what hosts it may use."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from levelq_core.errors import ConfigurationError, describe

Number = Annotated[float, Field(allow_inf_nan=False)]


class Load(BaseModel):
    """So many commands a second for so many users; numbers that were not measured are assumptions, to be given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: int = Field(ge=1, le=10**12)
    rate: Number = Field(ge=1, le=10**9)  # commands a second, averaged over a day
    peak: Number = Field(1.0, ge=1, le=1_000)  # how many times that the busiest hour has
    commands_per_lane: Number = Field(1.0, ge=1, le=1_000)  # of one user, that a batch finds together
    commands_per_send: Number = Field(1.0, ge=1, le=2_500)  # 1: each request of an application sends its own
    specializations: int = Field(3, ge=1, le=10_000)
    utilisation: Number = Field(0.6, ge=0.01, le=1)  # of a core or a process, at the peak
    cores: int = Field(16, ge=1, le=1_024)  # of a host
    retention_days: Number = Field(30.0, ge=0.05, le=36_500)
    backlog_seconds: Number = Field(300.0, ge=0, le=10**6)  # for which PostgreSQL may be away at the peak
    checkpoint_seconds: Number = Field(300.0, ge=30, le=86_400)
    wal_mb: Number = Field(250.0, ge=1, le=10**6)  # a second, that one PostgreSQL host can write and replicate
    disk_tb: Number = Field(10.0, ge=0.01, le=10**6)  # of one PostgreSQL host
    trip_ms: Number = Field(0.3, ge=0, le=1_000)  # a round trip between a worker and its database

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Check it. Raises ConfigurationError that names each option that is wrong."""
        try:
            return cls(**given)
        except ValidationError as error:
            told = (describe(detail) for detail in error.errors(include_url=False))
            raise ConfigurationError("; ".join(f"--{_option(line)}" for line in told)) from None

    @property
    def most(self) -> float:
        """Commands a second at the peak."""
        return self.rate * self.peak


def _option(line: str) -> str:
    field, colon, rest = line.partition(":")
    return field.replace("_", "-") + colon + rest

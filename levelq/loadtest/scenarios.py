"""The traffic of a load test as data: how many users, how often they send, how they bunch."""

from __future__ import annotations

from typing import Any, NamedTuple

from levelq_core.errors import ConfigurationError

_MOST_COMMANDS = 2_000_000  # the report holds half a kilobyte of memory per command


class Scenario(NamedTuple):
    """One kind of traffic. `rate`: commands a second of all users together, without bursts."""

    name: str
    summary: str
    users: int
    accounts: int  # 0: one for each user
    rate: float
    seconds: float
    burst: int = 0  # how many players level up within one second when matches end
    every: float = 10.0  # seconds from one such end to the next
    shared: bool = False  # each command is for any of the accounts, not only for the user's own

    @property
    def commands(self) -> int:
        """The expected number of commands."""
        return round(self.rate * self.seconds) + self.burst * len(self.match_ends)

    @property
    def match_ends(self) -> list[float]:
        """When the matches end, in seconds after the start; the first in the middle of its interval."""
        if not self.burst:
            return []
        first = min(self.every, self.seconds) / 2
        return [first + number * self.every for number in range(1 + int((self.seconds - first) / self.every))]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("steady", "users who pause to think, each on an account of their own", 500, 0, 200.0, 30.0),
        Scenario("match", "matches end: thousands level up within a second", 5_000, 0, 100.0, 30.0, burst=5_000),
        Scenario("contention", "500 users on the same 100 accounts", 500, 100, 1_000.0, 30.0, shared=True),
    )
}

_BOUNDS: dict[str, tuple[float, float]] = {
    "users": (1, 1_000_000),
    "accounts": (1, 1_000_000),
    "rate": (0.1, 50_000),
    "seconds": (1, 86_400),
    "burst": (1, 1_000_000),
    "every": (1, 86_400),
}


def chosen(name: str, **given: Any) -> Scenario:
    """The named scenario, with the given numbers instead of its own. Raises ConfigurationError naming the option."""
    if name not in SCENARIOS:
        raise ConfigurationError(f"--scenario: expected one of {', '.join(SCENARIOS)}, got {name!r}")
    given = {field: value for field, value in given.items() if value is not None}
    for field, value in given.items():
        least, most = _BOUNDS[field]
        if not least <= value <= most:  # this form refuses nan, too
            raise ConfigurationError(f"--{field}: expected {least:,} to {most:,}, got {value}")
    if not SCENARIOS[name].burst and {"burst", "every"} & given.keys():
        raise ConfigurationError(f"--burst and --every: expected --scenario match, got {name}")
    scenario = SCENARIOS[name]._replace(**given)
    if not scenario.accounts:
        scenario = scenario._replace(accounts=scenario.users)
    if scenario.commands > _MOST_COMMANDS:
        raise ConfigurationError(
            f"--rate, --seconds, --burst: expected at most {_MOST_COMMANDS:,} commands, got {scenario.commands:,}"
        )
    return scenario

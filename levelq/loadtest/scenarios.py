"""What a load test does, as data: how many users, how often, and how they bunch."""

from __future__ import annotations

from typing import Any, NamedTuple

from levelq_core.errors import ConfigurationError

MOST_COMMANDS = 2_000_000  # what is known of each takes half a kilobyte at the end


class Scenario(NamedTuple):
    """One kind of traffic. `rate` is that of all users together, in commands a second, bursts not counted."""

    name: str
    summary: str
    users: int
    accounts: int  # 0: one for each user
    rate: float
    seconds: float
    burst: int = 0  # how many level up within one second when a match ends
    every: float = 10.0  # seconds from one such end to the next
    shared: bool = False  # each command is for any of the accounts, not for the user's own

    @property
    def commands(self) -> int:
        """How many commands are to be expected."""
        return round(self.rate * self.seconds) + self.burst * len(self.match_ends)

    @property
    def match_ends(self) -> list[float]:
        """When the matches end, in seconds after the start; the first in the middle of its interval."""
        if not self.burst:
            return []
        first = min(self.every, self.seconds) / 2
        return [first + number * self.every for number in range(1 + int((self.seconds - first) / self.every))]

    @property
    def think_seconds(self) -> float:
        """How long a user pauses between two commands, on the average."""
        return self.users / self.rate


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
    """A scenario with other numbers where they are given. Raises ConfigurationError naming what cannot be."""
    if name not in SCENARIOS:
        raise ConfigurationError(f"--scenario: expected one of {', '.join(SCENARIOS)}, got {name!r}")
    given = {field: value for field, value in given.items() if value is not None}
    for field, value in given.items():
        least, most = _BOUNDS[field]
        if not least <= value <= most:  # so that nan is refused, too
            raise ConfigurationError(f"--{field}: expected {least:,} to {most:,}, got {value}")
    if not SCENARIOS[name].burst and {"burst", "every"} & given.keys():
        raise ConfigurationError(f"--burst and --every: expected --scenario match, got {name}")
    scenario = SCENARIOS[name]._replace(**given)
    if not scenario.accounts:
        scenario = scenario._replace(accounts=scenario.users)
    if scenario.commands > MOST_COMMANDS:
        raise ConfigurationError(
            f"--rate, --seconds, --burst: expected at most {MOST_COMMANDS:,} commands, got {scenario.commands:,}"
        )
    return scenario

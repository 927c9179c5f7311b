"""The schedule of a load test: the same from the same seed, shaped as its scenario says."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean, median, pvariance

import pytest

from levelq.loadtest.arrivals import Arrival, Plan, id_of, intended_in, new_tag, tag_in
from levelq.loadtest.scenarios import SCENARIOS, Scenario, chosen
from levelq_core import ConfigurationError

LEVELS = {"PLAYER": [0, 1000, 2500], "COACH": [0, 700]}


def drawn(scenario: Scenario, seed: int = 7, slots: int = 1) -> list[Arrival]:
    plan = Plan(seed, scenario, LEVELS)
    return sorted((one for slot in range(slots) for one in plan.arrivals(slot, slots)), key=lambda one: one.at)


def fresh(scenario: Scenario) -> list[Arrival]:
    return [arrival for arrival in drawn(scenario) if not arrival.again]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_draws_the_same_schedule_however_many_threads_share_it(name: str) -> None:
    scenario = chosen(name, users=60, accounts=30, seconds=5.0)
    assert drawn(scenario) == drawn(scenario) == drawn(scenario, slots=7)
    assert drawn(scenario) != drawn(scenario, seed=8)


@pytest.mark.parametrize("name", SCENARIOS)
def test_there_are_as_many_commands_as_announced(name: str) -> None:
    scenario = chosen(name, seconds=30.0)
    found = [wanted for arrival in fresh(scenario) for wanted in arrival.wanted]
    assert len(found) == pytest.approx(scenario.commands, rel=0.1)
    assert {wanted.account for wanted in found} <= set(range(scenario.accounts))
    assert {wanted.specialization for wanted in found} == set(LEVELS)
    assert len({(wanted.at, wanted.number) for wanted in found}) == len(found)


def test_many_users_together_arrive_like_rain() -> None:
    """Of independent users, none of whom is most of the traffic, counts per second vary by no more than their mean."""
    scenario = chosen("steady", users=5_000, rate=200.0, seconds=100.0)
    counts = [0] * 100
    for arrival in fresh(scenario):
        counts[int(arrival.at)] += 1
    assert mean(counts) == pytest.approx(200, rel=0.05)
    assert pvariance(counts) == pytest.approx(mean(counts), rel=0.4)
    assert mean(counts[:20]) == pytest.approx(200, rel=0.15)  # from the first second on


def test_pauses_and_users_have_a_long_tail() -> None:
    scenario = chosen("steady", users=200, accounts=200, rate=200.0, seconds=300.0)
    times: dict[int, list[float]] = {}
    for arrival in fresh(scenario):
        times.setdefault(arrival.wanted[0].account, []).append(arrival.at)
    sent = sorted(len(each) for each in times.values())
    assert sent[-1] > 3 * median(sent)
    busiest = max(times.values(), key=len)
    pauses = sorted(after - before for before, after in pairwise(busiest))
    assert pauses[len(pauses) * 99 // 100] > 3.5 * mean(pauses)
    assert median(pauses) < 0.8 * mean(pauses)


def test_when_a_match_ends_everybody_rises_a_level_within_a_second() -> None:
    scenario = chosen("match", users=500, rate=1.0, burst=500, every=10.0, seconds=20.0)
    assert scenario.match_ends == [5.0, 15.0]
    for number, ends in enumerate(scenario.match_ends):
        calls = [arrival for arrival in drawn(scenario) if ends <= arrival.at < ends + 1 and len(arrival.wanted) > 1]
        players = [wanted for call in calls for wanted in call.wanted]
        assert sorted(wanted.account for wanted in players) == list(range(500))
        assert max(call.at for call in calls) - min(call.at for call in calls) > 0.3  # not all in one instant
        for wanted in players:
            steps = LEVELS[wanted.specialization]
            if number + 1 < len(steps):
                assert wanted.xp == steps[number + 1] - steps[number]


def test_more_players_than_accounts_play_in_several_matches() -> None:
    scenario = chosen("match", users=30, rate=0.1, burst=100, seconds=10.0)
    players = [wanted.account for arrival in drawn(scenario) for wanted in arrival.wanted if len(arrival.wanted) > 1]
    assert len(players) == 100 and {players.count(account) for account in range(30)} == {3, 4}


def test_in_contention_each_account_is_everybodys() -> None:
    scenario = chosen("contention", seconds=10.0)
    accounts = [arrival.wanted[0].account for arrival in Plan(1, scenario, LEVELS).arrivals(0, 500)]  # one user's
    assert len(set(accounts)) > len(accounts) / 2 > 1


def test_the_impatient_send_the_same_command_again_a_little_later() -> None:
    arrivals = drawn(chosen("steady", seconds=60.0))
    again = [arrival for arrival in arrivals if arrival.again]
    assert len(again) == pytest.approx(0.01 * len(arrivals), rel=0.4)
    first = {arrival.wanted[0]: arrival.at for arrival in arrivals if not arrival.again}
    assert all(0.09 < arrival.at - first[arrival.wanted[0]] < 1.01 for arrival in again)


def test_an_id_tells_when_its_command_was_meant_to_be_sent() -> None:
    tag, intended = new_tag(), 1_764_000_000.123456
    command_id = id_of(intended, tag, 2**32 - 1)
    assert command_id.version == 7 and command_id.variant == "specified in RFC 4122"
    assert intended_in(command_id) == pytest.approx(intended, abs=1e-6)
    assert tag_in(command_id) == tag
    assert id_of(intended, tag, 1) < id_of(intended + 1e-6, tag, 0)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"users": 0}, "--users: expected 1 to 1,000,000, got 0"),
        ({"accounts": -1}, "--accounts: expected 1 to 1,000,000, got -1"),
        ({"rate": float("nan")}, "--rate: expected 0.1 to 50,000, got nan"),
        ({"rate": float("inf")}, "--rate: expected 0.1 to 50,000, got inf"),
        ({"seconds": 0.5}, "--seconds: expected 1 to 86,400, got 0.5"),
        ({"burst": 0}, "--burst: expected 1 to 1,000,000, got 0"),
        ({"burst": 5}, "--burst and --every: expected --scenario match, got steady"),
        (
            {"rate": 50_000.0, "seconds": 86_400.0},
            "--rate, --seconds, --burst: expected at most 2,000,000 commands, got 4,320,000,000",
        ),
    ],
)
def test_numbers_that_cannot_be_are_named(given: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        chosen("steady", **given)
    assert str(refused.value) == line


def test_a_scenario_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="--scenario: expected one of steady, match, contention, got 'rush'"):
        chosen("rush")

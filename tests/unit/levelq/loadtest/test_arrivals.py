from itertools import pairwise
from statistics import mean, median, pvariance

import pytest

from levelq.loadtest.arrivals import Arrival, Plan, id_of, intended_in, new_tag, tag_in
from levelq.loadtest.scenarios import SCENARIOS, Scenario, chosen
from levelq_core import ConfigurationError

LEVELS = {"PLAYER": [0, 1000, 2500], "COACH": [0, 700]}


def drawn(scenario: Scenario, seed: int = 7, threads: int = 1) -> list[Arrival]:
    plan = Plan(seed, scenario, LEVELS)
    return sorted((one for thread in range(threads) for one in plan.arrivals(thread, threads)), key=lambda one: one.at)


def fresh(scenario: Scenario) -> list[Arrival]:
    return [arrival for arrival in drawn(scenario) if not arrival.again]


@pytest.mark.parametrize("name", SCENARIOS)
def test_same_seed_draws_the_same_schedule_for_any_number_of_threads(name: str) -> None:
    scenario = chosen(name, users=60, accounts=30, seconds=5.0)
    assert drawn(scenario) == drawn(scenario) == drawn(scenario, threads=7)
    assert drawn(scenario) != drawn(scenario, seed=8)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_draws_the_announced_number_of_commands(name: str) -> None:
    scenario = chosen(name, seconds=30.0)
    found = [planned for arrival in fresh(scenario) for planned in arrival.commands]
    assert len(found) == pytest.approx(scenario.commands, rel=0.1)
    assert {planned.account for planned in found} <= set(range(scenario.accounts))
    assert {planned.specialization for planned in found} == set(LEVELS)
    assert len({(planned.at, planned.number) for planned in found}) == len(found)


def test_arrivals_of_many_users_are_random() -> None:
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
        times.setdefault(arrival.commands[0].account, []).append(arrival.at)
    sent = sorted(len(each) for each in times.values())
    assert sent[-1] > 3 * median(sent)
    busiest = max(times.values(), key=len)
    pauses = sorted(after - before for before, after in pairwise(busiest))
    assert pauses[len(pauses) * 99 // 100] > 3.5 * mean(pauses)
    assert median(pauses) < 0.8 * mean(pauses)


def test_end_of_a_match_raises_every_player_within_a_second() -> None:
    scenario = chosen("match", users=500, rate=1.0, burst=500, every=10.0, seconds=20.0)
    assert scenario.match_ends == [5.0, 15.0]
    for number, ends in enumerate(scenario.match_ends):
        calls = [arrival for arrival in drawn(scenario) if ends <= arrival.at < ends + 1 and len(arrival.commands) > 1]
        players = [planned for call in calls for planned in call.commands]
        assert sorted(planned.account for planned in players) == list(range(500))
        assert max(call.at for call in calls) - min(call.at for call in calls) > 0.3  # not all in one instant
        for planned in players:
            steps = LEVELS[planned.specialization]
            if number + 1 < len(steps):
                assert planned.xp == steps[number + 1] - steps[number]


def test_more_players_than_accounts_play_in_several_matches() -> None:
    scenario = chosen("match", users=30, rate=0.1, burst=100, seconds=10.0)
    matches = [arrival.commands for arrival in drawn(scenario) if len(arrival.commands) > 1]
    players = [planned.account for match in matches for planned in match]
    assert len(players) == 100 and {players.count(account) for account in range(30)} == {3, 4}


def test_contention_spreads_each_user_over_all_accounts() -> None:
    scenario = chosen("contention", seconds=10.0)
    accounts = [arrival.commands[0].account for arrival in Plan(1, scenario, LEVELS).arrivals(0, 500)]  # one user's
    assert len(set(accounts)) > len(accounts) / 2 > 1


def test_one_command_in_a_hundred_is_sent_again_a_little_later() -> None:
    arrivals = drawn(chosen("steady", seconds=60.0))
    again = [arrival for arrival in arrivals if arrival.again]
    assert len(again) == pytest.approx(0.01 * len(arrivals), rel=0.4)
    first = {arrival.commands[0]: arrival.at for arrival in arrivals if not arrival.again}
    assert all(0.09 < arrival.at - first[arrival.commands[0]] < 1.01 for arrival in again)


def test_id_holds_intended_time_and_tag() -> None:
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
def test_impossible_number_is_refused_by_option(given: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        chosen("steady", **given)
    assert str(refused.value) == line


def test_unknown_scenario_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--scenario: expected one of steady, match, contention, got 'rush'"):
        chosen("rush")

"""A pause under load, with real workers: nothing is applied after `pause` returned, producers go on, order is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.pauses import pause_of
from tests.support.fixtures.command_line import Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, up

USERS = range(1, 21)


class Load(threading.Thread):
    """Sends rounds of one command for each user, numbered by their experience, until it is stopped."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self._system = system
        self._stopped = threading.Event()
        self.rounds = 0

    def run(self) -> None:
        while not self._stopped.wait(0.02):
            handles = self._system.producer.send_many([up(user, self.rounds + 1) for user in USERS])
            assert not any(handle.error for handle in handles)
            self.rounds += 1

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


def applied(system: System, *users: int) -> dict[int, list[int]]:
    """The experience of each user's PLAYER commands, in the order of their effect."""
    query = "SELECT user_id, xp FROM levelq_ledger WHERE specialization = 'PLAYER' ORDER BY id"
    found: dict[int, list[int]] = {}
    for user, xp in system.rows(query):
        if user in users:
            found.setdefault(user, []).append(xp)
    return found


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize(("scope", "paused"), [(("PLAYER",), USERS), (("--user", "7"), (7,))])
def test_nothing_is_applied_while_paused_and_all_of_it_in_order_afterwards(
    system: System, levelq: Levelq, scope: tuple[str, ...], paused: tuple[int, ...]
) -> None:
    with Load(system) as load:
        until(lambda: applied(system, *USERS), what="the first commands")
        assert levelq("pause", *scope).code == 0
        then, rounds = applied(system, *paused), load.rounds
        # Others go on, served by the same workers: time enough for anything that was in hand.
        for _ in range(3):
            other = system.producer.send(up(99, specialization="COACH"))
            assert other.result(30).status == "applied"
        if len(paused) == 1:
            until(lambda: applied(system, 8)[8][-1] > rounds, what="another user's commands")
        until(lambda: load.rounds > rounds + 3, what="producers that go on")
        assert applied(system, *paused) == then
        assert levelq("resume", *scope).code == 0
    done = levelq("drain", "--wait", "--timeout", "60s")
    assert done.code == 0, done.out
    assert applied(system, *USERS) == {user: list(range(1, load.rounds + 1)) for user in USERS}


def test_pause_returns_when_the_claim_in_hand_is_finished(system: System, start: Callable[..., Started]) -> None:
    system.push(up(1), up(2))
    patient = system.settings.model_copy(update={"claim_seconds": 240})  # however long the commands take to start
    claim = Lanes(system.redis, patient).claim(PLAYER, "drain", "token", 1)
    ((user, (entry,)),) = claim.lanes
    assert isinstance(entry, bytes)
    for scope in (("PLAYER",), ("--user", user.decode())):
        pausing = start("pause", *scope, LEVELQ_CLAIM_SECONDS="240")
        assert pausing.stdout is not None
        while "waiting for drains to finish 1 lane" not in (line := pausing.stdout.readline()):
            assert line, "pause ended though a drain had a claim"
        assert pausing.poll() is None
        if scope != ("PLAYER",):
            system.lanes.ack(PLAYER, "token", [(user, 0, entry[17:49])])
            assert pausing.communicate(timeout=30)[0].endswith("no drain applies anything of it now\n")
            assert pausing.returncode == 0
        else:
            pausing.kill()
    assert pause_of(system.redis, KEYS, PLAYER) is not None
    assert pause_of(system.redis, KEYS, Partition("COACH"), int(user)) is not None

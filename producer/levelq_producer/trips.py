"""Round trips that the threads of a process share; loop_trips.py has the same for event loops.

A send that comes while no trip is under way goes at once. Those that come meanwhile go together in the next trip, in
the order of their calls: there is no timer, and a lone send waits for nothing. The first of those that wait makes the
trip for all of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .durability import DurabilityWait
from .sending import WINDOW, SentCommand, Settlement, take_trip

if TYPE_CHECKING:
    from levelq_core.settings import Settings

Push = Callable[[Sequence[SentCommand], Settlement], None]


class _Call:
    """A call that waits for a trip, or travels."""

    __slots__ = ("commands", "companions", "gone", "latch", "leads", "trip")

    def __init__(self, commands: Sequence[SentCommand], trip: Settlement) -> None:
        self.commands = commands
        self.trip = trip  # its own, or that of the call that it joined
        self.leads = False  # makes the trip for all
        self.companions: list[_Call] = []  # of its trip, which it lets go on
        self.gone = False  # its thread is not here any more, as after KeyboardInterrupt
        self.latch = threading.Lock()  # opened when it leads or its trip is over; an Event is ten times slower


class Trips:
    """The trips with one level of durability: one at a time, each with WINDOW commands at most."""

    def __init__(self, settings: Settings, wait: DurabilityWait) -> None:
        self._settings, self._wait = settings, wait
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._busy = False
        self._inside: set[int] = set()  # threads that carry

    def carry(self, commands: Sequence[SentCommand], push: Push) -> Settlement:
        """Push these commands in the next trip, maybe with others; returns what became of that trip."""
        call = _Call(commands, Settlement(self._settings, self._wait))
        thread = threading.get_ident()
        if thread in self._inside:  # a signal handler or a finalizer: what it interrupts cannot go on before it ends
            push(commands, call.trip)
            return call.trip
        try:
            self._inside.add(thread)
            with self._lock:
                if self._busy:
                    call.latch.acquire()
                    self._waiting.append(call)
                else:
                    self._busy = call.leads = True
            if not call.leads:
                call.latch.acquire()
            if call.leads:
                self._lead(call, push)
        finally:
            try:
                self._leave(call)
            except BaseException:  # KeyboardInterrupt within it: the others must go on
                self._leave(call)
                raise
            finally:
                self._inside.discard(thread)
        return call.trip

    def _lead(self, call: _Call, push: Push) -> None:
        """Make one trip, for those too that wait by now."""
        try:
            if self._waiting:
                with self._lock:
                    take_trip(self._waiting, WINDOW - len(call.commands), call.companions)
                    call.companions = [other for other in call.companions if not other.gone]
                for other in call.companions:
                    other.trip = call.trip
            push(_commands(call), call.trip)
        except BaseException as error:  # such as KeyboardInterrupt
            call.trip.refuse_unknown(_commands(call), error)
            raise

    def _leave(self, call: _Call) -> None:
        """Let the next call lead, if this one did, and the next companion go. May be repeated.

        Each companion lets the next one go: all at once would wait for Python's lock once more.
        """
        with self._lock:
            call.gone = True
            while call.leads:
                if not self._waiting:
                    self._busy = call.leads = False
                    break
                following = self._waiting[0]
                del self._waiting[0]
                if not following.gone:
                    following.leads, call.leads = True, False
                    following.latch.release()
            while call.companions:
                companions = call.companions
                following = companions[0]
                del companions[0]
                if not following.gone:
                    following.companions, call.companions = companions, []
                    following.latch.release()


def _commands(call: _Call) -> Sequence[SentCommand]:
    if not call.companions:
        return call.commands
    return [command for one in (call, *call.companions) for command in one.commands]

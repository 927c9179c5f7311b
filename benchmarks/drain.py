"""How fast a backlog is drained: the rate between its first and its last tenth, and the use of the cores."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any, NamedTuple, Protocol, TypeVar

import psutil

from .rivals.kinds import Rival
from .rivals.levelq import Levelq
from .site import Site
from .speed import Speedometer
from .workload import Grant, Workload

FROM, TO = 0.1, 0.9  # of the commands: before, workers start; after, they run out of work
CORES = psutil.cpu_count() or 1
QUIET, TRIES = 0.12, 3  # the share of the cores that other processes may use in a valid trial
LISTEN_SECONDS = 1.0  # how long the machine must be quiet before a trial
LIMIT_SECONDS = 25.0  # a slower rival is measured by what it did until then
POLL_SECONDS = 0.1  # more often takes a noticeable share of the cores
POLL_ROWS_SECONDS = 0.2  # counting in the tables takes as long as a job


class Mark(NamedTuple):
    """Commands done, and processor time of the cores and of the parts in seconds, at one moment."""

    at: float
    done: int
    busy: float
    idle: float
    parts: dict[str, float]


class Drained(NamedTuple):
    """One trial. `idle`: the share of the cores' time without work or waiting for the disk.

    `parts`: processor time per command, in microseconds, of the workers, Redis and PostgreSQL.
    """

    rival: str
    workload: str
    commands: int
    rate: float
    idle: float
    parts: dict[str, float]
    slowness: float = 1.0

    def at(self, slowness: float) -> Drained:
        """The trial as it would have been at another speed of the machine; see speed.py."""
        factor = slowness / self.slowness
        parts = {name: factor * spent for name, spent in self.parts.items()}
        return self._replace(rate=self.rate / factor, parts=parts, slowness=slowness)

    @property
    def busy(self) -> float:
        """The share of the cores' time that the three parts used."""
        return self.rate * sum(self.parts.values()) / (1e6 * CORES)

    @property
    def outside(self) -> float:
        """The share that other processes used; some 0.02 of it is this benchmark's polling."""
        return max(0.0, 1 - self.idle - self.busy)


class _HasDrained(Protocol):
    @property
    def drained(self) -> Drained:
        """The trial that decides."""

    def _replace(self, *, drained: Drained) -> Any:
        """As NamedTuple has it."""


Tried = TypeVar("Tried", bound=_HasDrained)


def undisturbed(trial: Callable[[], Tried], patience: float) -> Tried:
    """Try while the machine is quiet, again if it was not; returns the least disturbed trial."""
    tries: list[Tried] = []
    while len(tries) < TRIES and (not tries or tries[-1].drained.outside > QUIET):
        until = time.monotonic() + patience
        while psutil.cpu_percent(LISTEN_SECONDS) > 100 * QUIET and time.monotonic() < until:
            pass
        tries.append(trial())
    return min(tries, key=lambda tried: tried.drained.outside)


def at_one_speed(trials: Sequence[Tried]) -> list[Tried]:
    """The trials as they would have been at the machine's median speed."""
    middle = median(trial.drained.slowness for trial in trials)
    return [trial._replace(drained=trial.drained.at(middle)) for trial in trials]


def drain(site: Site, rival: Rival, workload: Workload, beside: AbstractContextManager[Any] | None = None) -> Drained:
    """Queue the work, start the workers, measure, and check the result."""
    site.reset(workload.learners)
    return drain_more(site, rival, workload.name, workload.grants(), beside)


def drain_more(
    site: Site,
    rival: Rival,
    name: str,
    grants: Sequence[Grant],
    beside: AbstractContextManager[Any] | None = None,
    limit: float = LIMIT_SECONDS,
    refused: int = 0,
) -> Drained:
    """The same without emptying first. `refused`: how many of the commands the database refuses."""
    before, commands = site.applied(), len(grants)
    rival.fill(site, grants)
    done: Callable[[], int] = lambda: site.applied() - before  # noqa: E731
    if isinstance(rival, Levelq):
        done = lambda: commands - site.waiting()  # noqa: E731
    with rival.work(site) as processes, beside or nullcontext():
        poll = POLL_SECONDS if isinstance(rival, Levelq) else POLL_ROWS_SECONDS
        ended = lambda: all(p.poll() is not None for p in processes)  # noqa: E731
        marks = _watch(done, commands, poll, ended, limit, Parts(site, [p.pid for p in processes]))
    if marks[-1].done == commands:
        site.check(before + commands - refused)
    return _drained(rival, name, marks)


def timed_drain(site: Site, rival: Rival, workload: Workload) -> Drained:
    """The same, with the machine's speed."""
    speed = Speedometer()
    drained = drain(site, rival, workload, speed)
    return drained._replace(slowness=speed.slowness)


class Parts:
    """The processes of each part."""

    def __init__(self, site: Site, workers: Sequence[int]) -> None:
        self._roots = {"workers": workers, **site.servers}

    def seconds(self) -> dict[str, float]:
        """Processor time of each part so far, from one pass over all processes."""
        spent: dict[int, float] = {}
        children: dict[int, list[int]] = {}
        for process in psutil.process_iter(["ppid", "cpu_times"]):
            times = process.info["cpu_times"]
            if times is not None:
                spent[process.pid] = times.user + times.system
                children.setdefault(process.info["ppid"], []).append(process.pid)
        return {name: sum(_seconds(pid, spent, children) for pid in pids) for name, pids in self._roots.items()}


def _seconds(pid: int, spent: Mapping[int, float], children: Mapping[int, Sequence[int]]) -> float:
    """Of a process and its descendants."""
    return spent.get(pid, 0.0) + sum(_seconds(child, spent, children) for child in children.get(pid, ()))


def _watch(
    done: Callable[[], int], commands: int, poll: float, ended: Callable[[], bool], limit: float, parts: Parts
) -> list[Mark]:
    marks: list[Mark] = []
    until = time.monotonic() + limit
    while not marks or (marks[-1].done < commands and marks[-1].at < until):
        if marks and ended() and done() < commands:
            raise RuntimeError("the workers ended with work left")
        times = psutil.cpu_times()
        idle = times.idle + times.iowait
        marks.append(Mark(time.monotonic(), done(), sum(times) - idle, idle, parts.seconds()))
        time.sleep(poll)
    return marks


def _drained(rival: Rival, name: str, marks: list[Mark]) -> Drained:
    most = marks[-1].done
    first = marks[bisect_left(marks, FROM * most, key=lambda mark: mark.done)]
    last = marks[min(bisect_left(marks, TO * most, key=lambda mark: mark.done), len(marks) - 1)]
    if first is last:
        raise RuntimeError(f"{name}: {most} commands were done between two polls, too few to be measured")
    rate = (last.done - first.done) / (last.at - first.at)
    busy, idle = last.busy - first.busy, last.idle - first.idle
    spent = {name: 1e6 * (last.parts[name] - first.parts[name]) / (last.done - first.done) for name in first.parts}
    return Drained(rival.name, name, most, rate, idle / (busy + idle), spent)

"""Checks of the lanes themselves: stranded lanes, claims without end, claims and tokens that disagree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from redis import Redis

from levelq_core.keys import Keys, Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.scan import Entry, State, claimed, counted, entries, grouped, lanes, partitions, states
from levelq_core.operations import key_faults
from levelq_core.settings import Settings

from .report import Check


class Watch:
    """One pass over all lanes; its checks fill as `entries` is read to its end. `limit`: examples kept per check."""

    def __init__(self, lanes: Lanes, settings: Settings, limit: int) -> None:
        self._lanes = lanes
        self._redis = lanes.redis
        self._keys = lanes.keys
        self._settings = settings
        self._limit = limit
        self._partitions = partitions(lanes.redis, settings)
        self._reported: set[tuple[str, Partition, bytes]] = set()
        self.empty = Check("I1", "at rest: no lane holds anything")
        self.stranded = Check("I7", "a lane with commands is either ready or claimed")
        self.bounded = Check("I7", "no claim ends later than one claim length from now")
        self.not_lists = Check("I7", "lane keys that hold something else than a list", note=True)
        self.tokens = Check("I8", "a lane has a token exactly when it is claimed")
        self.counts = Check("I7", "partitions whose count is higher than the entries in their lanes", note=True)
        self.full = Check("I7", "no partition is called full that has room")
        self.unreadable = Check("I7", "levelq's keys can be read", note=True)

    def checks(self, *, at_rest: bool) -> list[Check]:
        """What was found; `at_rest`: nothing may wait any more."""
        found = [self.stranded, self.bounded, self.not_lists, self.tokens, self.counts, self.full, self.unreadable]
        return [self.empty, *found] if at_rest else found

    def entries(self) -> Iterator[Entry]:
        """Check every lane, then yield what stands in it."""
        for partition, users in grouped(lanes(self._redis, self._keys)):
            self._partitions.add(partition)
            seen = states(self._redis, self._keys, partition, users)
            for state in seen:
                self._check_lane(state)
            yield from entries(self._redis, self._keys, partition, [state.user for state in seen if state.length > 0])
        for fault in key_faults.find(self._lanes, self._partitions):
            self.unreadable.add(self._limit, "unreadable", None, None, None, str(fault))
        for partition in sorted(self._partitions):
            self._check_count(partition)
            for _, users in grouped(claimed(self._redis, self._keys, partition)):
                for state in states(self._redis, self._keys, partition, users):
                    self._check_claim(state)

    def _check_lane(self, state: State) -> None:
        if state.length:
            self.empty.checked += 1
            self._add(self.empty, state, "waiting", f"{state.length} entries stand in the lane")
        self.stranded.checked += 1
        is_ready, is_claimed = state.ready is not None, state.claimed is not None
        if state.length > 0 and is_ready == is_claimed:
            where = "in both ready and claimed" if is_ready else "in neither ready nor claimed"
            self._add(self.stranded, state, "stranded", where)
        if state.length < 0:
            self.not_lists.checked += 1
            key = self._keys.lane(state.partition, state.user.decode("utf-8", "replace"))
            self._add(self.not_lists, state, "not a list", key)

    def _check_claim(self, state: State) -> None:
        self.tokens.checked += 1
        if (state.claimed is None) != (state.token is None):
            detail = "a token without a claim" if state.claimed is None else "claimed without a token"
            self._add(self.tokens, state, "unfenced", detail)
        if state.claimed is None:
            return
        self.bounded.checked += 1
        seconds, most = (state.claimed - state.now) / 1000, self._settings.claim_seconds
        if seconds > most:
            detail = f"claimed for another {seconds:.1f} s, expected at most {most:.1f}"
            self._add(self.bounded, state, "stranded", detail)
        if state.length <= 0 and state.ready is not None:
            self._add(self.stranded, state, "stranded", "in both ready and claimed")

    def _check_count(self, partition: Partition) -> None:
        """A count that is too high refuses pushes too early. It is a violation if it refuses all of them."""
        found = counted(self._redis, self._keys, partition)
        if found is None:
            return
        self.counts.checked += 1
        self.full.checked += 1
        if 0 <= found.stored <= found.standing:
            return
        shown = "no number" if found.stored < 0 else f"{found.stored}"
        refuses = found.stored < 0 or found.stored >= self._settings.partition_limit > found.standing
        for check in (self.counts, self.full) if refuses else (self.counts,):
            key = self._keys.of(partition, "count")
            detail = f"{key} is {shown}, and {found.standing} entries stand in the lanes"
            fix = "the next sweep of a worker corrects it"
            check.add(self._limit, "miscounted", None, partition.specialization, None, f"{detail}; {fix}")

    def _add(self, check: Check, state: State, verdict: str, detail: str) -> None:
        """SCAN may show a lane twice; it is reported once, as far as examples are kept."""
        key = (check.what, state.partition, state.user)
        if key in self._reported:
            return
        if len(check.examples) < self._limit:
            self._reported.add(key)
        check.add(self._limit, verdict, state.user_id, state.partition.specialization, state.command_id, detail)


def again(redis: Redis, keys: Keys, wanted: Iterable[tuple[str, bytes]]) -> Iterator[Entry]:
    """What stands in these lanes now, each given as (partition, lane)."""
    pairs = ((Partition.parse(name), lane) for name, lane in wanted)
    for partition, users in grouped(pairs):
        yield from entries(redis, keys, partition, users)

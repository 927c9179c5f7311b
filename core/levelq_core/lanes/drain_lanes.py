"""The drain's part of the protocol: claim lanes, acknowledge, renew and release them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from levelq_core.failpoints import failpoint
from levelq_core.keys import Partition

from .parked import Acknowledgements, Reasons
from .pending_reply import PendingReply
from .protocol import Claim, Protocol
from .script_caller import ScriptCaller


class DrainLanes(ScriptCaller):
    """Claims and acknowledges lanes. A call that `begin_...` sent is answered while the drain does other work."""

    def claim(
        self, partition: Partition, drain: str, token: str, commands: int, *, restored_only: bool = False
    ) -> Claim:
        """Register the drain and take due lanes for it, `commands` at most; or retire it.

        `restored_only`: take nothing until what Redis lost of the outbox is restored, and report that.
        """
        return self.begin_claim(partition, drain, token, commands, restored_only=restored_only).result()

    def begin_claim(
        self,
        partition: Partition,
        drain: str,
        token: str,
        commands: int,
        *,
        restored_only: bool = False,
        holding: bool = False,
    ) -> PendingReply[Claim]:
        """The same, without waiting for it. `holding`: the drain has a batch in hand, so it is not retired."""
        failpoint("claim request")
        return self._begin(self._protocol.claim(partition, drain, token, commands, restored_only, holding), _claimed)

    def ack(self, partition: Partition, token: str, lanes: Acknowledgements, reasons: Reasons = None) -> list[int]:
        """Remove decided entries and release the lanes; see Protocol.ack. -1: the claim belongs to another drain."""
        return self.begin_ack(partition, token, lanes, reasons).result()

    def begin_ack(
        self, partition: Partition, token: str, lanes: Acknowledgements, reasons: Reasons = None
    ) -> PendingReply[list[int]]:
        """The same, without waiting for it."""
        failpoint("ack request")
        return self._begin(self._protocol.ack(partition, token, lanes, reasons), _acked)

    def renew(self, partition: Partition, drain: str, token: str, users: Sequence[bytes]) -> int:
        """Extend the drain's claims; returns how many it still holds."""
        return int(self._run(self._protocol.renew(partition, drain, token, users)))

    def yield_(self, partition: Partition, drain: str) -> bool:
        """End a drain that has work left; True if the caller must wake its successor."""
        return bool(self._run(self._protocol.yield_(partition, drain)))


def _claimed(reply: Any) -> Claim:
    failpoint("claim reply")
    return Protocol.claimed(reply)


def _acked(reply: Any) -> list[int]:
    failpoint("ack reply")
    return list(reply)

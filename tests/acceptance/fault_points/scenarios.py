"""What is forced: every fault point with every fault that makes sense there, derived from the points themselves."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from levelq_core.failpoints import POINTS
from tests.support.fixtures import proxy

CLAIM_SECONDS = 1.0
PATIENT_SECONDS = 10.0  # claims where a signal is sent: what the victim holds is given back long before they run out


class Fault(Enum):
    """What happens at a point."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP for two claims"
    RAISE = "unexpected exception"
    TERMINATE = "SIGTERM"
    TERMINATE_TWICE = "SIGTERM twice"
    INTERRUPT = "SIGINT"
    SILENCE = "message lost in silence"
    RESET = "message lost by a reset"


SIGNALS = (Fault.TERMINATE, Fault.TERMINATE_TWICE, Fault.INTERRUPT)
LOSSES = (Fault.SILENCE, Fault.RESET)
FATAL = (Fault.KILL, *SIGNALS)


class Victim(Enum):
    """Who meets the fault."""

    WORKER = "worker"
    PRODUCER = "producer"
    ASYNC_PRODUCER = "async producer"


class Scenario(NamedTuple):
    """One fault at one point of one victim."""

    point: str
    fault: Fault
    victim: Victim

    def __str__(self) -> str:
        return f"{self.point}-{self.fault.name.lower()}-{self.victim.value}".replace(" ", "_")

    @property
    def hands_over(self) -> bool:
        """Whether no lane has to wait until a claim expires; no process knows the claims of a lost reply."""
        return self.fault in SIGNALS and (self.point, self.fault) != ("claim reply", Fault.TERMINATE_TWICE)

    @property
    def comes_late(self) -> bool:
        """Whether the victim acknowledges, or gives back, what others hold by then."""
        held = POINTS[POINTS.index("claim reply") : POINTS.index("ack reply")]
        return self.fault is Fault.STOP and self.point in held

    @property
    def claim_seconds(self) -> float:
        """How long claims last."""
        return PATIENT_SECONDS if self.hands_over else CLAIM_SECONDS

    @property
    def struck_at(self) -> str:
        """Where the victim is when it happens: a message can only be lost once it is on its way."""
        return self.point.replace("reply", "request") if self.fault in LOSSES else self.point

    @property
    def loss(self) -> proxy.Fault:
        """What the proxy does to the message."""
        way = "REQUEST" if self.point.endswith("request") else "REPLY"
        return proxy.Fault[f"{'DROP' if self.fault is Fault.SILENCE else 'RESET'}_{way}"]

    @property
    def survived(self) -> bool:
        """Whether the victim lives on."""
        return self.fault not in FATAL


def makes_sense(point: str, fault: Fault) -> bool:
    """Messages are lost where there are some; how to stop politely is a question for workers."""
    if fault in LOSSES:
        return point.endswith((" request", " reply"))
    return fault not in SIGNALS or not point.startswith("push ")


def victims(point: str) -> tuple[Victim, ...]:
    """Who passes the point."""
    return (Victim.PRODUCER, Victim.ASYNC_PRODUCER) if point.startswith("push ") else (Victim.WORKER,)


SCENARIOS = [
    Scenario(point, fault, victim)
    for point in POINTS
    for fault in Fault
    if makes_sense(point, fault)
    for victim in victims(point)
]

"""`levelq rebuild`: restore what Redis lost of the outbox, and remove what cannot be read."""

from __future__ import annotations

from .options import OfCatalog
from .screen import print_line


def rebuild(specialization: OfCatalog = None) -> None:
    """Restore to the lanes what Redis lost of the outbox.

    Workers do this by themselves when Redis has lost everything; this is for when it lost a part. It takes the
    relay's lease, waits until no lane is claimed, restores the undecided commands of each lane that lacks the first of
    them to its head, in order, and unblocks claims. Safe at any time, also twice: a command that is in a lane twice is
    applied once. The relay pushes what a lane lost behind that first command, once the lane is empty.

    Before that it removes what cannot be read from levelq's keys, and names it.
    """
    from levelq_worker.relay.rebuild import Rebuild

    from .connections import database_of, known_specializations, lanes_of, load, redis_of

    settings = load()
    names = known_specializations(settings, specialization or [])
    with database_of(settings) as engine, lanes_of(settings) as lanes, redis_of(settings, rq=True) as rq:
        Rebuild(engine, lanes, rq, settings).run(names, lambda step: print_line(f"  {step}"))

"""`levelq worker` whose claim.lua and ack.lua note each claim and acknowledgement in a stream, in the step itself.

So the checker's I8 gets them in the server's own order, whatever happens to the worker between the reply and
the next line. python -m tests.chaos.traced_worker PROCESSES SPECIALIZATION...
"""

import logging
import sys
from functools import cache
from hashlib import sha1
from typing import Any

from redis import Redis

from levelq_core import Settings
from levelq_core.keys import Partition
from levelq_core.lanes import script_files
from levelq_core.lanes.script_files import Script
from levelq_core.operations.verify import Recorder
from levelq_worker.process import supervisor as supervising
from tests.support.fixtures.keys import KEYS

# Where the notes go into the scripts: before these lines.
_NOTES = {
    "claim": (
        "local retired = 0\n",
        "local taken = {}\n"
        "for i = 1, #lanes, 2 do taken[#taken + 1] = lanes[i] end\n"
        "if #taken > 0 then\n"
        "  redis.call('XADD', tag .. 'notes', '*', 'claim', token, 'lanes', table.concat(taken, ' '))\n"
        "end\n",
    ),
    "ack": (
        "return removed",
        "redis.call('XADD', tag .. 'notes', '*', 'ack', token, 'lanes', table.concat(users, ' '),\n"
        "  'removed', table.concat(removed, ' '))\n",
    ),
}
MODULE = "tests.chaos.traced_worker"
_load = script_files.load


@cache
def noting(name: str) -> Script:
    """script_files.load, with the notes."""
    script = _load(name)
    if name not in _NOTES:
        return script
    line, note = _NOTES[name]
    before, found, after = script.text.rpartition(line)
    assert found, name
    text = before + note + line + after
    return Script(text, sha1(text.encode()).hexdigest())


def record(redis: Redis, partitions: list[Partition], recorder: Recorder) -> int:
    """Move the notes into a history, in their order; returns how many there were."""
    count = 0
    for partition in partitions:
        notes: Any = redis.xrange(KEYS.of(partition, "notes"))
        for _, fields in notes:
            count += 1
            users = fields[b"lanes"].split()
            if b"claim" in fields:
                recorder.claimed(partition, fields[b"claim"].decode(), users)
            else:
                recorder.acknowledged(
                    partition, fields[b"ack"].decode(), users, [int(n) for n in fields[b"removed"].split()]
                )
        redis.delete(KEYS.of(partition, "notes"))
    return count


def main() -> int:
    script_files.load = noting
    processes, *specializations = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    return supervising.Supervisor(Settings.load(), int(processes), specializations, burst=False).run()


if __name__ == "__main__":
    sys.exit(main())

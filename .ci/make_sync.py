"""Write the modules for threads from those for asyncio: without `async` and `await`, and with the names below.

`make sync` writes them. `make check` runs this with --check, and fails where a file is not current.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    "core/levelq_core/lanes/async_producer_lanes.py": "core/levelq_core/lanes/producer_lanes.py",
    "producer/levelq_producer/async_applied.py": "producer/levelq_producer/applied.py",
    "levelq/testing/async_local.py": "levelq/testing/local.py",
    "producer/levelq_producer/async_command_methods.py": "producer/levelq_producer/command_methods.py",
    "producer/levelq_producer/async_handles.py": "producer/levelq_producer/handles.py",
    "producer/levelq_producer/async_lookup.py": "producer/levelq_producer/lookup.py",
    "producer/levelq_producer/async_producer.py": "producer/levelq_producer/producer.py",
    "producer/levelq_producer/async_reply_reader.py": "producer/levelq_producer/reply_reader.py",
}
NAMES = {
    # levelq's own: the class or module for threads that has the same methods
    "AsyncAppliedWaits": "AppliedWaits",
    "AsyncConnections": "Connections",
    "AsyncCommandMethods": "CommandMethods",
    "AsyncHandle": "Handle",
    "AsyncLocalHandle": "LocalHandle",
    "AsyncLocalProducer": "LocalProducer",
    "AsyncProducer": "Producer",
    "AsyncProducerLanes": "ProducerLanes",
    "AsyncReplyReader": "ReplyReader",
    "AsyncScriptCaller": "ScriptCaller",
    "LoopConnections": "ProcessConnections",
    "LoopTurns": "Turns",
    "async_applied": "applied",
    "async_command_methods": "command_methods",
    "async_handles": "handles",
    "async_lookup": "lookup",
    "async_producer_lanes": "producer_lanes",
    "connect_async": "connect",
    "event_loops": "threads",
    "wait_in_loop": "wait_in_thread",
    # the Redis client
    "AsyncNodePool": "NodePool",
    "AsyncNodePools": "NodePools",
    "AsyncRedis": "Redis",
    # Python's
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
}
EXPRESSIONS = {"asyncio.sleep": "time.sleep", "asyncio.Event": "threading.Event", '"_writer"': '"_sock"'}
IMPORTS = {
    "from redis.asyncio import Redis as AsyncRedis": "from redis import Redis",
    "from levelq_core.redis_client.async_pool import AsyncNodePool, AsyncNodePools": (
        "from levelq_core.redis_client.node_pools import NodePools\nfrom levelq_core.redis_client.pool import NodePool"
    ),
    "from levelq_core.redis_client.async_pool import AsyncNodePool\n": (
        "from levelq_core.redis_client.pool import NodePool\n"
    ),
    "import asyncio\n": "import threading\nimport time\n",
    "from collections.abc import Generator\n": "",
}
# What docstrings and comments say of asyncio, and what they say of threads instead.
PHRASES = {
    "The producer for asyncio:": "The producer:",
    "for all event loops of a process.": "for all threads of a process, and for those it forks.",
    "    Connections belong to the loop that runs: another loop has its own, and a loop's are closed when it ends."
    "\n": "",
    "Close the connections of the running loop, and have other loops close theirs.": (
        "Close the connections of this process."
    ),
    "\n        Other tasks run in between: the loop is held for some milliseconds at a time. Of 2,000 commands or more,"
    "\n        Python's garbage collector makes no full collections in this process until the call returns.\n": "",
    "how a task that sent": "how code that sent",
    "every field of the command typed, for asyncio.": "every field of the command typed.",
    "and `.result()`, on any event loop.": "and `.result()`.",
    "Any number of tasks may": "Any number of threads may",
    "Read-your-writes, for asyncio:": "Read-your-writes:",
    "for all tasks of an event loop that wait": "for all threads of a process that wait",
    "Each task that waits": "Each thread that waits",
    "part of the protocol, for asyncio: push": "part of the protocol: push",
    "A producer for asyncio that reaches": "A producer that reaches",
    "Call a function; on asyncio, a subclass may run it where its session allows that.": "Call a function.",
}
LEFT_OUT = ["__await__"]  # methods that only asyncio has


def main() -> int:
    """Write the files, or with --check name those that are not current."""
    check = "--check" in sys.argv[1:]
    stale = []
    for source, target in MODULES.items():
        made = synchronous(source, target)
        path = ROOT / target
        if not path.exists() or path.read_text() != made:
            stale.append(target)
            if not check:
                path.write_text(made)
    for target in stale:
        print(f"{target}: {'not current, run make sync' if check else 'written'}")  # noqa: T201
    return int(check and bool(stale))


def synchronous(source: str, target: str) -> str:
    """The module for threads, as a file's text."""
    text = (ROOT / source).read_text()
    for asynchronous, other in {**IMPORTS, **PHRASES}.items():
        text = text.replace(asynchronous, other)
    for asynchronous, other in EXPRESSIONS.items():
        text = text.replace(asynchronous, other)
    for method in LEFT_OUT:
        text = re.sub(rf"    def {method}\(.*\n(?:        .*\n)+\n", "", text)
    text = re.sub(r"\b(?:async|await) ", "", text)
    text = re.sub(r"\w+", lambda word: NAMES.get(word[0], word[0]), text)
    header = f"# Generated from {Path(source).name} by `make sync`: do not edit.\n"
    return formatted(header + text, target)


def formatted(text: str, target: str) -> str:
    """The text without imports that nothing uses, sorted and laid out by ruff."""
    ruff = [sys.executable, "-m", "ruff"]
    where = ["--stdin-filename", str(ROOT / target), "-"]
    for command in (["check", "--quiet", "--select", "I,F401,W291", "--fix"], ["format", "--quiet"]):
        text = subprocess.run(  # noqa: S603 - our own arguments
            [*ruff, *command, *where], input=text, capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    return text


if __name__ == "__main__":
    sys.exit(main())

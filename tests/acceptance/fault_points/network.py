"""Where a scenario runs, and the victim's way to the servers there."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.lanes.script_files import load
from tests.acceptance.fault_points.scenarios import LOSSES, Scenario
from tests.chaos.traced_worker import noting
from tests.support.fixtures.proxy import Proxy, Trap


class Site(NamedTuple):
    """Where a scenario may run: a database and a number of Redis's that are its alone meanwhile, and the servers."""

    settings: Settings
    servers: Servers


class Network:
    """Direct; or, where a message must be lost, through a proxy: a COMMIT to the database, a script's call to Redis."""

    def __init__(self, scenario: Scenario, site: Site) -> None:
        self._scenario = scenario
        self._settings = site.settings.model_copy(update={"claim_seconds": scenario.claim_seconds})
        self._step = scenario.point.partition(" ")[0]
        server = ".s.PGSQL.5432" if self._step == "commit" else "valkey.sock"
        self._proxy = Proxy(str(site.servers.sockets / server))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._proxy)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def direct(self) -> Settings:
        """The settings of who is no victim."""
        return self._settings

    @property
    def victims(self) -> Settings:
        """The victim's settings. Its wake-ups go another way, so that nothing else is lost."""
        if self._scenario.fault not in LOSSES:
            return self._settings
        host = f"127.0.0.1:{self._proxy.port}"
        if self._step == "commit":
            database = urlsplit(self._settings.database_url or "").path
            urls = {"database_url": f"postgresql://postgres@{host}{database}"}
        else:
            number = self._settings.redis_url.rpartition("=")[2]
            urls = {"redis_url": f"redis://{host}/{number}", "rq_url": self._settings.redis_url}
        return self._settings.model_copy(update=urls)

    def trap(self) -> Trap:
        """Lose the next message of the kind that the scenario names."""
        if self._step == "commit":
            return self._proxy.trap(self._scenario.loss, b"COMMIT\0", of=b"levelq worker")
        script = load("push") if self._step == "push" else noting(self._step)
        return self._proxy.trap(self._scenario.loss, script.sha.encode())

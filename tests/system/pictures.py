"""The pictures of the console in docs/images: `make pictures` takes them again, of a system that is made for it.

They show invented users, hosts and logins.
"""

import io
import socket
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from redis import Redis
from rq import Queue, Worker
from rq.serializers import JSONSerializer
from sqlalchemy import Engine

from levelq import LevelUp
from levelq.console.access.login_file import append, new_login
from levelq.embedded import Servers
from levelq.server_account import temporary_folder
from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.lanes.worker_reports import WorkerReport, read
from levelq_worker.reporter import Reporter
from tests.support.console import Site, served
from tests.support.console_scene import (
    applied,
    chart,
    drift,
    keep_waiting,
    post_as,
    post_others,
    quarantine,
    rejected_with,
    steer,
)
from tests.support.isolation import apply
from tests.support.redrive import NO_PLAYER
from tests.support.system import System
from tests.system.browser import Browser, chromium

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 150_000
COLOURS = 256  # of a picture: it looks the same, and the file is a third


class Picture(NamedTuple):
    """Of one page. `size`: of the window. `scale`: device pixels for each. `scheme`: light or dark."""

    name: str
    address: str
    size: tuple[int, int]
    scheme: str = "light"
    scale: float = 1.0


PICTURES = (
    Picture("overview", "/", (1280, 1080)),
    Picture("partition", "/partitions/PLAYER:1:0", (1280, 1000)),
    Picture("user", "/users/9", (1280, 760)),
    Picture("rejected", "/rejected", (1280, 820)),
    Picture("confirmation", "/act/retry-rejected?all=yes", (1280, 560)),
    Picture("drift", "/drift", (1280, 760)),
    Picture("workers", "/workers", (1280, 620)),
    Picture("dark", "/users/7", (1280, 760), scheme="dark"),
    Picture("phone", "/users/42", (390, 844), scale=2.0),
)


def take(browser: Browser, site: Site, picture: Picture) -> None:
    browser.emulate("setScrollbarsHidden", hidden=True)
    browser.size(picture.size, scale=picture.scale)
    browser.scheme(picture.scheme)
    browser.visit(f"{site.url}{picture.address}")
    taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    image = Image.open(io.BytesIO(b64decode(taken["data"]))).convert("RGB")
    path = IMAGES / f"console-{picture.name}.png"
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    written = path.stat().st_size
    assert written < MOST_BYTES, f"{path.name}: expected less than {MOST_BYTES:,} bytes, got {written:,}"
    print(f"{path.name}: {written:,} bytes")


def shown(system: System) -> WorkerReport:
    """Make what the pictures show; the report of a worker that did it."""
    reporter = Reporter(system.worker, list(system.settings.tracks))
    applied(system)
    reporter.post()
    (report,) = read(system.redis, system.settings.keys)
    reporter.stop()
    hours = [LevelUp(user_id=user, specialization="COACH", theory_hours=2) for user in (215, 231, 307)]
    apply(system.engine, hours, catalog=NO_PLAYER)
    rejected_with(system, [f"Match {number}" for number in range(980, 988)])
    quarantine(system, [], [b'{"user": 61, "xp": 150}'])
    drift(system)
    steer(system, ["anna", "ben"], ["The licenses are being imported", "Account under review, ticket 4711"])
    keep_waiting(system)
    chart(system)
    for name in ("web1:41", "web2:311", "web2:312"):
        register(system, name)
    return report


def register(system: System, name: str) -> None:
    keys, redis = system.settings.keys, system.redis
    queues = [Queue(keys.queue(track), connection=redis, serializer=JSONSerializer) for track in system.settings.tracks]
    Worker(queues, connection=redis, name=name, serializer=JSONSerializer).register_birth()  # type: ignore[no-untyped-call]


def post(system: System, report: WorkerReport) -> None:
    """Have the workers report now: those of two hosts, of which one is silent."""
    seconds, _ = system.redis.time()
    now = report.model_copy(update={"posted_ms": 1000 * seconds, "progress_ms": 1000 * seconds})
    system.redis.delete(system.settings.keys.workers)
    post_as(system, now, 41, host="web1", name="web1:41")
    post_others(system, now)


@contextmanager
def console(folder: Path) -> Iterator[tuple[Site, System, str]]:
    """It, what it shows, and the token of anna, an operator."""
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(folder / "servers"))
        token, line = new_login("anna", "operator")
        append(folder / "logins", line)
        settings = Settings.load(redis_url=servers.valkey.url, database_url=servers.postgres.url)
        engine: Engine = engine_for(settings)
        stack.callback(engine.dispose)
        upgrade(engine)
        redis = stack.enter_context(Redis.from_url(servers.valkey.url))
        system = stack.enter_context(System(settings, redis, engine))
        site = stack.enter_context(served(settings.model_copy(update={"console_logins": folder / "logins"})))
        yield site, system, token


def main() -> None:
    socket.gethostname = lambda: "web1"  # not the name of the machine where they are taken
    with (
        temporary_folder("levelq-pictures-") as folder,
        console(folder) as (site, system, token),
        chromium(folder / "chromium") as browser,
    ):
        report = shown(system)
        post(system, report)
        browser.visit(f"{site.url}/")
        browser.press(token)
        browser.follow()
        for picture in PICTURES:
            post(system, report)
            site.console.forget()  # what it read before that
            take(browser, site, picture)


if __name__ == "__main__":
    main()

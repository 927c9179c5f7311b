"""Valkey killed, cut short, full, replaced by an older copy: its losses are reported, all else is applied."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from levelq.embedded import Servers
from levelq.server_account import temporary_folder
from levelq_core.operations.verify import Report
from tests.acceptance.servers.kit.scene import Scene, lost
from tests.acceptance.servers.kit.site import Site
from tests.acceptance.servers.kit.traffic import OUTBOX_USERS
from tests.support.fixtures.ports import free_port
from tests.support.fixtures.proxy import Proxy
from tests.support.fixtures.waiting import until

EVERYSEC_SECONDS = 2.0  # what a crash may cost then


@contextmanager
def own_site() -> Iterator[Site]:
    with temporary_folder("levelq-faults-") as folder:
        yield Site(folder)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with own_site() as made, made:
        yield made


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_a_killed_valkey_loses_at_most_what_its_log_had_not_got(site: Site, appendfsync: str) -> None:
    site.servers.valkey.stop()
    site.servers.valkey.options = ("--appendfsync", appendfsync)
    site.servers.valkey.start()
    with site.scene() as scene:
        with scene.fault(f"Valkey killed, appendfsync {appendfsync}"):
            killed = time.time()
            site.servers.valkey.kill()
            scene.traffic.fails("QueueUnavailable", "SendUnknown")
            scene.says("Redis")
            assert scene.traffic.was_told(f"LEVELQ_REDIS_URL {site.settings.redis_url}: ")
            assert f"LEVELQ_REDIS_URL: {site.settings.redis_url}: " in site.problems()
            site.servers.valkey.start()
        with scene.fault(f"Valkey restarted, appendfsync {appendfsync}"):
            site.servers.valkey.stop()
            scene.traffic.fails("QueueUnavailable", "SendUnknown")
            site.servers.valkey.start()
        report = scene.finish()
    missing = missing_at(scene, report)
    assert all(at >= killed - EVERYSEC_SECONDS for at in missing)
    assert appendfsync == "everysec" or not missing
    # What a drain had in hand and Redis lost may be applied after what followed it, see relaying.py.
    assert report.broken <= ({"I1", "I5"} if missing else set())


def missing_at(scene: Scene, report: Report) -> list[float]:
    """When the commands that are lost were acknowledged; none is of the outbox."""
    assert not {violation.user_id for violation in lost(report)} & set(OUTBOX_USERS)
    acknowledged_at = scene.acknowledged_at()
    return [acknowledged_at[violation.command_id] for violation in lost(report) if violation.command_id]


def test_a_power_cut_costs_only_what_came_last_and_it_is_told(site: Site) -> None:
    with site.scene() as scene:
        spans = [power_cut(scene, "between entries", 0), power_cut(scene, "within an entry", 17)]
        report = scene.finish()
    assert report.broken == {"I1"}
    missing = missing_at(scene, report)
    costs = [[at for at in missing if began <= at <= ended] for began, ended in spans]
    assert all(costs) and sum(map(len, costs)) == len(missing)


def power_cut(scene: Scene, where: str, beyond: int) -> tuple[float, float]:
    """Cut off what the log got last; from when to when that was acknowledged."""
    valkey = scene.site.servers.valkey
    with scene.fault(f"power cut of Valkey, its log ends {where}", lines=30), frozen(scene):
        until(lambda: not scene.site.redis.info("persistence")["aof_buffer_length"], what="the log to be written")
        log = next((valkey.folder / "appendonlydir").glob("*.incr.aof"))
        began, kept = time.time(), log.stat().st_size
        scene.traffic.flows(60)
        valkey.kill()
        os.truncate(log, kept + beyond)
        valkey.start()
        return began, time.time()


@contextmanager
def frozen(scene: Scene) -> Iterator[None]:
    """The workers stand still: they have nothing in hand that comes later."""
    scene.signal(signal.SIGSTOP)
    yield
    scene.signal(signal.SIGCONT)


def test_a_full_valkey_refuses_pushes_and_is_drained(site: Site) -> None:
    with site.scene() as scene:
        with scene.fault("Valkey out of memory", lines=60):
            site.redis.config_set("maxmemory", site.redis.info("memory")["used_memory"] + 1024)
            scene.traffic.fails("QueueUnavailable")
            assert scene.traffic.was_told("refused, nothing was queued: command not allowed when used memory")
            words = r"Redis refuses pushes: command not allowed when used memory.*; to end it: CONFIG SET maxmemory \d+"
            until(lambda: re.search(words, site.problems()) is not None)
            until(lambda: not site.waiting(), what="the backlog to drain")
            site.redis.config_set("maxmemory", 0)
        assert scene.finish().broken == set()
    assert site.problems() == ""


def test_without_rqs_redis_the_lanes_are_drained(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_folder("levelq-rq-") as folder:
        rq = Servers(folder)
        with rq.valkey:
            monkeypatch.setattr(site, "settings", site.settings.model_copy(update={"rq_url": rq.valkey.url}))
            with site.scene() as scene:
                with scene.fault("RQ's Redis killed"):
                    rq.valkey.kill()
                    scene.says("working without wake-ups")
                    scene.flows()
                    scene.flows()
                    rq.valkey.start()
                rq.valkey.kill()
                assert scene.finish().broken == set()
        rq.__exit__()


def test_an_older_replica_promoted_doubles_and_disorders_nothing() -> None:
    with own_site() as site, temporary_folder("levelq-replica-") as folder:
        port = free_port()
        site.servers.valkey.options = ("--port", str(port), "--bind", "127.0.0.1")
        second = Servers(folder)
        second.valkey.options = ("--replicaof", f"127.0.0.1 {port}")
        with site, second.valkey, Redis.from_url(second.valkey.url) as replica, Proxy(socket_of(site.servers)) as proxy:
            site.redis = Redis(port=proxy.port)
            site.settings = site.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{proxy.port}/0"})
            with site.scene() as scene:
                with scene.fault("an older replica promoted", lines=30), frozen(scene):
                    since = time.time()
                    sent = site.redis.info("replication")["master_repl_offset"]
                    until(lambda: replica.info("replication")["slave_repl_offset"] >= sent, what="the replica")
                    replica.replicaof("NO", "ONE")
                    scene.traffic.flows(60)
                    site.servers.valkey.kill()
                    proxy.lead_to(socket_of(second))
                report = scene.finish()
        second.__exit__()
        missing = missing_at(scene, report)
        assert missing and min(missing) >= since
        assert report.broken == {"I1"}


def socket_of(servers: Servers) -> str:
    return str(servers.sockets / "valkey.sock")

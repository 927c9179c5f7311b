"""Drift, audit and settings in the console."""

import json
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import httpx
import pytest

from levelq_core import Settings
from levelq_core.lanes import drift_report
from levelq_core.lanes.namespace_binding import bind
from levelq_core.operations.audit import account, record, user_target
from levelq_core.operations.enforcement import enforce
from levelq_core.operations.identity import identity_of
from levelq_worker.auditor import Auditor
from tests.support.console import Page, Site, act, assert_escaped, served
from tests.support.fixtures.command_line import NOWHERE, SECRET
from tests.support.hostile import HTML, TEXTS
from tests.support.system import System, up

DRIFT = "UPDATE user_licenses SET current_level = 3 WHERE user_id = 7"
REPAIR = "UPDATE user_licenses SET current_level = 1 WHERE user_id = 7"


@pytest.fixture
def auditor(settings: Settings) -> Iterator[Auditor]:
    """A worker's auditor, not started."""
    made = Auditor(settings)
    yield made
    made.stop()


def test_pair_out_of_step_is_found_repaired_and_audited_again(
    system: System, client: httpx.Client, auditor: Auditor
) -> None:
    assert "No audit has ended yet" in client.get("/drift").text
    system.push(up(7), up(8))
    system.drain()
    system.sql(DRIFT)
    auditor.audit()
    page = client.get("/drift?part=drift_part")
    hrefs = [element.attributes["href"] for element in Page(page.text).named("a")]
    assert "1 pair out of step" in page.text and "/act/sync?user=7&specialization=PLAYER" in hrefs
    assert "1 pair of 2 out of step" in client.get("/act/sync-all").text
    system.sql(REPAIR)
    page = client.get("/drift")
    assert "in step at 1" in page.text and not any(
        "/act/sync?" in element.attributes["href"] for element in Page(page.text).named("a")
    )
    assert auditor.audit() is None  # the next one is due in an hour
    assert "compared 2 pairs" in client.get("/act/audit-drift").text
    assert drift_report.read(system.redis, system.settings.keys) is not None
    assert act(client, "/act/audit-drift").status_code == 200
    assert system.rows("SELECT actor, action FROM levelq_audit") == [(f"{account()} as postgres", "drift audit")]
    auditor.audit()
    assert "Every pair of levels was in step" in client.get("/drift").text


def test_all_pairs_are_repaired_by_the_login_and_audited_again(
    system: System, client: httpx.Client, auditor: Auditor
) -> None:
    assert "An audit must end first" in client.get("/act/sync-all").text
    system.push(up(7), up(8))
    system.drain()
    system.sql(DRIFT)
    auditor.audit()
    assert "/act/sync-all" in client.get("/drift").text
    assert "1 pair repaired" in act(client, "/act/sync-all").text
    assert system.rows("SELECT current_level FROM specialization_progress WHERE student_id = 7") == [(3,)]
    assert system.rows("SELECT actor, action, target FROM levelq_audit") == [
        (f"{account()} as postgres", "sync", "everything")
    ]
    auditor.audit()
    assert "Every pair of levels was in step" in client.get("/drift").text
    assert "found every pair in step" in client.get("/act/sync-all").text


def test_enforcement_is_shown(system: System, client: httpx.Client) -> None:
    assert "levelq db enforce" in client.get("/drift").text and "--off" not in client.get("/drift").text
    enforce(system.engine)
    assert "levelq db enforce --off" in client.get("/drift").text


def test_acts_are_filtered_and_every_one_is_on_one_page(system: System, client: httpx.Client) -> None:
    with system.engine.begin() as connection:
        for number in range(60):
            record(connection, "rejected retry", user_target(number % 2 + 1), {"n": number}, actor=f"ann {number}.")
        record(connection, "pause", "PLAYER", {"for_seconds": 60}, actor="bob")
    first = client.get("/audit?action=rejected&since=1h")
    older = next(e.attributes["href"] for e in Page(first.text).named("a") if e.attributes.get("rel") == "next")
    shown = first.text + client.get(older).text
    assert [shown.count(f">ann {number}. as") for number in range(60)] == [1] * 60 and "bob" not in shown
    assert first.text.index("ann 59.") < first.text.index("ann 58.")
    of_one = client.get("/audit?user=2").text
    assert "ann 1." in of_one and "ann 0." not in of_one and "user 1<" not in of_one
    assert "for_seconds 60" in client.get("/audit?action=pause").text


def test_text_of_others_is_escaped(system: System, client: httpx.Client) -> None:
    texts = [text.replace("\0", "") for text in (*TEXTS.values(), *HTML.values())]
    with system.engine.begin() as connection:
        for text in texts:
            record(connection, text, text, {text: text}, actor=text)
    assert_escaped(client.get("/audit").text, *texts)
    for text in texts:
        pair = drift_report.DriftedPair(1, text, 2, None, text)
        report = drift_report.DriftReport(1, 2, 3, 1, 0, 1, 0, text, (pair,))
        system.redis.hset(system.settings.keys.drift, "report", report.encode())
        assert_escaped(client.get("/drift").text, text)


def test_audit_of_the_workers_of_another_database_is_not_asked_for(
    system: System, client: httpx.Client, auditor: Auditor
) -> None:
    auditor.audit()
    with system.engine.connect() as connection:
        mine = identity_of(connection)
    system.redis.delete(system.settings.keys.database)
    bind(system.lanes, replace(mine, identity=UUID(int=7)))
    refused = act(client, "/act/audit-drift")
    assert refused.status_code == 400 and "is bound to the database" in refused.text
    assert drift_report.read(system.redis, system.settings.keys) is not None
    assert system.rows("SELECT action FROM levelq_audit") == []


def test_hostile_name_of_the_bound_database_is_shown_as_text(system: System, client: httpx.Client) -> None:
    named = dict.fromkeys(("system", "name", "server"), f"{HTML['element']}\ud800\x1b")
    system.redis.set(system.settings.keys.database, json.dumps({"identity": str(UUID(int=7)), "oid": 7} | named))
    for path in ("/", "/settings"):
        page = client.get(path)
        assert page.status_code == 200
        assert_escaped(page.text, f"{HTML['element']}")


def test_settings_show_what_is_in_force_and_no_password(settings: Settings, system: System) -> None:
    assert settings.database_url is not None
    changes = {"database_url": settings.database_url.replace("//postgres@", f"//postgres:{SECRET}@"), "shards": 1234}
    with system.engine.connect() as connection:
        bind(system.lanes, identity_of(connection))
    with served(settings.model_copy(update=changes)) as site:
        page = site.client.get("/settings")
    text = Page(page.text).text
    assert SECRET not in page.text and "postgres:***@" in text
    assert all(f"LEVELQ_{name.upper()}" in text for name in Settings.model_fields)
    assert "1,234" in text and "this database" in text and "Valkey" in text
    assert_escaped(page.text)


def test_page_says_which_server_is_away(settings: Settings, site: Site) -> None:
    nowhere = {
        "LEVELQ_DATABASE_URL": {"database_url": f"postgresql://ann:{SECRET}@{NOWHERE}/app"},
        "LEVELQ_REDIS_URL": {"redis_url": f"redis://:{SECRET}@{NOWHERE}/0"},
    }
    for name, change in nowhere.items():
        with served(settings.model_copy(update=change)) as away:
            of_database = ("/rejected", "/quarantined", "/audit") if name == "LEVELQ_DATABASE_URL" else ()
            for url in (*of_database, "/drift", "/settings"):
                page = away.client.get(url)
                assert page.status_code == 200 and f"{name}: " in page.text and SECRET not in page.text, url
            answer = away.client.get("/act/retry-rejected?all=yes")
            assert answer.status_code == 503 and name in answer.text and SECRET not in answer.text

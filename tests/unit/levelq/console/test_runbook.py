"""The runbook as a page, and which section helps with which problem."""

from pathlib import Path

import pytest

from levelq.console.runbook import _SECTIONS, help_for, runbook
from tests.support.console import Page

PAGE = Page(str(runbook()))
IDS = {element.attributes["id"] for element in PAGE.named("h2", "h3")}


def test_every_section_that_helps_is_on_the_page() -> None:
    assert {section.lower() for _, section in _SECTIONS} <= IDS


def test_links_within_the_page_lead_to_a_heading_and_others_to_the_documentation() -> None:
    targets = {element.attributes["href"] for element in PAGE.named("a")}
    assert {target[1:] for target in targets if target.startswith("#")} <= IDS
    away = [target for target in targets if not target.startswith(("#", "/"))]
    docs = Path(__file__).parents[4] / "docs"
    for target in away:
        page = target.removeprefix("https://levelq.example/docs/").partition("#")[0]
        assert (docs / page).with_suffix(".md").exists(), target


def test_command_lines_have_the_page_that_shows_the_same_beside_them() -> None:
    targets = {element.attributes["href"] for element in PAGE.named("a")}
    pages = {target for target in targets if target.startswith("/")}
    assert pages == {"/", "/workers", "/quarantined", "/rejected", "/drift", "/audit"}


@pytest.mark.parametrize(
    ("problem", "section"),
    [
        ("INTERNSHIP:1:0: 2 commands waiting and no worker serves it: levelq worker -s INTERNSHIP", "NoWorker"),
        ("Redis refuses pushes: OOM command not allowed when used memory > 'maxmemory'", "RedisRefusesWrites"),
        ("the database is read-only, so nothing can be applied: it is a standby", "DatabaseReadOnly"),
        ("worker a.1 is silent since 2026-01-31 02:58:11 UTC (12 s): it is stopped, dead or cut off", "WorkerSilent"),
        ("PLAYER:1:0: 3 claims ran out and no worker takes them back: its workers are dead", "WorkerSilent"),
        ("batches take 2.1 s, usually 0.020 s for this size (9 commands): the database is slow", "SlowTransactions"),
        ("3 workers waiting for 12 s: relation \"licenses\" does not exist", "WorkersWait"),
        ("2 of 100,000 pairs out of step (progress, license), audited 2026-01-31 02:58:11 UTC", "Drift"),
        ("PLAYER:1:0: 1 lane parked since 2026-01-31 02:58:11 UTC, user 7: refused (SQLSTATE P0001)", "LanesParked"),
        ("workers are suspended by rq suspend: they drain nothing; `rq resume` lets them go on", "Suspended"),
        ("COACH: paused by kim since 2026-01-31 02:58:11 UTC, until resumed; to end it: levelq resume", "Paused"),
        ("LEVELQ_DATABASE_URL: postgresql://x: connection failed: Connection refused", "ServerDown"),
        ("trigger t on public.a may run f() in batches; if it is the cause, switch it off: ...", "SlowTransactions"),
        ("trigger t on public.a may run f() in batches, and refuse them; if it is the cause, ...", "LanesParked"),
    ],
)  # fmt: skip
def test_a_problem_leads_to_its_section(problem: str, section: str) -> None:
    assert help_for(problem) == f"/runbook#levelq{section.lower()}"


def test_an_unknown_problem_leads_to_the_beginning() -> None:
    assert help_for("something else") == "/runbook"

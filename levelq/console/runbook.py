"""The runbook of the documentation as a page of the console, and which of its sections helps with a problem.

The console sends nobody to another host for what to do: in an outage that host may be away, too.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import metadata
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

PAGE = "/runbook"
_PACKAGED = Path(__file__).parent / "runbook.md"  # in a wheel; a checkout has it among the documentation
_IN_CHECKOUT = Path(__file__).parents[2] / "docs" / "how-to" / "runbook.md"
_MEASURED = "\n## Trials"  # how the runbook was tried out: nothing to do there

# By the words of a problem of `levelq status`; the first that fits.
_SECTIONS = (
    (r"Redis refuses pushes|append-only file|appendonly is off|maxmemory-policy", "LevelqRedisRefusesWrites"),
    (r"the database is read-only|SQLSTATE 25006", "LevelqDatabaseReadOnly"),
    (r"no worker serves it", "LevelqNoWorker"),
    (r"suspended by rq suspend", "LevelqSuspended"),
    (r": paused by |more paused: ", "LevelqPaused"),
    (r"^trigger .* in batches, and refuse them;", "LevelqLanesParked"),
    (r"batches take .* usually|^trigger ", "LevelqSlowTransactions"),
    (r"its lane is full|of the commands of", "LevelqLag"),
    (r"to be retried or discarded", "LevelqRejections"),
    (r"is silent since|\) for .* restart it on host|no worker (?:takes them back|drains them)", "LevelqWorkerSilent"),
    (r"out of step \(progress, license\)", "LevelqDrift"),
    (r" waiting for [\d.]+ (?:s|min|h|d): ", "LevelqWorkersWait"),
    (r"lanes? (?:more )?parked|parked lanes?|holds? rows", "LevelqLanesParked"),
    (r"`levelq rebuild` removes it", "LevelqUnreadable"),
    (r"\bLEVELQ_(?:RQ|REDIS|DATABASE)_URL: |server is away", "LevelqServerDown"),
)

# Where a page of the console shows what a command line of the runbook does.
_PAGES = {
    "status": ("/", "Overview"), "top": ("/", "Overview"), "workers": ("/workers", "Workers"),
    "quarantine": ("/quarantined", "Quarantined"), "rejected": ("/rejected", "Rejected"), "check": ("/drift", "Drift"),
    "sync": ("/drift", "Drift"), "audit": ("/audit", "Audit"),
}  # fmt: skip


def help_for(problem: str) -> str:
    """The address of what to do about a problem: its section of the runbook, else the runbook's beginning."""
    found = next((section for words, section in _SECTIONS if re.search(words, problem)), None)
    return PAGE if found is None else f"{PAGE}#{found.lower()}"


@cache
def runbook() -> Markup:
    """The runbook as HTML, without its title. Its headings have ids, and its links lead to the documentation."""
    source = _PACKAGED if _PACKAGED.exists() else _IN_CHECKOUT
    text = source.read_text(encoding="utf-8").partition(_MEASURED)[0].partition("\n")[2]
    reader = MarkdownIt().enable("table")
    tokens = reader.parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(tokens[at + 1].content))
        for child in token.children or ():
            _lead(child)
        if token.children:
            token.children = [part for child in token.children for part in (child, *_page_of(child))]
    html: str = reader.renderer.render(tokens, reader.options, {})
    return Markup(html)  # noqa: S704 - our own documentation


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _lead(token: Token) -> None:
    """Lead a link to another page to where the documentation is published, and one out of the part left out nowhere."""
    target = token.attrGet("href") if token.type == "link_open" else None
    if isinstance(target, str) and not target.startswith(("#", "https://")):
        page = re.sub(r"^\.\./|^(?=\w)", lambda found: "" if found[0] else "how-to/", target)
        token.attrSet("href", f"{_documentation()}/{page.replace('.md', '.html')}")
        token.attrSet("rel", "noreferrer")


def _page_of(token: Token) -> list[Token]:
    """After a command line: a link to the page that does the same, if there is one."""
    verb = token.content.removeprefix("levelq ").partition(" ")[0] if token.type == "code_inline" else ""
    if verb not in _PAGES or not token.content.startswith("levelq "):
        return []
    href, label = _PAGES[verb]
    words = [Token("text", "", 0, content=text) for text in (" (", label, ")")]
    link = Token("link_open", "a", 1, attrs={"href": href})
    return [words[0], link, words[1], Token("link_close", "a", -1), words[2]]


def _documentation() -> str:
    entries: list[str] = metadata("levelq").get_all("Project-URL") or []
    return dict(entry.split(", ", 1) for entry in entries)["Documentation"]

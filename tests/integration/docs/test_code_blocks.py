"""Every code block of README and docs runs as it stands, in order, and prints what its page shows.

A block that cannot run says why: ```sh no-run: needs Docker. A block in an HTML comment runs, too, and readers do not
see it: it makes what an application has already, such as a session or a model. A block that begins with `# name.py`, or
has "save it as `name.py`" above it, is saved, and run by the shell block that names it; a `test_*.py` by pytest.
"""

from pathlib import Path

import pytest

from levelq.embedded import Servers
from levelq_core import Settings
from tests.integration.docs.page_blocks import NOT_CODE, PAGES, ROOT, RUN, blocks_of, differs
from tests.integration.docs.page_runner import SERVERS, PageRunner
from tests.support.fixtures.command_line import LevelqWith

BLOCKS = {page: blocks_of(page) for page in PAGES}
WITH_CODE = [page for page, blocks in BLOCKS.items() if any(block.runs for block in blocks)]


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_a_page_run_and_print_what_it_shows(
    page: Path,
    servers: Servers,
    application_database_url: str,
    server_folder: Path,
    levelq_with: LevelqWith,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = dict(zip(SERVERS, (servers.valkey.url, application_database_url), strict=True)) | {"COLUMNS": "100"}
    levelq = levelq_with(Settings.load(), columns=100)
    levelq.environment = {}  # the page's own, in this process
    monkeypatch.chdir(server_folder)
    with PageRunner(levelq, environment, monkeypatch) as runner:
        for block in BLOCKS[page]:
            if block.runs:
                runner.run(block)
        runner.run_saved_tests()


def test_every_block_runs_or_says_why_not() -> None:
    blocks = [block for blocks in BLOCKS.values() for block in blocks if block.language not in NOT_CODE]
    assert [b.where for b in blocks if b.language not in RUN and not b.refusal] == []
    refused = [block for block in blocks if block.refusal]
    assert [b.where for b in refused if len(b.refusal.split()) < 3] == [], "a reason is a sentence"
    assert len(refused) < len(blocks) / 5


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("queued  01a2292e-e34b-7287-9c59-ac89e5f61912\n", "queued 01a3-...", False),
        ("done after 4.9 s, at 2026-11-29 21:21:18\n", "done after 12 s, at 2027-01-01 00:00:00\n", True),
        ("level 1 -> 2\n", "level 1 -> 3\n", False),
        ("first\n...\nlast\n", "first\na\nb\nlast\n", True),
        ("first\n", "first\nsecond\n", False),
    ],
)
def test_output_is_compared_but_for_ids_and_times(shown: str, printed: str, same: bool) -> None:
    assert (differs(shown, printed) == "") is same

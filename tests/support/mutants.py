"""levelq with one guard removed, for tests that must notice: what changes a script, and a mutant that several need."""

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha1
from typing import Any

import pytest

from levelq_core.coupler import couple as coupler
from levelq_core.coupler import ledger
from levelq_core.lanes import script_files
from levelq_core.lanes.script_files import Script


def rewrite(patch: pytest.MonkeyPatch, name: str, change: Callable[[str], str]) -> None:
    load, text = script_files.load, script_files.load(name).text
    changed = change(text)
    assert changed != text
    mutant = Script(changed, sha1(changed.encode()).hexdigest())
    patch.setattr(script_files, "load", lambda wanted, **how: mutant if wanted == name else load(wanted, **how))


def replace(patch: pytest.MonkeyPatch, name: str, *changes: tuple[str, str]) -> None:
    """Replace parts of a script, each of which it has once."""

    def change(text: str) -> str:
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        return text

    rewrite(patch, name, change)


def counts_twice_what_comes_twice_in_a_batch(patch: pytest.MonkeyPatch) -> None:
    """The fold forgets what it has just decided, and the ledger takes the first of two rows."""

    class Forgetful(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            pass

    def first_rows(rows: Iterable[Any]) -> Iterator[Any]:
        seen = set()
        for lane, record, decision in rows:
            if record.command_id not in seen:
                seen.add(record.command_id)
                yield lane, record, decision

    fold, write = coupler.fold, ledger.write
    patch.setattr(coupler, "fold", lambda database, works, known, *rest: fold(database, works, Forgetful(known), *rest))
    patch.setattr(ledger, "write", lambda cursor, rows, *how, **more: write(cursor, first_rows(rows), *how, **more))

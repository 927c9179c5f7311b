"""For the `env.py` of an application that has its own alembic: keeps levelq's tables out of its autogenerate.

    context.configure(..., include_name=levelq.alembic.include_name)

`levelq db upgrade` makes these tables and knows their versions. This module imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "levelq_"  # of every table that is levelq's alone, the table of its own version among them
COUPLED = frozenset({"specialization_progress", "user_licenses", "license_progressions"})


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Whether autogenerate compares what the database holds under this name: False for levelq's own tables.

    For alembic's option of this name. The three coupled tables are compared: they are the application's, and its
    metadata should have them; else see `include_object`.
    """
    return not (type_ == "table" and name is not None and name.startswith(PREFIX))


def include_object(object_: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """The same for alembic's option `include_object`, where the metadata lacks the coupled tables too.

    False for levelq's own tables, in the database or in the metadata, and for each of the three coupled tables that
    the database has and the metadata lacks: `levelq db upgrade` made it, so the application should not drop it.
    """
    if type_ != "table" or name is None:
        return True
    only_in_database = reflected and compare_to is None
    return not (name.startswith(PREFIX) or (name in COUPLED and only_in_database))

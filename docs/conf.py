"""The documentation site: `make docs` builds it with Sphinx, which imports levelq for the reference."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

from pydantic import BaseModel

from levelq import LaneWorker

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MARKUP = re.compile(r"(`[^`]*`)|[*|\\]|_(?!\w)")  # of reStructuredText, but not inside code

project = "levelq"
version = release = version_of("levelq")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4  # links to headings are checked: a missing one is a warning, and warnings are errors
highlight_language = "none"  # for blocks that name no language: output and drawings
default_role = "code"  # docstrings write names in single backticks
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "levelq"
html_static_path = ["static"]
html_css_files = ["levelq.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def _as_markdown(_app: object, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Docstrings are plain text: `_` and `*` mean themselves, and code is indented, which needs `::` before it."""
    if what == "module":
        lines.clear()
    lines[:] = [
        line if line.startswith("    ") else _MARKUP.sub(lambda found: found[1] or "\\" + found[0], line)
        for line in lines
    ]
    for number in range(len(lines) - 1, 0, -1):
        above = next((line for line in reversed(lines[:number]) if line), "")
        if lines[number].startswith("    ") and not lines[number - 1] and not above.startswith(" "):
            lines[number:number] = ["::", ""]


def _is_inherited_machinery(
    _app: object, _what: str, name: str, value: object, _skip: bool, _opts: object
) -> bool | None:
    """pydantic's configuration, and what LaneWorker overrides of RQ's worker for RQ to call."""
    return True if name == "model_config" or name in vars(LaneWorker) else None


def _fields_as_written(
    _app: object, _what: str, _name: str, value: object, _options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """A model's fields with the types that its source names, where pydantic's signature spells out each bound."""
    if not (isinstance(value, type) and issubclass(value, BaseModel)):
        return None
    written = {
        name: kind for base in reversed(value.__mro__) for name, kind in vars(base).get("__annotations__", {}).items()
    }
    fields = [
        f"{name}: {written[name]}"
        + ("" if field.is_required() else f" = {field.default!r}" if field.default_factory is None else " = ...")
        for name, field in value.model_fields.items()
    ]
    return f"(*, {', '.join(fields)})", returns


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", _as_markdown)
    app.connect("autodoc-process-signature", _fields_as_written)
    app.connect("autodoc-skip-member", _is_inherited_machinery)

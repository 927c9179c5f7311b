"""An HTML page that needs no network: headings, tiles, cards, tables and charts, in the light or dark of its reader.

Every text is escaped, control characters too; what is markup already is `Html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple

from levelq_core.untrusted_text import printable, to_json


class Html(str):
    """A piece of markup."""

    __slots__ = ()


class Cell(NamedTuple):
    """One cell of a table. `style` is a CSS class of the page: n (a number), bad, dim."""

    text: str
    style: str = ""
    columns: int = 1


def page(title: str, parts: Iterable[Html], data: Mapping[str, Any]) -> str:
    """The whole page; `data` stands in it as JSON for programs."""
    template = Template((files(__package__) / "page.html").read_text(encoding="utf-8"))
    embedded = to_json(data).replace("<", "\\u003c")
    return template.substitute(title=escape(printable(title)), body="\n".join(parts), data=embedded)


def element(tag: str, content: str, style: str = "") -> Html:
    """One element; `style` is its CSS class."""
    return Html(f'<{tag} class="{style}">{_html(content)}</{tag}>' if style else f"<{tag}>{_html(content)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Several pieces in a row."""
    return Html("".join(_html(part) for part in parts))


def tiles(values: Mapping[str, str]) -> Html:
    """Large figures, each with its name."""
    shown = [join([element("b", value), element("span", name)]) for name, value in values.items()]
    return element("div", join(element("div", tile, "tile") for tile in shown), "tiles")


def card(heading: str, body: Html, about: str = "") -> Html:
    """A box with a heading and, if it needs one, a sentence about it."""
    about = element("p", about) if about else Html()
    return element("section", join([element("h2", heading), about, body]), "card")


def table(rows: Iterable[Sequence[str | Cell]], head: Sequence[str | Cell] = (), *, main: int = -1) -> Html:
    """A table that scrolls sideways where it must. `main`: the number of the row that stands out."""
    lines = [element("thead", _row(head, tag="th"))] if head else []
    lines += [_row(cells, "main" if number == main else "") for number, cells in enumerate(rows)]
    return element("div", element("table", join(lines)), "scroll")


def facts(pairs: Mapping[str, str]) -> Html:
    """A table of names and values."""
    return table([(Cell(name, "name"), value) for name, value in pairs.items()])


def _row(cells: Iterable[str | Cell], style: str = "", tag: str = "td") -> Html:
    return element("tr", join(_cell(cell, tag) for cell in cells), style)


def _cell(cell: str | Cell, tag: str) -> Html:
    text, style, columns = cell if isinstance(cell, Cell) else Cell(cell)
    attributes = (f' class="{style}"' if style else "") + (f' colspan="{columns}"' if columns > 1 else "")
    return Html(f"<{tag}{attributes}>{_html(text)}</{tag}>")


def _html(content: str) -> str:
    return content if isinstance(content, Html) else escape(printable(content))

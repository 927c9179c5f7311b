"""The harness of the console's tests notices markup that comes from data."""

import pytest

from tests.support.console import Page, assert_escaped
from tests.support.hostile import HTML

GOOD = '<!doctype html><html><head><meta charset="utf-8"><script src="/static/console.js"></script></head><body>{}'


@pytest.mark.parametrize(
    "name", ["element", "end of an attribute", "end of another", "unquoted attribute", "end of the page", "comment"]
)
def test_text_that_is_not_escaped_is_noticed_where_it_acts(name: str) -> None:
    places = ("<p>{}</p>", '<a href="/" title="{}">x</a>', "<a href='/' title='{}'>x</a>", "<a href=/ title={}>x</a>")
    noticed = 0
    for place in places:
        try:
            assert_escaped(GOOD.format(place.format(HTML[name])), shown=False)
        except AssertionError:
            noticed += 1
    assert noticed


@pytest.mark.parametrize(
    "part",
    [
        '<a href="javascript:alert(1)">x</a>', '<a href="//evil.example/x">x</a>', '<form action="https://evil.example">',
        "<style>x</style>", '<p style="color:red">', "<iframe>", '<base href="/">', "<script>alert(1)</script>",
        '<img src="https://evil.example/x">', '<meta http-equiv="refresh" content="0">', "\u202e", "\x00",
    ],
)  # fmt: skip
def test_what_loads_runs_or_hides_is_noticed(part: str) -> None:
    with pytest.raises(AssertionError):
        assert_escaped(GOOD.format(part))


def test_text_that_a_page_does_not_show_is_noticed() -> None:
    with pytest.raises(AssertionError):
        assert_escaped(GOOD.format("<p>x</p>"), "absent")
    assert_escaped(GOOD.format("<p>&lt;b&gt;</p>"), "<b>")


def test_form_is_read_as_a_browser_would_send_it() -> None:
    html = """
        <form method="post" action="/logout"><input name="csrf" value="0"></form>
        <form method="post"><input type="hidden" name="csrf" value="1"><input name="reason" value="&lt;b&gt;">
        <select name="kind"><option value="a">A</option><option value="b" selected>B</option></select></form>
    """
    assert Page(html).form() == {"csrf": "1", "reason": "<b>", "kind": "b"}

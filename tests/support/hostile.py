"""Text that would act on whoever reads it: a terminal, a log, a spreadsheet, a page. One list for all tests.

`assert_safe` is what holds for everything that levelq prints.
"""

from levelq_core.untrusted_text import printable

TEXTS = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear screen": "\x1b[2J\x1b[H",
    "title and clipboard": "\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x1b\\",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "C1": "\x9b31m\x90q\x9c",
    "overprinted": "rejected\rapplied \b\b\b",
    "forged line": "x\n2026-01-31 00:00:00,000 1 ERROR forged",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "right to left": "\u202etxt.exe\u202c \u2066a\u2069",
    "zero width": "ad\u200bmin\ufeff\u2060",
    "tags": "\U000e0041\U000e007f",
    "delete": "\x7f\x7f",
    "formula": "=cmd|' /C calc'!A0",
    "formula after a tab": "\t@SUM(1)",
    "markup": "<script>alert(1)</script><!--<script>",
    "rich markup": "[bold red]fake[/] [link=http://evil.example]x[/link]",
    "format": "%s %(partition)s {0} ${x}",
    "long": "long" * 120,
}
# Text that would be markup, or script, in a page that does not escape it.
HTML = {
    "element": "<img src=x onerror=alert(1)>",
    "end of an attribute": '"><svg onload=alert(1)>',
    "end of another": "' onmouseover='alert(1)",
    "unquoted attribute": "x onfocus=alert(1) autofocus",
    "end of the page": "</title></textarea></select></main></html><script>alert(1)</script>",
    "address": "javascript:alert(1)",
    "address of another host": "//evil.example/x",
    "template": "{{ 7 * 7 }}{% raw %}",
    "escaped already": "&lt;b&gt;&#60;b&#62;&amp;amp;",
    "comment": "--><!-- <b>",
}
RAW = {"invalid UTF-8": b"\xff\xfe\x1b[31m\xc3(", "NUL": b"\x00\x00\x1b]0;owned\x07", "long": b"\x1b[5m" * 2_000}


def assert_safe(printed: str) -> None:
    """Nothing in it acts on a terminal: printable characters, spaces and the ends of lines."""
    assert printed.replace("\n", "").isprintable(), printable(printed)

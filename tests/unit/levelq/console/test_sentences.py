"""Sentences of status as a page shows them: times and commands marked, the rest as text."""

from levelq.console.rendering import in_words, lasting


def test_times_and_commands_in_a_sentence_are_marked_and_the_rest_is_escaped() -> None:
    shown = in_words("<b>x</b> since 2026-01-31 02:58:11 UTC; `levelq resume <A>` ends it")
    utc = "2026-01-31 02:58:11 UTC"
    assert shown == (
        f'&lt;b&gt;x&lt;/b&gt; since <time datetime="2026-01-31T02:58:11+00:00" title="{utc}">{utc}</time>; '
        '<code class="command">levelq resume &lt;A&gt;</code> ends it'
    )


def test_what_only_looks_like_a_time_stays_text() -> None:
    assert in_words("at 2026-13-41 99:99:99 UTC") == "at 2026-13-41 99:99:99 UTC"
    assert in_words("at 2026-02-31 12:00:00 UTC") == "at 2026-02-31 12:00:00 UTC"


def test_durations_have_the_unit_that_a_person_would_choose() -> None:
    shown = [lasting(seconds) for seconds in (None, 0.25, 3.21, 600)]
    assert shown == ["-", "250 ms", "3.2 s", "10.0 min"]

"""The console as it is served: what every answer has."""

from __future__ import annotations

import httpx

from tests.support.console import Page, assert_escaped


def test_the_overview_is_served(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert Page(page.text).named("h1")
    assert_escaped(page.text)

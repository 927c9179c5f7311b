"""Debian's Chromium, driven headless: what a page looks like, what it says to its log, what it asks of whom.

`Browser` is used by keyboard alone. Each page is a list of what must not be: `visit` and `complaints`.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")

CHROMIUM, CHROMEDRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb",
)  # fmt: skip
WIDE, PHONE = (1280, 900), (360, 740)
SECONDS = 30.0  # that a page may take on a busy machine
MOST_TABS = 200
_SCRIPT = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")


class Browser:
    """One browser with one tab."""

    def __init__(self, folder: Path) -> None:
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options=options, service=Service(CHROMEDRIVER))
        self.size(WIDE)

    def close(self) -> None:
        self.driver.quit()

    # What it shows and how

    def emulate(self, command: str, **values: Any) -> None:
        """A command of the DevTools protocol."""
        self.driver.execute_cdp_cmd(f"Emulation.{command}", values)

    def size(self, size: tuple[int, int], *, scale: float = 1.0) -> None:
        """The window's width and height; `scale`: device pixels for each."""
        width, height = size
        self.emulate("setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def scheme(self, name: str) -> None:
        """What the system prefers: light or dark."""
        self.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def visit(self, url: str) -> None:
        self.driver.get(url)
        self.wait(self._ready, url)

    def script(self, text: str, *values: Any) -> Any:
        return self.driver.execute_script(text, *values)

    def wait(self, condition: Callable[[], T], what: str) -> T:
        """The first true value of `condition`."""
        waiting = WebDriverWait(self.driver, SECONDS, 0.05, ignored_exceptions=[StaleElementReferenceException])
        return waiting.until(lambda _: condition(), what)

    def text(self, css: str = "body") -> str:
        """What is to be read there, on one line; empty if it is not there or not shown."""
        found = self.script(
            "const at = document.querySelector(arguments[0]); return at?.checkVisibility() ? at.innerText : ''", css
        )
        return " ".join(str(found).split())

    @property
    def path(self) -> str:
        """Of the page, with its query."""
        found = urlsplit(self.driver.current_url)
        return found.path + (f"?{found.query}" if found.query else "")

    def _ready(self) -> bool:
        return bool(
            self.script("return document.readyState === 'complete' && !document.querySelector('#tools')?.hidden")
        )

    # The keyboard

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def focus(self) -> dict[str, Any]:
        """What has the focus: `name`, `tag`, and whether it shows that it has it and is in sight."""
        found: dict[str, Any] = self.script(f"{_SCRIPT}\nreturn focused();")
        return found

    def tab_to(self, css: str, name: str | None = None) -> None:
        """Go there by the Tab key. Every stop on the way has a name, is in sight, and shows that it has the focus."""
        for at in self.stops():
            if self.script("return document.activeElement.matches(arguments[0])", css) and name in (None, at["name"]):
                return
        raise AssertionError(f"no {css} named {name!r} is reached by Tab: {self.text()}")

    def stops(self) -> Iterator[dict[str, Any]]:
        """Press Tab until the page is left, and see what has the focus after each."""
        for _ in range(MOST_TABS):
            self.press(Keys.TAB)
            at = self.focus()
            if at["tag"] == "body":
                return
            assert at["name"] and at["shown"] and at["ringed"], at
            yield at
        raise AssertionError(f"{MOST_TABS} stops, and no end")

    def follow(self, key: str = Keys.ENTER) -> None:
        """Press a key that leads to another page, and wait for that."""
        self.script("window.isLeft = true")
        self.press(key)
        self.wait(lambda: self.script("return !window.isLeft") and self._ready(), "the next page")

    # What it found

    def faults(self) -> list[str]:
        """What is wrong with how the page is now: headings, names, contrast, width."""
        found: list[str] = self.script(f"{_SCRIPT}\nreturn faults();")
        return found

    def complaints(self, origin: str) -> list[str]:
        """What the log has since the last call, and requests to others than `origin`."""
        said = [f"{entry['level']}: {entry['message']}" for entry in self._log("browser")]
        asked = [urlsplit(url) for url in self._requests()]
        return said + [url.geturl() for url in asked if f"{url.scheme}://{url.netloc}" != origin]

    def _requests(self) -> Iterator[str]:
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]
            elif message["method"] == "Network.webSocketCreated":
                yield message["params"]["url"]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.execute("getLog", {"type": kind})["value"]
        return found

    def clean(self) -> None:
        """As it was when it was new."""
        self.driver.get("about:blank")
        for command in ("Network.clearBrowserCookies", "Network.clearBrowserCache"):
            self.driver.execute_cdp_cmd(command, {})
        self.emulate("setTimezoneOverride", timezoneId="UTC")
        self.size(WIDE)
        self.scheme("light")
        for log in ("browser", "performance"):
            self._log(log)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser that keeps what it writes in this folder."""
    browser = Browser(folder)
    try:
        yield browser
    finally:
        with suppress(OSError):
            browser.close()

"""A real browser: the Chromium that is installed on this machine, which tests do not download."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120  # for each step, on a busy machine


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a browser that reaches nothing but this machine."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-proxy-server", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, url: str, **settings: Any) -> Iterator[Page]:
    """Open a page that may ask only this site, and run only what the site's policy allows.

    :param url: an address of the site
    :param settings: arguments of ``Browser.new_context``, and `cookies` that the browser has from earlier
    """
    asked, complaints, cookies = set(), [], settings.pop("cookies", ())
    view = {"viewport": {"width": 1280, "height": 1400}, "reduced_motion": "reduce", "locale": "en-US"}
    context = browser.new_context(**{**view, **settings})
    context.add_cookies(cookies)
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    page.goto(url)
    yield page
    context.close()
    assert asked - {""} == {urlsplit(url).netloc}
    assert complaints == []


class Keyboard:
    """A person who uses the keyboard only."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def go_to(self, target: Locator) -> Locator:
        """Press the tab key until something has the focus, backwards where that is where it is."""
        target.wait_for()
        for key in ("Tab",) * 60 + ("Shift+Tab",) * 120:
            if target.evaluate("element => element === document.activeElement"):
                return target
            self.page.keyboard.press(key)
        raise AssertionError(f"the keyboard does not reach {target}")

    def press(self, target: Locator, key: str = "Enter") -> None:
        """Press a button, or open a group of the form."""
        self.go_to(target)
        self.page.keyboard.press(key)

    def write(self, target: Locator, text: str) -> None:
        """Write into a field, in place of what it holds."""
        self.go_to(target)
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(text)

    def choose(self, target: Locator, text: str) -> None:
        """Choose from a list by writing the beginning of an entry."""
        self.go_to(target)
        self.page.keyboard.insert_text(text)
        self.page.get_by_role("option").first.wait_for()
        self.page.keyboard.press("Enter")

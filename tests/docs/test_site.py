"""The site that `make docs` has built: nothing in it leads nowhere, or to another host by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import SECONDS, running_browser
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SITE = REPOSITORY / "site"

pytestmark = pytest.mark.skipif(not (SITE / "zh/index.html").exists(), reason="`make docs` has not been run")


class Links(HTMLParser):
    """Collects where a page leads, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.add(named["href"])
        if tag == "link" and named.get("rel") in ("stylesheet", "icon"):
            self.loaded.add(named["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in named:
            self.loaded.add(named["src"])


@cache
def links_of(path: Path) -> Links:
    return Links(path)


def test_no_link_is_dead_and_nothing_is_loaded_from_another_host() -> None:
    dead = set()
    for path in SITE.rglob("*.html"):
        page = links_of(path)
        assert [source for source in page.loaded if urlsplit(source).netloc] == [], path
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in links_of(target).anchors):
                dead.add((path.relative_to(SITE).as_posix(), link))
    assert dead == set()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.mark.parametrize(
    ("name", "words"), [("deploying", "rollback"), ("zh/concepts", "回滚")], ids=["English", "Chinese"]
)
def test_diagrams_and_search_work_without_a_server(browser: Browser, name: str, words: str) -> None:
    path = SITE / f"{name}.html"
    context = browser.new_context()
    asked: list[str] = []
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function(
        # The theme draws each diagram into a shadow root that scripts cannot look into: see how high it is.
        "count => [...document.querySelectorAll('div.mermaid')].filter(one => one.offsetHeight > 50).length === count",
        arg=path.read_text("utf-8").count('class="mermaid"'),
    )
    page.fill(".md-search__input", words)
    page.wait_for_selector(".md-search-result__item", state="attached")
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
    context.close()

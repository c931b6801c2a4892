"""The console in a real browser: keyboard, a live log, a picture that is dropped, language, dark, narrow."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from tests.browser import Keyboard, open_page, running_browser
from tests.emulator.conftest import SERVINGS, Api, mount

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FilePayload, Page, Route

pytestmark = pytest.mark.long

MARKUP = "<img src=x onerror=document.title='hacked'>"
DROP = """(form, [name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(bytes), one => one.charCodeAt(0))], name, {type: "image/png"}));
    for (const type of ["dragover", "drop"]) {
        form.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
    }
}"""
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(api: Api, emulator: Emulator) -> Iterator[str]:
    answer = {"data": {"predictions": [MARKUP], "probabilities": [[0.25, 0.75]]}, "status": {"code": 0}}
    emulator.scripts.add(ScriptedServing(answer=answer))
    name = api.serve("x")
    api.wait_served(name)
    yield name
    api.http.delete(f"{SERVINGS}/{name}")


@pytest.fixture(scope="module")
def job(api: Api, emulator: Emulator) -> Iterator[str]:
    """A job that prints a line whenever the file `go` grows by one, and ends with the word `end`."""
    (emulator.storage / "projects/u/p/outputs/live").mkdir(parents=True)
    command = f"""echo "{MARKUP}"; touch /output/go; tail -f /output/go | sed -u '/end/q'"""
    name = api.submit(command, output=mount("/projects/u/p/outputs/live", "/output"))
    api.until(lambda: api.log(name), lambda log: MARKUP in log)
    yield name
    with (emulator.storage / "projects/u/p/outputs/live/go").open("a") as go:
        go.write("end\n")
    api.wait_job(name)


def is_narrow_enough(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_person_with_a_keyboard(browser: Browser, emulator: Emulator, served: str, job: str) -> None:
    with open_page(browser, emulator.url) as page:
        keyboard = Keyboard(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        keyboard.press(page.get_by_role("link", name=job))
        page.get_by_role("heading", name=job).wait_for()
        page.get_by_text(MARKUP).first.wait_for()

        with (emulator.storage / "projects/u/p/outputs/live/go").open("a") as go:
            go.write("a new line\n")
        page.locator("#log").get_by_text("a new line").wait_for()
        keyboard.go_to(page.locator("#log"))

        keyboard.press(page.get_by_role("link", name="Servings").first)
        keyboard.press(page.get_by_role("link", name=served))
        keyboard.press(page.get_by_role("main").get_by_role("link", name="Enter token"))
        page.locator("input[type=password]:focus").wait_for()
        page.keyboard.type(emulator.token)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name=served).wait_for()
        keyboard.go_to(page.get_by_label("Drop pictures here"))

        page.locator("#ask").evaluate(DROP, ["seven.png", PNG])
        page.get_by_role("img", name="seven.png").wait_for()
        answer = page.locator("#answer")
        assert "75.0 %" in answer.inner_text()
        assert MARKUP in answer.inner_text()
        assert page.evaluate("document.querySelector('[data-preview] img').naturalWidth") == 1

        keyboard.press(page.get_by_role("link", name="Faults"))
        keyboard.press(page.get_by_role("button", name="Set", exact=True))
        keyboard.press(page.get_by_role("button", name="Remove fault"))
        page.get_by_text("No fault is in force").wait_for()
        keyboard.press(page.get_by_role("button", name="End session"))
        page.get_by_role("link", name="Enter token").wait_for()
        assert "hacked" not in page.title()


@pytest.mark.parametrize("javascript", [True, False], ids=["script", "no script"])
def test_chinese_dark_and_narrow(browser: Browser, emulator: Emulator, served: str, job: str, javascript: bool) -> None:
    settings = {"locale": "zh-CN", "color_scheme": "dark", "viewport": {"width": 340, "height": 700}}
    with open_page(browser, f"{emulator.console_url}/jobs", java_script_enabled=javascript, **settings) as page:
        paths = [f"jobs/bita-user/{job}", f"servings/inference/{served}", "models", "capacity", "faults", "session"]
        for path in ("jobs", *paths):
            page.goto(f"{emulator.console_url}/{path}")
            assert is_narrow_enough(page), path
            assert page.locator("html").get_attribute("lang") == "zh-CN"[:2]
        page.get_by_label("模拟器的令牌").fill(emulator.token)
        page.get_by_role("button", name="继续").click()
        page.goto(f"{emulator.console_url}/{paths[1]}")
        picture: FilePayload = {"name": "七.png", "mimeType": "image/png", "buffer": base64.b64decode(PNG)}
        page.get_by_label("将图片拖到这里").set_input_files(picture)
        page.get_by_role("button", name="提问").click()
        page.get_by_text("75.0 %").wait_for()
        assert is_narrow_enough(page)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_a_live_page_says_when_it_is_not(browser: Browser, tmp_path: Path) -> None:
    with Emulator(tmp_path, token_for_reading=True) as emulator, open_page(browser, emulator.console_url) as page:
        page.get_by_label("The emulator's token").fill(emulator.token)
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("heading", name="Jobs").wait_for()

        troubles = iter(["a proxy's answer", "no answer"])

        def meet(route: Route) -> None:
            trouble = next(troubles, "")
            if trouble == "no answer":
                route.abort()
            elif trouble:
                route.fulfill(status=502, body="<h1>Bad gateway</h1>")
            else:
                route.continue_()

        page.route("**/jobs*", meet)
        page.get_by_text("This page is not up to date").wait_for()
        page.get_by_text("The server answers again").wait_for()
        assert next(troubles, None) is None
        page.get_by_text("The server answers again").wait_for(state="hidden")
        page.context.clear_cookies()
        page.get_by_text("your session has ended").wait_for()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(5000)
        assert asked == []

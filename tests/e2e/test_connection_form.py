"""The connection form in Airflow's UI: filled in by keyboard in a real browser, saved, tested and opened again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from airflow_bitahub.demo.airflow import USER
from airflow_bitahub.demo.platform import FOLDERS
from tests.browser import Keyboard, open_page, running_browser
from tests.e2e.conftest import PASSWORD
from tests.leaks import leaks
from tests.transport import certify

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CLIENT_SECRET = "e2e-client-s3cret"
KEY_PASSWORD = "e2e-key-passw0rd"


@pytest.fixture
def page(world: World) -> Iterator[Page]:
    """Airflow's page of connections, in the browser that is installed on this machine."""
    view = {"width": 1000, "height": 800}
    with running_browser() as browser, open_page(browser, f"{world.airflow.url}/connections", viewport=view) as page:
        yield page


def group(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def extra(page: Page, name: str) -> Locator:
    return page.locator(f"[name=element_{name}]")


def chosen(page: Page, name: str) -> Locator:
    """Return where a list is written into. The element that has its name is hidden."""
    return page.locator(f"[id=element_{name}] input[role=combobox]")


def row(page: Page, connection_id: str) -> Locator:
    return page.get_by_role("row").filter(has_text=connection_id)


def test_a_connection_is_made_tested_and_opened_again(world: World, page: Page, tmp_path: Path) -> None:
    certify(tmp_path, "client", password=KEY_PASSWORD)
    airflow, keyboard = world.airflow, Keyboard(page)
    keyboard.write(page.get_by_label("Username"), USER)
    keyboard.write(page.locator("input[type=password]"), airflow.password)
    page.keyboard.press("Enter")
    keyboard.press(page.get_by_role("button", name="Add Connection"))
    keyboard.write(page.locator("input[name=connection_id]"), "by_keyboard")
    keyboard.choose(page.get_by_role("combobox").first, "BitaHub")
    # Without a port, Airflow 3.3 refuses to test a saved connection.
    keyboard.write(page.locator("input[name=host]"), "http://127.0.0.1")
    keyboard.write(page.locator("input[name=port]"), str(urlsplit(world.emulator.url).port))
    keyboard.write(page.locator("input[name=login]"), FOLDERS.user_name)
    keyboard.write(page.locator("input[name=password]"), PASSWORD)
    keyboard.press(group(page, "Signing in"))
    keyboard.choose(chosen(page, "auth"), "kubesphere")
    keyboard.write(extra(page, "client_secret"), CLIENT_SECRET)
    keyboard.press(group(page, "User, storage and images"))
    keyboard.write(extra(page, "user_id"), FOLDERS.user_id)
    keyboard.write(extra(page, "storage_uri"), world.emulator.storage.as_uri())
    keyboard.press(group(page, "Certificates and proxy"))
    keyboard.write(extra(page, "client_certificate"), str(tmp_path / "client.crt"))
    keyboard.write(extra(page, "client_key"), str(tmp_path / "client.key"))
    keyboard.write(extra(page, "client_key_password"), KEY_PASSWORD)
    keyboard.press(group(page, "Time limits and load"))
    keyboard.write(extra(page, "request_timeout"), "45")
    keyboard.press(page.get_by_role("button", name="Save"))
    row(page, "by_keyboard").wait_for()

    def test() -> None:
        with page.expect_response("**/connections/test") as answer:
            keyboard.press(row(page, "by_keyboard").get_by_role("button", name="Test Connection"))
        assert answer.value.json()["status"] is True, answer.value.text()
        page.get_by_text("Test Connection Successful").first.wait_for()

    test()
    keyboard.press(row(page, "by_keyboard").get_by_role("button", name="Edit Connection"))
    keyboard.press(group(page, "Signing in"))  # the others are closed, which hides their fields
    page.get_by_text("exchanged for tokens (kubesphere)").wait_for()
    secrets = [page.locator("input[name=password]"), extra(page, "client_secret"), extra(page, "client_key_password")]
    assert [field.input_value() for field in secrets] == ["***"] * 3
    shown = {name: extra(page, name).input_value() for name in ("user_id", "client_certificate", "request_timeout")}
    certificate = str(tmp_path / "client.crt")
    assert shown == {"user_id": FOLDERS.user_id, "client_certificate": certificate, "request_timeout": "45"}

    # What is masked stays as it is when something else is changed.
    keyboard.press(group(page, "Standard Fields"))
    keyboard.write(page.locator("textarea[name=description]"), "changed")
    keyboard.press(page.get_by_role("button", name="Save"))
    row(page, "by_keyboard").filter(has_text="changed").wait_for()
    test()
    told = {"the password": PASSWORD, "the client secret": CLIENT_SECRET, "the key's password": KEY_PASSWORD}
    assert leaks(airflow.home, told) == []
    saved = json.loads(airflow.call("GET", "/connections/by_keyboard")["extra"])
    assert (saved["auth"], saved["workspace"], saved["request_timeout"]) == ("kubesphere", "bitahub", 45)
    airflow.call("DELETE", "/connections/by_keyboard")

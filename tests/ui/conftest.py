"""A real Airflow that shows the pages, with an emulator behind it, and a browser that is signed in to it.

All tests of pages share them. The DAGs are those of `dags`. A test starts the runs that it looks at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest

from airflow_bitahub.demo import platform
from airflow_bitahub.emulator.server import Emulator
from tests.browser import open_page, running_browser
from tests.patient_airflow import PatientAirflow
from tests.ports import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STRANGER = "stranger"  # may sign in, and see nothing


@dataclass(eq=False)
class Site:
    """An Airflow with the pages, and the emulator that its default connection leads to."""

    airflow: PatientAirflow
    emulator: Emulator
    browser: Browser
    close: Callable[[], None]

    @cache  # noqa: B019  there is one site
    def token(self, user: str = "admin") -> str:
        """Return what the API knows a user by."""
        passwords = json.loads((self.airflow.home / "passwords.json").read_text())
        login = {"username": user, "password": passwords[user]}
        answer = httpx.post(f"{self.airflow.url}/auth/token", json=login, trust_env=False, timeout=60)
        return str(answer.raise_for_status().json()["access_token"])

    def open(self, path: str, user: str = "admin", **settings: Any) -> AbstractContextManager[Page]:
        """Open a page of this Airflow in the browser, see `open_page`.

        :param path: such as ``dags/mnist/runs/...``, or ``bitahub/job?...`` for a page outside of its frame
        """
        cookie = {"name": "_token", "value": self.token(user), "url": self.airflow.url}
        return open_page(self.browser, f"{self.airflow.url}/{path}", cookies=[cookie], **settings)

    def get(self, address: str, user: str = "admin", /, **query: str) -> httpx.Response:
        """Return the answer to a request of a page, such as ``bitahub/job``.

        :param user: "": someone who has not signed in
        """
        cookies = {"_token": self.token(user)} if user else {}
        url = f"{self.airflow.url}/{address}?{urlencode(query)}"
        return httpx.get(url, cookies=cookies, trust_env=False, timeout=60)


# While the browser runs, no other test of the same process can use an event loop of its own. So the tests with the site
# come one after another, and its end does not wait for the end of all tests.


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of pages that need no site before the others."""
    places = [place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    own = sorted((items[place] for place in places), key=_needs_site)
    for place, item in zip(places, own, strict=True):
        items[place] = item


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Function, nextitem: pytest.Function | None) -> None:
    """End the site after its last test."""
    site = item.funcargs.get("site")
    if isinstance(site, Site) and (nextitem is None or not _needs_site(nextitem)):
        site.close()


def _needs_site(item: pytest.Item) -> bool:
    return "site" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not entry_points(group="airflow.plugins", name="bitahub"):
        pytest.fail("the package has to be installed again: its metadata does not name the plugin")
    root = tmp_path_factory.mktemp("ui")
    config = {
        "core.simple_auth_manager_users": f"admin:admin,{STRANGER}:",
        "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
    }
    with ExitStack() as stack:
        browser = stack.enter_context(running_browser())
        emulator = stack.enter_context(Emulator(root / "emulator"))
        airflow = PatientAirflow(root / "airflow", Path(__file__).parent / "dags", port=free_port(), config=config)
        stack.enter_context(airflow)
        airflow.set_connection(platform.connection(emulator))
        yield Site(airflow, emulator, browser, stack.close)

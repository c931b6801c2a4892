"""People who look at the console: one who has not typed the token, and one who has."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from airflow_bitahub.emulator.server import Emulator

CONSOLE = "/console"


def visitor_of(emulator: Emulator) -> httpx.Client:
    """Return a browser, as far as headers matter: it names the page's site with every form that it sends."""
    return httpx.Client(
        base_url=emulator.url, headers={"Origin": emulator.url}, timeout=30, trust_env=False, verify=False
    )


def sign_in(visitor: httpx.Client, emulator: Emulator) -> httpx.Response:
    answer = visitor.post(f"{CONSOLE}/session", data={"token": emulator.token, "next": f"{CONSOLE}/faults"})
    assert answer.status_code == 303, answer.text
    return answer


@pytest.fixture
def visitor(emulator: Emulator) -> Iterator[httpx.Client]:
    with visitor_of(emulator) as client:
        yield client


@pytest.fixture(scope="module")
def owner(emulator: Emulator) -> Iterator[httpx.Client]:
    with visitor_of(emulator) as client:
        sign_in(client, emulator)
        yield client

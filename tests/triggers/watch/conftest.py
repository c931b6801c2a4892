"""The connection and the platform of the watcher's tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from airflow_bitahub.procedures.jobs import wait_for_job
from airflow_bitahub.procedures.servings import wait_for_serving
from tests.triggers.watch.stage import EPOCH, SECRET, Platform, now


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes the connection `bitahub_default`; keywords are its extra."""

    def connect(host: str = "http://platform", password: str = SECRET, **extra: Any) -> None:
        connection = {"conn_type": "bitahub", "host": host, "password": password, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))

    connect()
    return connect


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, connect: Callable[..., None]) -> Platform:  # noqa: ARG001
    platform = Platform()

    async def answer(transport: Any, request: httpx.Request) -> httpx.Response:
        said = await platform.answer(transport, request)
        return httpx.Response(said.status_code, headers=said.headers, stream=httpx.ByteStream(said.content))

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    monkeypatch.setattr("airflow_bitahub.client.find_spec", lambda _: None)  # aiohttp is not used
    monkeypatch.setattr("airflow_bitahub.triggers.base.time", lambda: EPOCH + now())
    for procedure in (wait_for_job, wait_for_serving):
        defaults: dict[str, Any] = procedure.__kwdefaults__ or {}
        monkeypatch.setitem(defaults, "clock", lambda: EPOCH + now())
    return platform

"""A hook on any connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_bitahub.hooks.bitahub import BitaHubHook


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that sets an Airflow connection and returns a hook on it."""

    def connect(extra: dict[str, Any] | None = None, **fields: Any) -> BitaHubHook:
        connection = {"conn_type": "bitahub", "host": "https://kubesphere.example.com", **fields, "extra": extra or {}}
        monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_TEST", json.dumps(connection))
        return BitaHubHook("bitahub_test")

    return connect

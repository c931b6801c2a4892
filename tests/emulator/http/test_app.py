"""Errors that do not depend on a route."""

from __future__ import annotations

import pytest

from tests.emulator.conftest import JOBS, Api, assert_refused


@pytest.mark.parametrize(
    "path", ["/nowhere", JOBS + "/a/b/c", "/lapis", "/docs", JOBS + "/", JOBS.replace("lapis", "kapis")]
)
def test_unknown_address(api: Api, path: str) -> None:
    response = api.http.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/plain")
    assert "no such address" in response.text


def test_wrong_method(api: Api) -> None:
    response = api.http.put(f"{JOBS}/x")
    assert_refused(response, 405)
    assert response.headers["allow"]


def test_a_defect_is_answered_in_the_envelope(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.emulator.state, "jobs", None)
    assert_refused(api.http.get(JOBS), 500, "the emulator itself failed")

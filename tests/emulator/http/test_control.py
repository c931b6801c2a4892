"""The emulator's own routes."""

from __future__ import annotations

import json

from tests.emulator.conftest import JOBS, Api


def test_about(api: Api) -> None:
    assert api.http.get("/").json()["data"]["name"] == "BitaHub emulator"
    assert api.http.get("/healthz").status_code == 200
    assert JOBS.replace("host", "{cluster}").split("/workspaces")[0] in json.dumps(api.http.get("/openapi.json").json())


def test_ledger(api: Api) -> None:
    name = api.submit()
    api.wait_job(name)
    api.post_job(api.job_body(name=name))
    api.http.delete(f"{JOBS}/{name}")
    api.http.get(f"{JOBS}/{name}")
    (entry,) = (entry for entry in api.http.get("/emulator/ledger").json()["data"] if entry["name"] == name)
    assert entry["state"] == "SUCCEEDED"
    assert entry["createdTime"]
    assert entry["removedTime"]
    asked = [(request["method"], request["status"]) for request in entry["requests"]]
    assert asked[0] == ("POST", 200)
    assert asked[-3:] == [("POST", 409), ("DELETE", 200), ("GET", 404)]
    assert all(request["path"] == f"{JOBS}/{name}" and request["time"] for request in entry["requests"])

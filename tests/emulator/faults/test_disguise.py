"""Queries show wrong records."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import JobSpec, get_job, list_jobs, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Effect, Fault, Match, Records
from airflow_bitahub.emulator.http.profiles import PROFILES
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import DrivenClock, Emulator
from airflow_bitahub.exceptions import (
    NotFoundError,
)
from tests.emulator.conftest import JOBS, SERVINGS, Api, assert_refused
from tests.emulator.faults.conftest import (
    FOR_EVER,
    QUERY,
    ROLE,
    Add,
    patch_state,
)


def names(api: Api) -> list[str]:
    data = api.http.get(JOBS, params={"limit": 1000}).json()["data"]
    assert data["totalItems"] == len(data["items"])
    return [item["name"] for item in data["items"]]


def test_a_new_record_is_visible_late(api: Api, add: Add, clock: DrivenClock) -> None:
    add(Match(method="GET", path="*/jobs*"), records=Records(hide_for=5))
    name = api.submit()
    clock.advance(4)
    assert_refused(api.http.get(f"{JOBS}/{name}"), 404)
    assert name not in names(api)
    clock.advance(2)
    assert api.job(name)["name"] == name
    assert name in names(api)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_record_is_hidden_whatever_shape_it_has(images_file: Path, profile: str) -> None:
    clock = DrivenClock()
    with Emulator(images=images_file, clock=clock, profile=profile) as emulator:
        emulator.scripts.add(ScriptedJob())
        emulator.faults.add(Fault(match=Match(method="GET"), effect=Effect(records=Records(hide_for=60))))
        client = BitaHubClient(emulator.url, auth=BearerToken(emulator.token))
        for name in ("old", "new"):
            clock.advance(50)
            client.send(submit_job(JobSpec(job_name=name, task_roles=[ROLE])))
        clock.advance(50)
        assert client.send(get_job("old")).name == "old"
        assert client.send(list_jobs()).names == {"old"}
        with pytest.raises(NotFoundError):
            client.send(get_job("new"))
        client.close()


def test_a_record_vanishes(api: Api, add: Add) -> None:
    name, other = api.submit(), api.submit()
    gone = Records(where={"name": name}, hide_for=FOR_EVER)
    add(Match(method="GET", path=f"*/jobs/{name}", skip=1), records=gone)
    add(Match(method="GET", path="*/jobs"), records=gone)
    assert api.job(name)
    assert_refused(api.http.get(f"{JOBS}/{name}"), 404)
    assert name not in names(api)
    assert other in names(api)


def test_running_while_nothing_runs_yet(api: Api, add: Add, clock: DrivenClock) -> None:
    add(records=Records(where={"jobStatus": {"state": "WAITING"}}, patch=patch_state("RUNNING")))
    name = api.submit("queued")
    assert api.job(name)["state"] == api.job(name)["jobStatus"]["state"] == "RUNNING"
    assert {job.key.name: job.status for job in api.emulator.state.jobs()}[name] is JobStatus.WAITING
    clock.advance(60)
    assert api.wait_job(name)["state"] == "SUCCEEDED"


def test_a_state_goes_backwards(api: Api, add: Add) -> None:
    name = api.submit("long")
    api.wait_job(name, "RUNNING")
    add(Match(path=f"*/{name}", skip=1, times=1), records=Records(patch=patch_state("WAITING")))
    assert [api.job(name)["state"] for _ in range(3)] == ["RUNNING", "WAITING", "RUNNING"]
    api.http.delete(f"{JOBS}/{name}")


def test_a_word_nobody_knows(api: Api, add: Add, client: BitaHubClient) -> None:
    name = api.submit()
    add(QUERY, records=Records(patch=patch_state("HIBERNATING")))
    assert client.send(get_job(name)).status is JobStatus.UNKNOWN


def test_a_running_job_tells_the_time_of_its_end(api: Api, add: Add, client: BitaHubClient) -> None:
    end = 1_800_000_000_000
    add(records=Records(where={"state": "RUNNING"}, patch={"stopedTime": end, "jobStatus": {"completedTime": end}}))
    name = api.submit("long")
    assert api.wait_job(name, "RUNNING")["jobStatus"]["completedTime"] == end
    assert client.send(get_job(name)).finished_at is None
    api.http.delete(f"{JOBS}/{name}")


def test_a_field_is_missing(api: Api, add: Add) -> None:
    name = api.submit()
    add(QUERY, records=Records(patch={"launchedTime": None, "jobStatus": {"appExitCode": None}}))
    job = api.job(name)
    assert "launchedTime" not in job
    assert "appExitCode" not in job["jobStatus"]
    assert "subState" in job["jobStatus"]


def test_servings_too(api: Api, add: Add) -> None:
    add(Match(path="*/serving/*"), records=Records(patch={"status": "RUNNING", "hosts": "http://192.0.2.1"}))
    name = api.serve("serve")
    assert api.serving(name)["hosts"] == "http://192.0.2.1"
    api.http.delete(f"{SERVINGS}/{name}")


def test_what_shows_no_record_is_left_alone(api: Api, add: Add) -> None:
    add(records=Records(hide_for=FOR_EVER, patch={"state": "RUNNING"}))
    name = api.submit()
    assert api.http.get(f"{JOBS}/{name}/log").json()["data"].keys() == {"log"}
    assert api.http.get("/nowhere").text.startswith("there is no such address")
    assert_refused(api.http.get(f"{JOBS}/never"), 404)

"""Which live jobs are orphans. That Airflow's database is read correctly is tested end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, TaskRole, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.cli import main
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.identity import JobRecord, deployment_marker, is_marked, new_token
from airflow_bitahub.reaper import OwningTask, classify_jobs, find_live_jobs, read_owning_tasks, require_distinct_marker
from tests.conftest import IMAGE, Submitted

MARKER = deployment_marker("ours http://localhost:8080")


def record(name: str, **changes: Any) -> JobRecord:
    return JobRecord(name, "/projects/u/p/outputs/1", "abcdefghij", 1, 1, 2, 0, **changes)


@pytest.fixture
def named(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[BitaHubHook]:
    """A hook of a deployment that has a name, so its marker differs from others'."""
    named = {**connection, "extra": {**connection["extra"], "deployment": "ours"}}
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(named))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://localhost:8080")
    hook = BitaHubHook()
    assert hook.marker == MARKER
    yield hook
    hook.client.close()


def lasting(client: BitaHubClient, name: str) -> None:
    client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command="sleep 60")])))


@pytest.mark.parametrize(
    ("is_finished", "detached", "ownership"),
    [
        (False, False, "owned"),
        (False, True, "owned"),
        (True, False, "orphan"),
        (True, True, "detached"),
    ],
)
def test_a_job_is_owned_while_its_task_has_not_finished(is_finished: bool, detached: bool, ownership: str) -> None:
    job = Job(name="j", status=JobStatus.RUNNING)
    [live] = classify_jobs([job], {"j": OwningTask("t of d, r", record("j", detached=detached), is_finished)})
    assert (live.ownership, live.task) == (ownership, "t of d, r")


def test_a_job_that_no_task_has_on_record_is_an_orphan() -> None:
    tasks = {"j-2": OwningTask("t of d, r", record("j-2"), is_finished=False)}
    [live] = classify_jobs([Job(name="j-1", status=JobStatus.WAITING)], tasks)
    assert (live.ownership, live.task) == ("orphan", "")


@pytest.mark.parametrize(
    ("pattern", "is_ours"),
    [
        ("mnist-20260101-{ours}-1", True),
        ("a-b-c-20260101-{ours}-12", True),
        ("mnist-20260101-{theirs}-1", False),
        ("mnist-2026-{ours}-1", False),
        ("{ours}-1", False),
        ("mnist-20260101-{marker}-1", False),
        ("mnist-20260101-{ours}", False),
        ("a-name-of-their-own", False),
    ],
)
def test_a_job_is_ours_if_its_name_has_the_marker_where_we_put_it(pattern: str, is_ours: bool) -> None:
    tokens = {"ours": new_token(MARKER), "theirs": new_token(deployment_marker("theirs")), "marker": MARKER}
    name = pattern.format(**tokens)
    assert is_marked(name, MARKER) is is_ours


def test_only_live_jobs_with_the_marker_are_found(
    named: BitaHubHook, client: BitaHubClient, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"another": OwningTask("t of d, r", record("another"), is_finished=False)}
    monkeypatch.setattr("airflow_bitahub.reaper.read_owning_tasks", lambda: others)
    ours, finished, theirs = (f"reap-20260101-{new_token(marker)}-1" for marker in (MARKER, MARKER, "zzz"))
    for name in (ours, theirs, "a-name-of-their-own"):
        lasting(client, name)
    client.send(submit_job(JobSpec(job_name=finished, task_roles=[TaskRole(image=IMAGE, command="true")])))
    submitted.wait(finished)
    assert [(live.job.name, live.ownership) for live in find_live_jobs(named)] == [(ours, "orphan")]


def test_a_database_without_any_record_is_an_error(
    named: BitaHubHook, client: BitaHubClient, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.reaper.read_owning_tasks", dict)
    lasting(client, f"reap-20260101-{new_token(named.marker)}-1")
    with pytest.raises(ConfigurationError, match="is this the right database"):
        find_live_jobs(named)
    assert submitted.requests("DELETE") == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("STATE_STORE__CLEAR_ON_SUCCESS", "True"),
        ("STATE_STORE__BACKEND", "mine.Backend"),
        ("WORKERS__STATE_STORE_BACKEND", "mine.Backend"),
    ],
)
def test_a_database_that_does_not_contain_all_records_is_an_error(
    setting: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AIRFLOW__{setting}", value)
    with pytest.raises(ConfigurationError, match="orphaned jobs cannot be identified"):
        read_owning_tasks()


def test_airflows_that_share_a_connection_have_markers_of_their_own(
    named: BitaHubHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = named.marker
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://another.example.com")
    assert named.marker != before


@pytest.mark.usefixtures("named")
def test_reaping_shows_first_and_stops_on_request(
    client: BitaHubClient,
    submitted: Submitted,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")  # the command sets it for its own process
    names = [f"reap-20260101-{new_token(MARKER)}-{number}" for number in (1, 2, 3)]
    orphan, owned, detached = names
    tasks = {
        owned: OwningTask("w of d, r", record(owned), is_finished=False),
        detached: OwningTask("t of d, r", record(detached, detached=True), is_finished=True),
    }
    monkeypatch.setattr("airflow_bitahub.reaper.read_owning_tasks", lambda: tasks)
    for name in names:
        lasting(client, name)

    assert main(["jobs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[1]: line.split()[0] for line in lines}
    assert {name: shown[name] for name in names} == {orphan: "orphan", owned: "owned", detached: "detached"}

    assert main(["jobs", "reap"]) == 0
    out = capsys.readouterr().out
    assert f"{orphan}" in out
    assert "would be stopped" in out
    assert "--no-dry-run" in out
    assert owned not in out
    assert submitted.requests("DELETE") == []

    assert main(["jobs", "reap", "--no-dry-run"]) == 0
    assert "no task: it is STOPPED" in capsys.readouterr().out
    assert submitted.requests("DELETE") == [orphan]
    assert {submitted.status(name).is_terminal for name in (owned, detached)} == {False}


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("base_url", ["", "http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:1"])
def test_nothing_is_reaped_where_another_airflow_may_have_the_same_marker(
    base_url: str, monkeypatch: pytest.MonkeyPatch, named: BitaHubHook
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    require_distinct_marker(named)
    unnamed = BitaHubHook()
    unnamed.settings = type(named.settings)(named.settings.base_url, None, "u", {})
    with pytest.raises(ConfigurationError, match="extra 'deployment'"):
        require_distinct_marker(unnamed)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com")
    require_distinct_marker(unnamed)

"""Which live jobs are wanted. That Airflow's database is read rightly is shown end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_bitahub.api.jobs import Job, JobSpec, JobStatus, TaskRole, submit_job
from airflow_bitahub.cli import main
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.identity import JobRecord, deployment_marker, is_marked, new_token
from airflow_bitahub.reaper import Owner, find_jobs, judge, read_owners, require_distinct_marker
from tests.conftest import IMAGE, Submitted

MARKER = deployment_marker("ours http://localhost:8080")


def record(name: str, **changes: Any) -> JobRecord:
    return JobRecord(name, "/projects/u/p/outputs/1", "abcdefghij", 1, 1, 2, 0, **changes)


@pytest.fixture
def named(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[BitaHubHook]:
    """A hook of a deployment that has a name, so that its marker is its own."""
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
    ("is_over", "detached", "verdict"),
    [
        (False, False, "wanted"),
        (False, True, "wanted"),
        (True, False, "orphan"),
        (True, True, "detached"),
    ],
)
def test_a_job_is_wanted_while_its_task_is_not_over(is_over: bool, detached: bool, verdict: str) -> None:
    job = Job(name="j", status=JobStatus.RUNNING)
    [found] = judge([job], {"j": Owner("t of d, r", record("j", detached=detached), is_over)})
    assert (found.verdict, found.task) == (verdict, "t of d, r")


def test_a_job_that_no_task_has_on_record_is_an_orphan() -> None:
    owners = {"j-2": Owner("t of d, r", record("j-2"), is_over=False)}
    [found] = judge([Job(name="j-1", status=JobStatus.WAITING)], owners)
    assert (found.verdict, found.task) == ("orphan", "")


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


def test_only_live_jobs_with_the_marker_are_looked_at(
    named: BitaHubHook, client: BitaHubClient, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"another": Owner("t of d, r", record("another"), is_over=False)}
    monkeypatch.setattr("airflow_bitahub.reaper.read_owners", lambda: others)
    ours, over, theirs = (f"reap-20260101-{new_token(marker)}-1" for marker in (MARKER, MARKER, "zzz"))
    for name in (ours, theirs, "a-name-of-their-own"):
        lasting(client, name)
    client.send(submit_job(JobSpec(job_name=over, task_roles=[TaskRole(image=IMAGE, command="true")])))
    submitted.wait(over)
    assert [(found.job.name, found.verdict) for found in find_jobs(named)] == [(ours, "orphan")]


def test_a_database_that_knows_of_no_job_is_not_believed(
    named: BitaHubHook, client: BitaHubClient, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.reaper.read_owners", dict)
    lasting(client, f"reap-20260101-{new_token(named.marker)}-1")
    with pytest.raises(ConfigurationError, match="is this the right database"):
        find_jobs(named)
    assert submitted.requests("DELETE") == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("STATE_STORE__CLEAR_ON_SUCCESS", "True"),
        ("STATE_STORE__BACKEND", "mine.Backend"),
        ("WORKERS__STATE_STORE_BACKEND", "mine.Backend"),
    ],
)
def test_a_database_that_does_not_hold_all_records_is_not_asked(
    setting: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AIRFLOW__{setting}", value)
    with pytest.raises(ConfigurationError, match="nobody can tell here which jobs are wanted"):
        read_owners()


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
    orphan, wanted, detached = names
    owners = {
        wanted: Owner("w of d, r", record(wanted), is_over=False),
        detached: Owner("t of d, r", record(detached, detached=True), is_over=True),
    }
    monkeypatch.setattr("airflow_bitahub.reaper.read_owners", lambda: owners)
    for name in names:
        lasting(client, name)

    assert main(["jobs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[1]: line.split()[0] for line in lines}
    assert {name: shown[name] for name in names} == {orphan: "orphan", wanted: "wanted", detached: "detached"}

    assert main(["jobs", "reap"]) == 0
    out = capsys.readouterr().out
    assert f"{orphan}" in out
    assert "would be stopped" in out
    assert "--no-dry-run" in out
    assert wanted not in out
    assert submitted.requests("DELETE") == []

    assert main(["jobs", "reap", "--no-dry-run"]) == 0
    assert "no task: it is STOPPED" in capsys.readouterr().out
    assert submitted.requests("DELETE") == [orphan]
    assert {submitted.status(name).is_terminal for name in (wanted, detached)} == {False}


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

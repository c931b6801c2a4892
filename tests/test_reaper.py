"""Which live jobs are orphans. That Airflow's database is read correctly is tested end to end."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airflow_bitahub.airflow_database import Database, OwningTask, read_database
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, TaskRole, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.cli import main
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.identity import JobRecord, new_token
from airflow_bitahub.reaper import classify_jobs, find_live_jobs
from tests.conftest import IMAGE, Submitted

MARKER = "abcde"


def job_name(number: int, token: str | None = None) -> str:
    return f"reap-20260101-{token or new_token(MARKER)}-{number}"


def task(name: str, *, is_finished: bool = False, token: str = "", **changes: Any) -> OwningTask:
    token = token or name.split("-")[-2]
    return OwningTask(
        "t of d, r", JobRecord(name, "/projects/u/p/outputs/1", token, 1, 1, 2, 0, **changes), is_finished
    )


def database(*tasks: OwningTask, **unwatched: float) -> Database:
    return Database({MARKER}, {task.record.job_name: task for task in tasks}, unwatched)


@pytest.fixture
def in_airflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets Airflow's database hold what a test says."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")  # the command sets it for its own process
    return lambda stored: monkeypatch.setattr("airflow_bitahub.reaper.read_database", lambda: stored)


def lasting(client: BitaHubClient, *names: str) -> None:
    for name in names:
        client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command="sleep 60")])))


@pytest.mark.parametrize(
    ("is_finished", "detached", "unwatched", "ownership"),
    [
        (False, False, {}, "owned"),
        (False, True, {}, "owned"),
        (False, False, {"t of d, r": 90.0}, "unwatched"),
        (True, False, {}, "orphan"),
        (True, True, {}, "detached"),
    ],
)
def test_a_job_is_owned_while_its_task_has_not_finished(
    is_finished: bool, detached: bool, unwatched: dict[str, float], ownership: str
) -> None:
    name = job_name(1)
    stored = database(task(name, is_finished=is_finished, detached=detached), **unwatched)
    [live] = classify_jobs([Job(name=name, status=JobStatus.RUNNING)], stored)
    assert (live.ownership, live.task) == (ownership, "t of d, r")


def test_only_what_is_proven_to_be_this_airflows_is_its_job(
    hook: BitaHubHook, client: BitaHubClient, submitted: Submitted, in_airflow: Any
) -> None:
    unrecorded, finished = job_name(1), job_name(2)
    from_before = job_name(3, "zzz2345678")  # by a version of this package with other markers
    theirs = [job_name(4, new_token("vwxyz")), job_name(5, new_token("vwxyz"))]
    given = "a-name-that-two-airflows-may-choose"
    in_airflow(database(task(from_before), task(given, token="abcdefghijkl", is_finished=True)))
    lasting(client, unrecorded, from_before, *theirs, given)
    client.send(submit_job(JobSpec(job_name=finished, task_roles=[TaskRole(image=IMAGE, command="true")])))
    submitted.wait(finished)
    findings = find_live_jobs(hook)
    shown = {live.job.name: live.ownership for live in findings.jobs}
    assert shown == {unrecorded: "orphan", from_before: "owned"}
    assert findings.foreign == {"vwxyz": 2}
    [about_marker, about_others] = findings.notes()
    assert "the marker abcde" in about_marker
    assert "live jobs with other markers, which are not on record here: vwxyz (2)" in about_others


def test_names_are_read_as_the_watcher_reads_them_and_what_is_unreadable_is_counted(
    hook: BitaHubHook, platform: Emulator, in_airflow: Any
) -> None:
    owned, orphan = job_name(1), job_name(2)
    in_airflow(database(task(owned)))
    entries: list[Any] = [
        {"name": f"me~{owned}", "jobStatus": {"state": "RUNNING"}},
        {"name": f"me~{orphan}", "jobStatus": {"state": "WAITING"}},
        {"name": f"me~{job_name(3)}"},
        {"state": "RUNNING"},
        None,
    ]
    answer = Effect(before=Answer(body=entries))
    platform.faults.add(Fault(match=Match(method="GET", path="*/jobs"), effect=answer))
    try:
        findings = find_live_jobs(hook)
    finally:
        platform.faults.clear()
    assert {live.job.name: live.ownership for live in findings.jobs} == {owned: "owned", orphan: "orphan"}
    assert findings.unreadable == 3
    assert any("entries in the platform's list that could not be read: 3" in note for note in findings.notes())


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
        read_database()


@pytest.mark.parametrize("has_connection", [True, False])
def test_a_database_without_airflows_tables_is_named_in_a_sentence(
    has_connection: bool,
    connection: dict[str, Any],  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")
    conn_id = "bitahub_default" if has_connection else "in_the_database"
    assert main(["jobs", "list", "--conn-id", conn_id]) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert re.match(r"Airflow's database could not be read \(no such table: \w+\)\.", sentence)


@pytest.mark.usefixtures("connection")
def test_reaping_shows_first_and_stops_on_request(
    client: BitaHubClient, submitted: Submitted, in_airflow: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    names = orphan, owned, detached = [job_name(number) for number in (1, 2, 3)]
    foreign = job_name(4, new_token("vwxyz"))
    in_airflow(database(task(owned), task(detached, detached=True, is_finished=True), another=90.0))
    lasting(client, *names, foreign)

    assert main(["jobs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[1]: line.split()[0] for line in lines}
    assert {name: shown[name] for name in names} == {orphan: "orphan", owned: "owned", detached: "detached"}
    assert any("Deferred tasks that no triggerer watches: 1, for up to 90 s" in line for line in lines)
    assert not any(foreign in line for line in lines)

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
    assert {submitted.status(name).is_terminal for name in (owned, detached, foreign)} == {False}

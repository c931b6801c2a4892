"""The client reads every shape in which an installation may answer queries of jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, list_jobs, submit_job
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.cli import main
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.http.profiles import PROFILES
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import JobKey
from airflow_bitahub.emulator.state.state import State
from airflow_bitahub.exceptions import ConfigurationError, NotFoundError
from airflow_bitahub.identity import JobRecord, TaskIdentity
from airflow_bitahub.procedures.jobs import end_job, wait_for_job
from airflow_bitahub.procedures.submission import ensure_job
from tests.conftest import until
from tests.emulator.conftest import IMAGE, JOBS

# What each tells of a job that is over, besides its name and state.
TELLS = {
    "default": {"exit_code", "queue_seconds", "run_seconds", "message"},
    "flat": {"queue_seconds", "run_seconds"},
    "openpai": {"exit_code", "queue_seconds", "run_seconds", "message"},
    "octopus": {"exit_code", "run_seconds", "message"},
    "volcano": {"message"},
    "business": set[str](),
}
MakeClient = Callable[..., BitaHubClient]
_numbers = count(1)


@pytest.fixture(scope="module", params=list(PROFILES))
def profile(request: pytest.FixtureRequest) -> str:
    """Every profile: each test that uses this fixture, or one of the next, runs once per profile."""
    return str(request.param)


@pytest.fixture(scope="module")
def installation(profile: str, images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator that answers in the profile's shape, and runs one job at a time."""
    with Emulator(tmp_path_factory.mktemp("home"), images=images_file, profile=profile, max_running=1) as emulator:
        yield emulator


@pytest.fixture
def make_client(installation: Emulator) -> Iterator[MakeClient]:
    clients = []

    def make(namespace: str = "bita-user") -> BitaHubClient:
        auth, platform = BearerToken(installation.token), Platform(job_namespace=namespace)
        clients.append(BitaHubClient(installation.url, auth=auth, platform=platform))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: MakeClient) -> BitaHubClient:
    return make_client()


def spec(command: str, name: str = "") -> JobSpec:
    return JobSpec(job_name=name or f"job-{next(_numbers)}", task_roles=[TaskRole(image=IMAGE, command=command)])


def submit(client: BitaHubClient, command: str) -> str:
    job = spec(command)
    client.send(submit_job(job))
    return job.job_name


def wait(client: BitaHubClient, name: str) -> Job:
    return client.run(wait_for_job(name, poll_interval=0.02))


def wait_until_it_runs(client: BitaHubClient, name: str) -> Job:
    return until(lambda: client.send(get_job(name)), lambda job: job.status is JobStatus.RUNNING)


def assert_told(job: Job, profile: str, exit_code: int) -> None:
    """Check that the client read everything that this shape contains, and nothing else."""
    tells = TELLS[profile]
    assert job.exit_code == (exit_code if "exit_code" in tells else None)
    for seconds in ("queue_seconds", "run_seconds"):
        assert (getattr(job, seconds) is not None) == (seconds in tells)


def test_a_job_that_succeeds(client: BitaHubClient, profile: str) -> None:
    name = submit(client, "true")
    job = wait(client, name)
    assert (job.name, job.status) == (name, JobStatus.SUCCEEDED)
    assert_told(job, profile, 0)


def test_a_job_that_fails(client: BitaHubClient, profile: str) -> None:
    name = submit(client, "echo no such model; exit 3")
    job = wait(client, name)
    assert (job.name, job.status) == (name, JobStatus.FAILED)
    assert_told(job, profile, 3)
    assert ("ended with exit code 3" in job.message) == ("message" in TELLS[profile])


def test_a_job_that_is_stopped(client: BitaHubClient, profile: str) -> None:
    name = submit(client, "sleep 60")
    wait_until_it_runs(client, name)
    job = client.run(end_job(name))
    assert job == client.send(get_job(name))
    assert (job.name, job.status) == (name, JobStatus.STOPPED)
    assert_told(job, profile, 214)


def test_jobs_that_run_and_wait(client: BitaHubClient) -> None:
    names = [submit(client, "sleep 60"), submit(client, "true")]
    jobs = [wait_until_it_runs(client, names[0]), client.send(get_job(names[1]))]
    assert [job.status for job in jobs] == [JobStatus.RUNNING, JobStatus.WAITING]
    listed = client.send(list_jobs()).jobs
    for job in [*jobs, *(listed[name] for name in names)]:
        assert not job.status.is_terminal
        assert (job.finished_at, job.run_seconds, job.exit_code) == (None, None, None)
    for name in reversed(names):
        client.run(end_job(name))


def test_a_list_tells_the_same_of_a_job_page_by_page(make_client: MakeClient) -> None:
    client = make_client("list-namespace")
    assert client.send(list_jobs()).jobs == {}
    names = [submit(client, command) for command in ("true", "exit 3", "true")]
    jobs = {name: wait(client, name) for name in names}
    pages = [[*client.send(list_jobs(page, 2)).jobs.values()] for page in (1, 2, 3)]
    assert [[job.name for job in page] for page in pages] == [[names[2], names[1]], [names[0]], []]
    known = dict.fromkeys(names)
    assert client.send(list_jobs(1, 2, known)).jobs == {job.name: job for job in pages[0]}
    for job in pages[0] + pages[1]:
        alone = jobs[job.name]
        assert (job.status, job.exit_code, job.run_seconds) == (alone.status, alone.exit_code, alone.run_seconds)
        assert job.created_at is not None


def test_a_job_nobody_submitted(client: BitaHubClient) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        client.send(get_job("nobody"))
    assert client.run(end_job("nobody")) is None


def test_a_task_that_is_tried_again_finds_its_job(client: BitaHubClient, installation: Emulator) -> None:
    task = TaskIdentity("demo", "20260101", lambda: "abcde", "/projects/u/demo/outputs", 2, 1, 2, 0)
    saved: list[JobRecord] = []

    def ensure(record: JobRecord | None) -> Job:
        steps = ensure_job(
            task, record, spec_for=lambda record: spec(f"exit {record.attempt % 2}", record.job_name), save=saved.append
        )
        return client.run(steps)[0]

    def submissions() -> int:
        return sum(entry.record.key.name.startswith("demo-") for entry in installation.state.ledger())

    first = ensure(None)
    assert wait(client, first.name).status is JobStatus.FAILED
    second = ensure(saved[-1])  # the first failed, so the next attempt is made
    assert wait(client, second.name).status is JobStatus.SUCCEEDED
    assert ensure(saved[-1]).name == second.name != first.name
    assert submissions() == 2


# The shapes themselves ------------------------------------------------------------------------------------------

SUMMARY = {
    "username": "",
    "state": "FAILED",
    "subState": "FRAMEWORK_COMPLETED",
    "executionType": "START",
    "retries": 0,
    "createdTime": 1663470891571,
    "completedTime": 1663471491571,
    "appExitCode": 3,
    "virtualCluster": "default",
}
OPENPAI = {
    "name": "mnist-1",
    "jobStatus": {
        **SUMMARY,
        "appLaunchedTime": 1663470951571,
        "appCompletedTime": 1663471491571,
        "appExitDiagnostics": "no such model",
    },
    "taskRoles": {
        "task1": {
            "taskRoleStatus": {"name": "task1"},
            "taskStatuses": [
                {
                    "taskIndex": 0,
                    "name": "mnist-1-task1-0",
                    "state": "FAILED",
                    "exitCode": 3,
                    "startAt": 1663470951571,
                    "finishedAt": 1663471491571,
                }
            ],
        }
    },
}
FLAT = {
    "name": "mnist-1",
    "namespace": "bita-user",
    "kind": "training",
    "createdTime": 1663470891571,
    "launchedTime": 1663470951000,
    "updatedTime": 1663471491571,
    "stopedTime": 1663471491571,
}
OCTOPUS = {
    "version": "v1",
    "job": {
        "id": "mnist-1",
        "name": "mnist-1",
        "type": "training",
        "state": "failed",
        "userID": "",
        "startAt": "2022-09-18T03:15:51Z",
        "finishedAt": "2022-09-18T03:24:51Z",
        "totalRetriedCount": 0,
        "exitCode": 3,
        "exitDiagnostics": "no such model",
    },
    "cluster": {"identity": ""},
    "tasks": [
        {
            "name": "task1",
            "image": "tensorflow",
            "command": ["false"],
            "replicaAmount": 1,
            "replicas": [
                {
                    "index": 0,
                    "state": "failed",
                    "retriedCount": 0,
                    "startAt": "2022-09-18T03:15:51Z",
                    "finishedAt": "2022-09-18T03:24:51Z",
                    "exitCode": 3,
                    "exitDiagnostics": "",
                }
            ],
        }
    ],
}
VOLCANO = {
    "apiVersion": "batch.volcano.sh/v1alpha1",
    "kind": "Job",
    "metadata": {
        "name": "mnist-1",
        "namespace": "bita-user",
        "creationTimestamp": "2022-09-18T03:14:51Z",
        "labels": {"leinao.ai/kind": "training", "leinao.ai/userid": ""},
    },
    "spec": {"minAvailable": 1, "queue": "default", "tasks": [{"name": "task1", "replicas": 1}]},
    "status": {
        "state": {"phase": "Failed", "message": "no such model", "lastTransitionTime": "2022-09-18T03:24:51Z"},
        "minAvailable": 1,
        "pending": 0,
        "running": 0,
        "succeeded": 0,
        "failed": 1,
        "retryCount": 0,
    },
}
SPEC = JobSpec(job_name="mnist-1", task_roles=[TaskRole(image="tensorflow", command="false")])
BUSINESS = {
    "jobName": "mnist-1",
    "state": "FAILED",
    "createTime": "1663470891571",
    "completedTime": 1663471491571,
    "remark": "",
    "config": json.dumps(SPEC.body()),
}
OCTOPUS_ENTRY = {
    "jobID": "mnist-1",
    "jobName": "mnist-1",
    "jobKind": "training",
    "namespace": "bita-user",
    "userID": "",
    "state": "failed",
    "createdAt": "2022-09-18T03:14:51Z",
    "finishedAt": "2022-09-18T03:24:51Z",
    "jobDetail": OCTOPUS,
    "jobConfig": json.dumps(SPEC.body()),
}
OPENPAI_ENTRY = {
    **SUMMARY,
    "name": "mnist-1",
    "retries": "0",
    "createdTime": "1663470891571",
    "launchedTime": "1663470951571",
    "completedTime": "1663471491571",
    "appExitCode": "3",
}


def in_status(data: Any) -> dict[str, Any]:
    return {"status": {"code": 0, "msg": "success"}, "data": data}


def in_code(data: Any) -> dict[str, Any]:
    return {"code": "OPERATION_SUCCEEDED", "msg": "success", "payload": data}


def in_message(data: Any) -> dict[str, Any]:
    return {"message": {"status": 200, "code": 0, "message": "success"}, "data": data}


BOTH = {**OPENPAI, **FLAT, "launchedTime": 1663470951571, "jobName": "mnist-1", "state": "FAILED"}
FLAT_FAILED = {**FLAT, "status": "FAILED"}
# profile: its answers to a query of one job, and of a page with this job and one more on another page
SHAPES: dict[str, tuple[Any, Any]] = {
    "default": (in_status(BOTH), in_status({"items": [BOTH], "totalItems": 2})),
    "flat": (in_status(FLAT_FAILED), in_status({"items": [FLAT_FAILED], "totalItems": 2})),
    "openpai": (OPENPAI, [OPENPAI_ENTRY]),
    "octopus": (in_code(OCTOPUS), in_code({"jobs": [OCTOPUS_ENTRY]})),
    "volcano": (
        VOLCANO,
        {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "JobList", "metadata": {}, "items": [VOLCANO]},
    ),
    "business": (in_message(BUSINESS), in_message({"list": [BUSINESS], "total": 2})),
}


class Clock:
    """2022-09-18 03:14:51.571, until a test advances it."""

    seconds = 1663470891.571

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("profile_name", "shape"), SHAPES.items())
def test_every_shape_of_a_job_that_failed(profile_name: str, shape: tuple[Any, Any]) -> None:
    clock = Clock()
    state, key = State(clock), JobKey("bita-user", "mnist-1")
    state.create_job(key.namespace, SPEC)
    clock.seconds += 60
    state.launch_job(key)
    clock.seconds += 540
    state.finish_task(key, "task1", 0, 3)
    record = state.finish_job(key, 3, "no such model")
    profile = PROFILES[profile_name]
    assert (profile.answer(record), profile.answer_list([record], 2)) == shape


@pytest.mark.parametrize(
    ("profile_name", "words"),
    [
        ("default", "WAITING RUNNING STOPPING STOPPED SUCCEEDED"),
        ("flat", "WAITING RUNNING STOPPING STOPPED SUCCEEDED"),
        ("openpai", "WAITING RUNNING STOPPING STOPPED SUCCEEDED"),
        ("octopus", "pending running running stopped succeeded"),
        ("volcano", "Pending Running Aborting Aborted Completed"),
        ("business", "WAITING RUNNING STOPING STOPPED SUCCEEDED"),
    ],
)
def test_the_words_of_every_shape(profile_name: str, words: str) -> None:
    state = State()
    stopped, succeeded = (state.create_job("bita-user", spec("true")).key for _ in range(2))
    profile, seen = PROFILES[profile_name], []

    def look(key: JobKey) -> None:
        seen.append(read(profile.answer(state.job(key))))

    look(stopped)
    state.launch_job(stopped)
    look(stopped)
    state.stop_job(stopped)
    look(stopped)
    state.finish_job(stopped, None, "")
    look(stopped)
    state.launch_job(succeeded)
    state.finish_job(succeeded, 0, "")
    look(succeeded)
    assert seen == words.split()


def read(answer: Any) -> str:
    """Return the raw state of a job, wherever its shape has it."""
    for path in ("data.state", "data.status", "jobStatus.state", "payload.job.state", "status.state.phase"):
        found = answer
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, str):
            return found
    pytest.fail(f"no state in {answer}")


def test_an_entry_of_openpais_list_has_an_end_before_there_is_one() -> None:
    state = State()
    record = state.create_job("bita-user", spec("true"))
    [entry] = PROFILES["openpai"].answer_list([record], 1)
    assert entry["completedTime"] == str(record.updated)
    assert entry["appExitCode"] is None


def test_a_profile_nobody_has() -> None:
    with pytest.raises(ConfigurationError, match=r"no profile 'flut'; choose one of default, flat, openpai"):
        Emulator(profile="flut")


def test_the_shell_names_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["emulator", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(list(PROFILES)[:-1])} or {list(PROFILES)[-1]}" in words


def test_default_is_the_default(api: Any) -> None:
    name = api.submit()
    assert {"jobName", "state", "jobStatus"} <= api.http.get(f"{JOBS}/{name}").json()["data"].keys()

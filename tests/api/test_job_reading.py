"""Jobs: what is read, in every shape seen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import get_job, list_jobs
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.api.protocol import Response
from airflow_bitahub.exceptions import APIError, NotFoundError, UnexpectedResponseError

PLATFORM = Platform()


def response(data: Any, status: int = 200) -> Response:
    return Response(status, {}, json.dumps({"status": {"code": 0, "msg": "success"}, "data": data}).encode())


def job_of(data: Any, name: str = "asked") -> Job:
    return get_job(name).read(response(data), PLATFORM)


@pytest.mark.parametrize(
    ("state", "end", "is_evicted"),
    [
        ("FAILED", {"appExitType": "TRANSIENT_NORMAL"}, True),
        ("FAILED", {"appExitType": "TRANSIENT_CONFLICT"}, True),
        ("FAILED", {"appExitDiagnostics": "task1-0: Evicted: the node was low on memory"}, True),
        ("FAILED", {"appExitDiagnostics": "Preempted by a job of higher priority"}, True),
        ("FAILED", {"appExitType": "NON_TRANSIENT"}, False),
        ("FAILED", {"appExitDiagnostics": "exit code 1; its log ends with: 3 cache entries were evicted"}, False),
        ("STOPPED", {"appExitType": "TRANSIENT_NORMAL"}, False),
        ("RUNNING", {"appExitType": "TRANSIENT_NORMAL"}, False),
    ],
)
def test_a_job_whose_place_was_taken_away_is_told_from_one_whose_program_failed(
    state: str, end: dict[str, str], is_evicted: bool
) -> None:
    data = {"name": "mnist-1", "jobStatus": {"state": state, **end}}
    assert get_job("mnist-1").read(response(data), PLATFORM).is_evicted is is_evicted


def test_a_job_the_account_cannot_pay_for_is_told_from_others_that_failed() -> None:
    for word, is_underpowered in (("UNDERPOWERED", True), ("FAILED", False)):
        job = get_job("mnist-1").read(response({"name": "mnist-1", "state": word}), PLATFORM)
        assert (job.status, job.is_underpowered) == (JobStatus.FAILED, is_underpowered)


# The shapes of platform-api.md, section 3.3, each of a job of 2022-09-18 03:14:51 that was over 10 minutes later.
FLAT = {
    "name": "mnist-1",
    "namespace": "bita-user",
    "status": "SUCCEEDED",
    "createdTime": 1663470891571,
    "launchedTime": 1663470951000,
    "updatedTime": 1663471491571,
    "stopedTime": 1663471491571,
}
OPENPAI = {
    "name": "mnist-1",
    "jobStatus": {
        "username": "_2f1fe8d0df7a48f6b471e02e054b4852",
        "state": "STOPPED",
        "subState": "FRAMEWORK_COMPLETED",
        "executionType": "STOP",
        "retries": 0,
        "createdTime": 1663470891571,
        "completedTime": 1663471491571,
        "appLaunchedTime": 1663470951000,
        "appCompletedTime": 1663471491570,
        "appExitCode": 214,
        "appExitDiagnostics": "killed due to StopFrameworkRequest",
        "appExitType": "NON_TRANSIENT",
    },
    "taskRoles": {
        "task1": {
            "taskRoleStatus": {"name": "task1"},
            "taskStatuses": [{"taskIndex": 0, "state": "RUNNING", "exitCode": 1, "finishedAt": 1}],
        }
    },
}
OCTOPUS = {
    "version": "v1",
    "job": {
        "id": "j7",
        "name": "mnist-1",
        "type": "training",
        "state": "failed",
        "startAt": "2022-09-18T03:15:51Z",
        "finishedAt": "2022-09-18T11:24:51.500+08:00",
        "totalRetriedCount": 0,
        "exitCode": 137,
        "exitDiagnostics": "OOMKilled",
    },
    "cluster": {"identity": "hefei"},
    "tasks": [{"name": "task1", "state": "running", "replicas": [{"index": 0, "state": "running", "exitCode": 0}]}],
}
VOLCANO = {
    "apiVersion": "batch.volcano.sh/v1alpha1",
    "kind": "Job",
    "metadata": {"name": "mnist-1", "namespace": "bita-user", "creationTimestamp": "2022-09-18T03:14:51Z"},
    "spec": {"queue": "default"},
    "status": {
        "state": {
            "phase": "Completed",
            "reason": "",
            "message": "all done",
            "lastTransitionTime": "2022-09-18T03:24:51Z",
        },
        "succeeded": 1,
        "retryCount": 0,
    },
}
BUSINESS = {
    "jobName": "mnist-1",
    "state": "SUCCEEDED",
    "codeNo": 7,
    "createTime": "1663470891571",
    "completedTime": 1663471491,
    "remark": "<b>fine</b>",
    "config": '{"jobName": "other", "state": "FAILED"}',
}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            FLAT,
            Job(
                name="mnist-1",
                status=JobStatus.SUCCEEDED,
                raw_state="SUCCEEDED",
                created_at=1663470891.571,
                started_at=1663470951,
                finished_at=1663471491.571,
            ),
            id="A, like a serving",
        ),
        pytest.param(
            OPENPAI,
            Job(
                name="mnist-1",
                status=JobStatus.STOPPED,
                raw_state="STOPPED",
                created_at=1663470891.571,
                started_at=1663470951,
                finished_at=1663471491.571,
                exit_code=214,
                message="killed due to StopFrameworkRequest",
                exit_type="NON_TRANSIENT",
            ),
            id="B, like OpenPAI",
        ),
        pytest.param(
            OCTOPUS,
            Job(
                name="mnist-1",
                status=JobStatus.FAILED,
                raw_state="failed",
                started_at=1663470951,
                finished_at=1663471491.5,
                exit_code=137,
                message="OOMKilled",
            ),
            id="C, Octopus",
        ),
        pytest.param(
            VOLCANO,
            Job(
                name="mnist-1",
                status=JobStatus.SUCCEEDED,
                raw_state="Completed",
                created_at=1663470891,
                finished_at=1663471491,
                message="all done",
            ),
            id="D, Volcano",
        ),
        pytest.param(
            BUSINESS,
            Job(
                name="mnist-1",
                status=JobStatus.SUCCEEDED,
                raw_state="SUCCEEDED",
                created_at=1663470891.571,
                finished_at=1663471491,
            ),
            id="E, business layer",
        ),
    ],
)
def test_every_shape_a_job_was_seen_in(data: dict[str, Any], expected: Job) -> None:
    assert job_of(data, "mnist-1") == expected
    assert job_of({"jobDetail": data}, "mnist-1") == expected
    assert list_jobs().read(response([data]), PLATFORM).jobs == {expected.name: expected}


def test_an_entry_of_openpais_list_is_flat_and_tells_numbers_as_text() -> None:
    entry = {"name": "mnist-1", "state": "FAILED", "createdTime": "1663470891571", "appExitCode": "137"}
    job = job_of(entry)
    assert (job.status, job.created_at, job.exit_code) == (JobStatus.FAILED, 1663470891.571, 137)


def test_an_entry_of_octopus_list_tells_more_than_the_job_inside_it() -> None:
    entry = {
        "jobID": "j7",
        "jobName": "mnist-1",
        "state": "stopped",
        "createdAt": "2022-09-18T03:14:51Z",
        "jobDetail": OCTOPUS,
    }
    [job] = list_jobs().read(response({"jobs": [entry]}), PLATFORM).jobs.values()
    assert (job.name, job.raw_state) == ("mnist-1", "stopped")
    assert (job.queue_seconds, job.run_seconds, job.exit_code) == (60, 540.5, 137)


def test_a_job_keeps_the_name_it_was_asked_for_under() -> None:
    assert job_of({**FLAT, "name": "user~mnist-1"}, "mnist-1").name == "mnist-1"


def test_a_payload_is_read_like_data() -> None:
    body = json.dumps({"code": "S000", "msg": "success", "payload": OCTOPUS}).encode()
    assert get_job("mnist-1").read(Response(200, {}, body), PLATFORM) == job_of(OCTOPUS, "mnist-1")


def test_a_job_without_an_envelope_is_read_like_data() -> None:
    body = json.dumps(VOLCANO).encode()
    assert get_job("mnist-1").read(Response(200, {}, body), PLATFORM) == job_of(VOLCANO, "mnist-1")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"jobStatus": {"state": "RUNNING"}, "state": "FAILED", "status": "STOPPED"}, "RUNNING"),
        ({"state": "RUNNING", "status": "STOPPED"}, "RUNNING"),
        ({"state": "RUNNING", "jobDetail": {"jobStatus": {"state": "FAILED"}}}, "RUNNING"),
        ({"job": {"state": "RUNNING"}, "jobDetail": {"name": "mnist-1"}}, "RUNNING"),
        ({"status": "RUNNING"}, "RUNNING"),
        ({"state": "", "status": {"state": {"phase": "Running"}}}, "Running"),
        ({"jobStatus": None, "state": None, "status": "RUNNING"}, "RUNNING"),
    ],
)
def test_the_state_is_looked_for_in_order(data: dict[str, Any], word: str) -> None:
    job = job_of(data)
    assert (job.raw_state, job.status) == (word, JobStatus.RUNNING)


@pytest.mark.parametrize("data", [{}, {"state": 7}, {"status": {}}, {"status": {"state": "RUNNING"}}])
def test_an_answer_without_a_readable_state_is_no_answer(data: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedResponseError, match="'asked' contains no state"):
        job_of(data)


def test_a_job_in_a_state_nobody_knows_is_not_over() -> None:
    job = job_of({"state": "PONDERING"})
    assert (job.status, job.raw_state) == (JobStatus.UNKNOWN, "PONDERING")
    assert not job.status.is_terminal


def test_a_shape_without_a_name_is_the_job_that_was_asked_for() -> None:
    assert job_of({"state": "RUNNING"}).name == "asked"


@pytest.mark.parametrize("data", [None, [], "RUNNING", 7])
def test_an_answer_without_a_job_says_so(data: Any) -> None:
    with pytest.raises(UnexpectedResponseError, match="'asked' contains no job"):
        job_of(data)


def test_a_job_the_platform_does_not_have() -> None:
    body = b'{"status": {"code": 404, "msg": "there is no such job"}, "data": null}'
    with pytest.raises(NotFoundError, match=r"Could not get job 'x'.*there is no such job"):
        get_job("x").read(Response(404, {}, body), PLATFORM)


@pytest.mark.parametrize("state", ["WAITING", "RUNNING", "STOPPING", "RESTARTING", "no such word"])
def test_the_end_of_a_job_that_is_not_over_is_not_believed(state: str) -> None:
    job = job_of({**FLAT, "status": state, "completedTime": 1663471491571, "exitCode": 0})
    assert job.finished_at is None
    assert job.exit_code is None
    assert job.run_seconds is None


@pytest.mark.parametrize("unset", [0, "0", None, "", "0001-01-01", "0001-01-01T00:00:00Z", "0001-01-01 00:00:00", -1])
def test_what_is_not_set_is_not_a_time(unset: Any) -> None:
    job = job_of({**FLAT, "createdTime": unset, "launchedTime": unset, "stopedTime": unset})
    assert (job.created_at, job.started_at, job.finished_at) == (None, None, None)
    assert (job.queue_seconds, job.run_seconds) == (None, None)


@pytest.mark.parametrize(
    ("value", "exit_code"),
    [
        (0, 0),
        ("0", 0),
        ("137", 137),
        (-210, -210),
        ("-220", -220),
        (None, None),
        ("", None),
        ("²", None),
        ("--1", None),
    ],
)
def test_exit_codes_may_be_text(value: Any, exit_code: int | None) -> None:
    assert job_of({**FLAT, "exitCode": value}).exit_code == exit_code


def test_numbers_as_text_give_the_same_job() -> None:
    detail = OPENPAI["jobStatus"]
    assert isinstance(detail, dict)
    as_text = {key: str(value) if isinstance(value, int) else value for key, value in detail.items()}
    assert job_of({**OPENPAI, "jobStatus": as_text}) == job_of(OPENPAI)


def test_times_of_a_job() -> None:
    job = job_of(FLAT)
    assert job.queue_seconds == 59.429
    assert job.run_seconds == 540.571


def test_a_start_floored_to_before_its_submission_waited_for_no_time() -> None:
    job = job_of({**FLAT, "createdTime": 1663470891571, "launchedTime": 1663470891000})
    assert job.queue_seconds == 0


SECOND = {**OPENPAI, "name": "mnist-2"}


@pytest.mark.parametrize(
    "collection",
    [
        [FLAT, SECOND],
        {"items": [FLAT, SECOND], "totalItems": 2},
        {"list": [FLAT, SECOND], "total": "2"},
        {"jobs": [FLAT, SECOND], "totalSize": 2},
    ],
)
def test_every_shape_of_a_list(collection: Any) -> None:
    expected = {"mnist-1": job_of(FLAT, "mnist-1"), "mnist-2": job_of(SECOND, "mnist-2")}
    assert list_jobs().read(response(collection), PLATFORM).jobs == expected


def test_looking_for_jobs_on_a_list_reads_only_those() -> None:
    entries = [FLAT, {**OPENPAI, "name": "user~mnist-2"}, {"name": "other"}, {"name": "mnist-3"}, None]
    page = list_jobs(1, 10, {"mnist-1": None, "mnist-2": None, "mnist-3": None}).read(response(entries), PLATFORM)
    assert page.jobs == {"mnist-1": job_of(FLAT, "mnist-1"), "mnist-2": job_of(OPENPAI, "mnist-2")}
    assert page.names == {"mnist-1", "mnist-2", "mnist-3", "other", ""}
    assert page.size == len(response(entries).body)


def test_the_user_in_front_of_a_listed_name_is_left_out() -> None:
    entry = {"name": "user~mnist-1", "state": "RUNNING"}
    page = list_jobs().read(response([entry]), PLATFORM)
    assert page.jobs == {"mnist-1": job_of(entry, "mnist-1")}


def test_name_that_is_twice_on_a_list_tells_nothing() -> None:
    entry = {"name": "mnist-1", "state": "RUNNING"}
    again = {**entry, "state": "FAILED"}
    assert list_jobs(1, 10, {"mnist-1": None}).read(response([entry, again, entry]), PLATFORM).jobs == {}


def test_job_whose_state_has_not_changed_is_not_read_again() -> None:
    running = Job(name="mnist-1", status=JobStatus.RUNNING, raw_state="RUNNING", message="as it was")
    same = {"name": "mnist-1", "state": "RUNNING", "message": "as it is"}
    assert get_job("mnist-1", running).read(response(same), PLATFORM) is running
    assert list_jobs(1, 10, {"mnist-1": running}).read(response([same]), PLATFORM).jobs["mnist-1"] is running
    for other in ({**same, "state": "WAITING"}, {**same, "state": "FAILED"}):
        assert get_job("mnist-1", running).read(response(other), PLATFORM).message == "as it is"
    over = Job(name="mnist-1", status=JobStatus.FAILED, raw_state="FAILED")
    again = get_job("mnist-1", over).read(response({**same, "state": "FAILED"}), PLATFORM)
    assert again.message == "as it is"


def test_a_job_in_words() -> None:
    assert str(job_of(OCTOPUS, "mnist-1")) == "job 'mnist-1' is failed, exit code 137: OOMKilled"
    assert str(job_of(FLAT, "mnist-1")) == "job 'mnist-1' is SUCCEEDED"
    assert str(Job(name="x", status=JobStatus.UNKNOWN)) == "job 'x' is UNKNOWN"


def test_a_job_survives_json() -> None:
    job = job_of(OPENPAI)
    assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job


@pytest.mark.parametrize("collection", [None, [], {"items": []}, {"items": None, "totalItems": 0}, {"jobs": None}])
def test_every_shape_of_an_empty_list(collection: Any) -> None:
    assert list_jobs().read(response(collection), PLATFORM).jobs == {}


@pytest.mark.parametrize("collection", ["jobs", 7, {"mnist-1": FLAT}, {"items": {"mnist-1": FLAT}}])
def test_a_list_in_no_known_shape_says_so(collection: Any) -> None:
    with pytest.raises(UnexpectedResponseError):
        list_jobs().read(response(collection), PLATFORM)


DEEP: Any = {"state": "RUNNING"}
for _ in range(300):
    DEEP = {"job": DEEP}


@pytest.mark.parametrize(
    "odd",
    [
        DEEP,
        {"state": "FAILED", "exitCode": "9" * 6000},
        {"state": "FAILED", "exitCode": True, "createdTime": 10**400, "finishedAt": "9" * 6000},
        {"state": ["RUNNING"], "status": {"state": 7}},
        {"status": {"code": [[[]]], "msg": {}}},
        {"jobStatus": {"state": "\ud800", "completedTime": float("inf")}},
        {"jobName": {"a": 1}, "name": 7, "state": "RUNNING", "createdTime": {}},
        float("nan"),
        "x",
    ],
)
def test_an_odd_answer_is_read_or_counts_as_a_failed_query(odd: Any) -> None:
    """Whatever else it raised would end the waiting for the job."""
    answer = response(odd)
    try:
        job = get_job("mnist-1").read_answer(answer, PLATFORM)
    except (UnexpectedResponseError, APIError):
        return
    assert job.exit_code is None
    assert all(time is None or math.isfinite(time) for time in (job.created_at, job.started_at, job.finished_at))


def test_an_error_of_the_reading_itself_is_a_failed_query() -> None:
    def read(_response: Response, _platform: Platform) -> Job:
        raise RecursionError("too deep")

    with pytest.raises(UnexpectedResponseError, match=r"get job 'mnist-1'.*HTTP 200.*RecursionError"):
        replace(get_job("mnist-1"), read=read).read_answer(response({}), PLATFORM)


@pytest.mark.parametrize("known", [None, {"mnist-1": None, "mnist-2": None}])
def test_an_unreadable_entry_of_a_list_is_counted_and_passed_over(known: dict[str, Job | None] | None) -> None:
    entries = [None, "x", {"state": "RUNNING"}, {"name": "mnist-1"}, {"name": "mnist-2", "state": "RUNNING"}]
    page = list_jobs(1, 10, known).read(response(entries), PLATFORM)
    assert ([*page.jobs], page.unreadable) == (["mnist-2"], 4)

"""Paths and words of the platform, and how a connection overrides them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from airflow_bitahub.api.auth import BearerToken, NoAuth
from airflow_bitahub.api.envelope import unwrap
from airflow_bitahub.api.platform import (
    ENDPOINTS,
    ERROR_CODES,
    ERROR_KINDS,
    STATUS_WORDS,
    JobStatus,
    Platform,
    ServingStatus,
)
from airflow_bitahub.api.protocol import Request, Response
from airflow_bitahub.exceptions import APIError, ConfigurationError

PLATFORM = Platform()
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"

# platform-api.md, section 3.4
VOCABULARY = {
    JobStatus.WAITING: "CREATED TAGING TAGSUCCESS PRERUNNING WAITING PENDING PREPARING SUSPENDED INQUEUE RESTARTING",
    JobStatus.RUNNING: "RUNNING COMPLETING",
    JobStatus.STOPPING: "STOPPING STOPING ABORTING TERMINATING",
    JobStatus.SUCCEEDED: "SUCCEEDED COMPLETED",
    JobStatus.FAILED: "FAILED TAGFAILED UNDERPOWERED",
    JobStatus.STOPPED: "STOPPED STOPED ABORTED TERMINATED",
}


@pytest.mark.parametrize("change", [str.upper, str.lower, str.capitalize, " {} ".format])
@pytest.mark.parametrize("status", list(VOCABULARY))
def test_every_word_of_the_vocabulary_in_any_case(status: JobStatus, change: Callable[[str], str]) -> None:
    assert {PLATFORM.job_status(change(word)) for word in VOCABULARY[status].split()} == {status}


@pytest.mark.parametrize("word", ["UNKNOWN", "", "HIBERNATING", "SUCCEEDED!", "成功"])
def test_an_unknown_word_is_never_an_end(word: str) -> None:
    assert PLATFORM.job_status(word) is JobStatus.UNKNOWN
    assert PLATFORM.serving_status(word) is ServingStatus.UNKNOWN
    assert not PLATFORM.job_status(word).is_terminal
    assert not PLATFORM.serving_status(word).is_terminal


def test_which_states_are_an_end() -> None:
    assert {status for status in JobStatus if status.is_terminal} == {
        JobStatus.SUCCEEDED,
        JobStatus.FAILED,
        JobStatus.STOPPED,
    }
    assert {status for status in JobStatus if status.is_successful} == {JobStatus.SUCCEEDED}
    assert {status for status in ServingStatus if status.is_terminal} == {ServingStatus.FAILED, ServingStatus.STOPPED}


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("RUNNING", ServingStatus.RUNNING),
        ("Deploying", ServingStatus.WAITING),
        ("CREATING", ServingStatus.WAITING),
        ("stoping", ServingStatus.STOPPING),
        ("STOPED", ServingStatus.STOPPED),
        ("SUCCEEDED", ServingStatus.STOPPED),
        ("COMPLETED", ServingStatus.STOPPED),
        ("FAILED", ServingStatus.FAILED),
    ],
)
def test_a_servings_words(word: str, status: ServingStatus) -> None:
    assert PLATFORM.serving_status(word) is status


def test_every_word_and_code_has_a_meaning_that_exists() -> None:
    for word in STATUS_WORDS:
        assert PLATFORM.job_status(word) is not JobStatus.UNKNOWN
        PLATFORM.serving_status(word)
    assert set(ERROR_CODES.values()) <= {
        "not_found",
        "conflict",
        "authentication",
        "permission",
        "invalid",
        "rate_limit",
        "server",
    }


def test_single_words_can_be_overridden() -> None:
    platform = Platform(status_words={**STATUS_WORDS, "UNDERPOWERED": "WAITING", "排队": "WAITING"})
    assert platform.job_status("underpowered") is JobStatus.WAITING
    assert platform.job_status("排队") is JobStatus.WAITING
    assert platform.job_status("FAILED") is JobStatus.FAILED


def test_single_endpoints_can_be_overridden() -> None:
    stop = "put /{prefix}/stop/{workspace}/{job_namespace}/{name}"
    platform = Platform(endpoints={**ENDPOINTS, "stop_job": stop}, workspace="team", job_namespace="ns")
    assert platform.locate("stop_job", {"name": "x"}) == ("PUT", "/lapis/stop/team/ns/x")
    assert platform.locate("get_job", {"name": "x"})[1].endswith("/workspaces/team/namespaces/ns/jobs/x")


def test_each_part_of_an_address_has_its_place() -> None:
    platform = Platform("kapis", "c1", "w1", "jobs", "servings")
    assert platform.locate("get_job", {"name": "x"})[1] == (
        "/kapis/clusters/c1/jobserver.leinao.ai/v1/workspaces/w1/namespaces/jobs/jobs/x"
    )
    assert platform.locate("get_serving", {"name": "x"})[1] == (
        "/kapis/inference.leinao.ai/v1/workspaces/w1/namespaces/servings/serving/x"
    )


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("a/b", "a%2Fb"),
        ("../../users", "..%2F..%2Fusers"),
        ("a b", "a%20b"),
        ("a?page=2#x", "a%3Fpage%3D2%23x"),
        ("{workspace}", "%7Bworkspace%7D"),
        ("%2F", "%252F"),
        ("模型", "%E6%A8%A1%E5%9E%8B"),
    ],
)
def test_a_name_stays_one_part_of_the_path(name: str, quoted: str) -> None:
    assert PLATFORM.locate("get_job", {"name": name}) == ("GET", f"{JOBS}/{quoted}")


def test_an_empty_part_is_refused_and_named() -> None:
    # The address of the collection would be what is left of the item's, and DELETE would mean them all.
    with pytest.raises(ConfigurationError, match="stop_job: name is empty"):
        PLATFORM.locate("stop_job", {"name": ""})
    with pytest.raises(ConfigurationError, match="list_jobs: workspace is empty"):
        replace(PLATFORM, workspace="").locate("list_jobs", {})


def test_an_empty_part_that_is_not_needed_is_no_trouble() -> None:
    assert replace(PLATFORM, cluster="").locate("list_servings", {})[0] == "GET"


@pytest.mark.parametrize(
    ("operation", "template"),
    [
        ("get_job", ""),
        ("get_job", "GET"),
        ("get_job", "/jobs/{name}"),
        ("get_job", "FETCH /jobs/{name}"),
        ("get_job", "GET jobs/{name}"),  # joined with the host, it would be another host
        ("get_job", "GET https://gw/jobs/{name}"),
        ("get_job", "GET /jobs/{name}/a b"),
        ("get_job", "GET /jobs/{name}#x"),
        ("get_job", "GET /jobs/{name"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(operation: str, template: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'endpoints'.*{operation} is not 'METHOD /path"):
        Platform(endpoints={operation: template})


@pytest.mark.parametrize(
    ("operation", "template", "complaint"),
    [
        ("get_job", "GET /jobs/{name}/{version}", "{version}.*allowed are .*{name}"),
        ("get_job", "GET /jobs/{nmae}", "{nmae}.*mean '{name}'[?]"),
        ("list_jobs", "GET /jobs/{name}", "{name}.*allowed are"),
        ("stop_job", "DELETE /jobs", "must contain {name}"),  # it would mean all of them
        ("get_serving", "GET /serving", "must contain {name}"),
    ],
)
def test_an_endpoint_with_a_wrong_placeholder_is_refused(operation: str, template: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'endpoints'.*{operation}.*{complaint}"):
        Platform(endpoints={operation: template})


def test_a_submission_may_go_to_the_collection() -> None:
    platform = Platform(endpoints={**ENDPOINTS, "submit_job": " post   /jobs?dry=0 "})
    assert platform.locate("submit_job", {"name": "x"}) == ("POST", "/jobs?dry=0")


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_every_kind_of_error_exists(kind: str) -> None:
    response = Response(200, {}, b'{"status": {"code": 7, "msg": "no"}}')
    with pytest.raises(APIError):
        unwrap(response, Request("get job 'x'", "get_job"), Platform(error_codes={"7": kind}))


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        PLATFORM.locate("restart_job", {"name": "x"})


def test_signing() -> None:
    assert NoAuth().headers() == {}
    assert BearerToken("s3cret").headers() == {"Authorization": "Bearer s3cret"}
    assert "s3cret" not in repr(BearerToken("s3cret"))


@pytest.mark.parametrize("token", ["", "s3cret\n", " s3cret", "s3 cret", "s3crét", "s3cret\r\nX-Admin: 1"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ConfigurationError, match="password") as caught:
        BearerToken(token)
    assert "s3" not in str(caught.value)

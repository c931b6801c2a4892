"""Jobs: what is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_bitahub.api.jobs import JobSpec, Mount, TaskRole, get_job, list_jobs, read_job_log, stop_job, submit_job
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Response
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.exceptions import UnexpectedResponseError

PLATFORM = Platform()
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"
ROLE: Mapping[str, Any] = {"image": "tensorflow", "command": "true"}


def spec(**fields: Any) -> JobSpec:
    return JobSpec.model_validate({"job_name": "mnist-1", "task_roles": [ROLE], **fields})


def role(**fields: Any) -> TaskRole:
    return TaskRole.model_validate({**ROLE, **fields})


def response(data: Any, status: int = 200) -> Response:
    return Response(status, {}, json.dumps({"status": {"code": 0, "msg": "success"}, "data": data}).encode())


def test_fields_may_be_named_as_in_python_or_as_in_the_document() -> None:
    assert role(memoryMB=4, shmMB=2, cpuNumber=3) == role(memory_mb=4, shm_mb=2, cpu=3)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"priority": 1}, "priority"),
        ({"api_version": "1.0"}, "2.0"),
        ({"task_roles": []}, "at least 1"),
        ({"task_roles": [{**ROLE, "gpuNumber": 1}]}, "gpuNumber"),
        ({"task_roles": [{**ROLE, "accelerators": {}}]}, "accelerators"),
        ({"task_roles": [{"image": "x"}]}, "command"),
        ({"task_roles": [ROLE, ROLE]}, "two task roles have the same name"),
        ({"code": {"mountSource": {"path": "/a", "mountPath": "/b"}, "readOnly": True}}, "readOnly"),
        ({"code": {"kind": "hdfs", "mountSource": {"path": "/a", "mountPath": "/b"}}}, "nfs"),
    ],
)
def test_what_the_platform_would_not_understand_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        spec(**fields)


@pytest.mark.parametrize(
    "name", ["", "Mnist", "mnist_1", "-mnist", "mnist-", "mnist.1", "m n", "模型", "mnist\n", "a/b", "..", "x" * 64]
)
def test_names_that_kubernetes_would_refuse_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        spec(job_name=name)
    with pytest.raises(ValidationError):
        role(task_role_name=name)


@pytest.mark.parametrize("name", ["a", "1", "mnist-train-1234", "x" * 63])
def test_names_that_kubernetes_takes_are_taken(name: str) -> None:
    assert spec(job_name=name).job_name == name


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu": 0},
        {"memory_mb": 0},
        {"shm_mb": -1},
        {"memory_mb": 1024, "shm_mb": 1025},
        {"task_number": 0},
        {"image": ""},
        {"command": ""},
        {"acc_device": {"device_type": "", "requests": 1}},
        {"acc_device": {"device_type": "gtx-1080-ti", "requests": 0}},
        {"min_failed_task_count": 0},
    ],
)
def test_impossible_resources_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        role(**fields)


def test_shared_memory_may_be_all_the_memory_and_is_half_of_it_where_nothing_is_said() -> None:
    assert role(memory_mb=1024, shm_mb=1024).shm_mb == 1024
    assert role(memory_mb=1024).shm_mb == 512
    assert role().shm_mb == 8192, "the document's"


def test_error_about_a_request_shows_none_of_its_values() -> None:
    with pytest.raises(ValidationError) as caught:
        ServingSpec.model_validate({"envs": {"API_TOKEN": ["hush-hush"]}})
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "relative", "./x", "/projects/../secret", "/projects/u/..", "../x"])
def test_paths_must_be_absolute_and_must_not_climb(path: str) -> None:
    with pytest.raises(ValidationError, match="absolute path"):
        Mount.of(path, "/code")
    with pytest.raises(ValidationError, match="absolute path"):
        Mount.of("/projects/u/p/code", path)


def test_two_dots_inside_a_name_do_not_climb() -> None:
    assert Mount.of("/datasets/u/v1..v2", "/data/u/v1..v2").mount_source.path == "/datasets/u/v1..v2"


@pytest.mark.parametrize(
    "fields",
    [
        {"code": Mount.of("/a", "/code"), "output": Mount.of("/b", "/code")},
        {"datasets": [Mount.of("/a", "/data"), Mount.of("/b", "/data/")]},
        {"code": Mount.of("/a", "/x"), "models": [Mount.of("/b", "/x")]},
        {"datasets": [Mount.of("/a", "/data")], "models": [Mount.of("/a", "/data")]},
    ],
)
def test_two_folders_at_one_place_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="two folders are mounted at /"):
        spec(**fields)


def test_all_folders_of_a_job_are_known() -> None:
    folders = [Mount.of(f"/server/{name}", f"/{name}") for name in ("code", "output", "data", "model")]
    full = spec(code=folders[0], output=folders[1], datasets=[folders[2]], models=[folders[3]])
    assert full.mounts == folders
    assert spec().mounts == []


def test_a_field_that_is_none_is_not_sent() -> None:
    body = spec(code=None, models=None).body()
    assert "code" not in body
    assert "models" not in body
    assert "accDevice" not in body["taskRoles"][0]
    assert spec(models=[]).body()["models"] == []


def test_fields_the_package_does_not_know_are_merged_last() -> None:
    call = submit_job(spec(), {"retryCount": 2, "queue": "fast"})
    assert call.request.json_body == {**spec().body(), "retryCount": 2, "queue": "fast"}


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (submit_job(spec()), "POST", f"{JOBS}/mnist-1"),
        (get_job("mnist-1"), "GET", f"{JOBS}/mnist-1"),
        (list_jobs(), "GET", JOBS),
        (stop_job("mnist-1"), "DELETE", f"{JOBS}/mnist-1"),
        (read_job_log("mnist-1"), "GET", f"{JOBS}/mnist-1/log"),
    ],
)
def test_only_looking_may_be_repeated(call: Any, method: str, path: str) -> None:
    assert PLATFORM.locate(call.request.operation, call.request.names) == (method, path)
    assert call.safe_to_repeat == (method == "GET")


def test_a_page_of_the_list_is_asked_for() -> None:
    assert list_jobs(page=3, page_size=7).request.query == {"page": "3", "limit": "7"}


@pytest.mark.parametrize("data", [None, {}, {"jobName": "mnist-1"}, {"payload": {"jobId": 7}}, "ok"])
def test_whatever_a_submission_is_answered_with_the_name_is_the_key(data: Any) -> None:
    call = submit_job(spec())
    assert call.read(response(data), PLATFORM) is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"log": "a\nb"}, "a\nb"),
        ("a\nb", "a\nb"),
        (["a", "b\n"], "a\nb"),
        ({"content": ["a", "b"]}, "a\nb"),
        ({"taskLogs": [{"taskRoleName": "worker", "log": "a\n"}, {"taskRoleName": "ps", "log": "b\n"}]}, "a\nb"),
        (None, ""),
        ({}, ""),
    ],
)
def test_a_log_is_read_in_every_shape_that_is_followed(data: Any, text: str) -> None:
    call = read_job_log("x", tail_lines=7)
    assert call.request.query == {"tailLines": "7"}
    assert call.read(response(data), PLATFORM) == text


@pytest.mark.parametrize("data", [7, {"page": 1}, [7]])
def test_what_is_no_log_is_not_shown_as_one(data: Any) -> None:
    with pytest.raises(UnexpectedResponseError, match="contains no log"):
        read_job_log("x").read(response(data), PLATFORM)

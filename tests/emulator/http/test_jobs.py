"""The document's requests for jobs, sent by hand and through the package's own calls."""

from __future__ import annotations

from typing import Any

from airflow_bitahub.api.jobs import JobSpec, get_job, list_jobs, read_job_log, submit_job
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.api.protocol import Call, Response, T
from airflow_bitahub.procedures.job_log import JobLog
from tests.emulator.conftest import JOBS, Api, assert_refused, mount


def ask(api: Api, call: Call[T]) -> T:
    """Send one of the package's calls and read its answer as the client would."""
    platform = Platform()
    method, path = platform.locate(call.request.operation, call.request.names)
    response = api.http.request(method, path, params=dict(call.request.query), json=call.request.json_body)
    return call.read(Response(response.status_code, response.headers, response.content), platform)


def test_job_succeeds(api: Api) -> None:
    (api.emulator.storage / "datasets/u/MNIST/digit").write_text("7")
    job, log = api.run("cd /code; cat /data/u/MNIST/digit; echo done > /output/result", name="mnist-train-demo-1234")
    assert log == "7"
    assert (api.emulator.storage / "projects/u/p/outputs/1/result").read_text() == "done\n"
    assert job["jobName"] == job["name"] == "mnist-train-demo-1234"
    assert job["namespace"] == "bita-user"
    assert job["kind"] == "training"
    assert job["state"] == "SUCCEEDED"
    assert job["createdTime"] <= job["launchedTime"] <= job["stopedTime"] <= job["updatedTime"]
    status = job["jobStatus"]
    assert status["appExitCode"] == 0
    assert status["appExitDiagnostics"] == ""
    assert status["createdTime"] == job["createdTime"]
    assert status["completedTime"] == status["appCompletedTime"] == job["stopedTime"]
    role = job["taskRoles"]["task1"]
    assert role["taskRoleStatus"] == {"name": "task1"}
    assert [(task["taskIndex"], task["exitCode"], task["state"]) for task in role["taskStatuses"]] == [
        (0, 0, "SUCCEEDED")
    ]


def test_job_fails(api: Api) -> None:
    job, _ = api.run("echo no such model; exit 3")
    assert job["state"] == "FAILED"
    assert job["jobStatus"]["appExitCode"] == 3
    assert job["jobStatus"]["appExitDiagnostics"] == "task 0 of role 'task1' ended with exit code 3"


def test_times_of_a_job_that_runs(api: Api) -> None:
    name = api.submit("sleep 60")
    job = api.wait_job(name, "RUNNING")
    assert job["launchedTime"]
    assert job["stopedTime"] == 0
    assert job["jobStatus"]["completedTime"] is None
    assert job["jobStatus"]["appExitCode"] is None
    api.http.delete(f"{JOBS}/{name}")
    api.wait_job(name, "STOPPED")


def test_delete_stops_then_removes(api: Api) -> None:
    # It does not listen to SIGTERM, so that it can be seen while it stops.
    name = api.submit("trap '' TERM; echo ready; sleep 60 & wait; sleep 60")
    api.until(lambda: api.log(name), bool)
    for _ in range(2):
        assert api.http.delete(f"{JOBS}/{name}").json()["status"]["code"] == 0
        assert api.job(name)["state"] == "STOPPING"
    job = api.wait_job(name)
    assert job["state"] == "STOPPED"
    assert job["jobStatus"]["appExitCode"] == 214
    assert job["jobStatus"]["executionType"] == "STOP"
    assert job["taskRoles"]["task1"]["taskStatuses"][0]["state"] == "STOPPED"

    assert api.http.delete(f"{JOBS}/{name}").json()["status"]["code"] == 0
    assert_refused(api.http.get(f"{JOBS}/{name}"), 404, name)
    assert_refused(api.http.delete(f"{JOBS}/{name}"), 404, name)
    assert_refused(api.http.get(f"{JOBS}/{name}/log"), 404, name)
    assert api.submit(name=name) == name  # the name is free again
    assert api.wait_job(name)["state"] == "SUCCEEDED"


def test_list_pages_newest_first(api: Api) -> None:
    address = JOBS.replace("bita-user", "list-namespace")
    for name in ("one", "two", "three"):
        assert api.http.post(f"{address}/{name}", json=api.job_body(name=name)).status_code == 200
    data = api.http.get(address, params={"page": 1, "limit": 2}).json()["data"]
    assert [item["name"] for item in data["items"]] == ["three", "two"]
    assert data["totalItems"] == 3
    data = api.http.get(address, params={"page": 2, "limit": 2}).json()["data"]
    assert [item["name"] for item in data["items"]] == ["one"]
    assert api.http.get(JOBS.replace("bita-user", "nobody")).json()["data"] == {"items": [], "totalItems": 0}
    assert_refused(api.http.get(address, params={"page": 0}), 400, "page")


def test_cluster_segment_is_optional(api: Api) -> None:
    name = api.submit()
    assert api.http.get(f"{JOBS}/{name}".replace("/clusters/host", "")).json()["data"]["name"] == name


def test_log_tail(api: Api) -> None:
    _, _ = api.run("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done", name="long-log")
    assert api.log("long-log").splitlines() == [f"line {i}" for i in range(201, 301)]
    assert api.log("long-log", tailLines=2) == "line 299\nline 300\n"
    assert api.log("long-log", tailLines=0) == ""
    assert_refused(api.http.get(f"{JOBS}/long-log/log", params={"tailLines": "many"}), 400, "tailLines")


def test_log_from_an_offset(api: Api) -> None:
    _, _ = api.run("echo 训练; echo two; echo three; printf '\\350\\256'", name="offset-log")  # the first half of 训

    def piece(offset: int | str, lines: int = 100) -> Any:
        return api.http.get(f"{JOBS}/offset-log/log", params={"offset": offset, "tailLines": lines}).json()["data"]

    assert piece(0) == {"log": "训练\ntwo\nthree\n", "offset": 0, "nextOffset": 17, "skippedLines": 0}
    assert piece(7) == {"log": "two\nthree\n", "offset": 7, "nextOffset": 17, "skippedLines": 0}
    assert piece(0, lines=2) == {"log": "three\n", "offset": 11, "nextOffset": 17, "skippedLines": 2}
    assert piece(99)["offset"] == 0, "the log has begun anew"
    assert_refused(api.http.get(f"{JOBS}/offset-log/log", params={"offset": "-5"}), 400, "offset")


def test_each_task_of_a_job_has_a_log_of_its_own(api: Api) -> None:
    body = api.job_body("echo hi; echo bye", name="two-logs")
    body["taskRoles"][0] |= {"taskRoleName": "worker", "taskNumber": 2}
    ask(api, submit_job(JobSpec.model_validate(body)))
    api.wait_job("two-logs")
    assert ask(api, read_job_log("two-logs")) == "hi\nbye\nhi\nbye"
    follower = JobLog("two-logs")
    first = follower.take(ask(api, follower.call()))
    assert first.lines == [f"[job worker-{index}] {word}" for index in (0, 1) for word in ("hi", "bye")]
    assert follower.call().request.query["offset"] == "worker-0:7,worker-1:7"
    assert follower.take(ask(api, follower.call())).lines == []


def test_the_packages_own_calls(api: Api) -> None:
    spec = JobSpec.model_validate(api.job_body("echo hello", name="own-calls"))
    ask(api, submit_job(spec))
    api.wait_job("own-calls")
    job = ask(api, get_job("own-calls"))
    assert job.status is JobStatus.SUCCEEDED
    assert job.exit_code == 0
    assert job.queue_seconds is not None
    assert job.run_seconds is not None
    assert ask(api, read_job_log("own-calls")) == "hello"
    assert "own-calls" in ask(api, list_jobs()).names


def test_duplicate_name(api: Api) -> None:
    name = api.submit()
    body = api.job_body(name=name, datasets=[mount("/datasets/u/none", "/data")])
    assert_refused(api.post_job(body), 409, name, "exists already")


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != field}


def names_in_ledger(api: Api) -> list[str]:
    return [entry["name"] for entry in api.http.get("/emulator/ledger").json()["data"]]


def role(api: Api, **changes: Any) -> dict[str, Any]:
    return {"taskRoles": [{**api.job_body()["taskRoles"][0], **changes}]}


def test_the_three_bodies_may_leave_out_what_the_document_does(api: Api) -> None:
    assert api.post_job(without(api.job_body(), "models")).status_code == 200


def test_refused_submissions_record_nothing(api: Api) -> None:
    before = names_in_ledger(api)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"datasets": [mount("/datasets/u/X", "/data")]}, "dataset '/datasets/u/X' does not exist"),
        ({"models": [mount("/models/u/X", "/model")]}, "model '/models/u/X' does not exist"),
        ({"code": mount("/projects/u/none/code", "/code")}, "code '/projects/u/none/code' does not exist"),
        ({"datasets": [mount("/etc", "/data")]}, "not below /projects, /datasets or /models"),
        ({"output": mount("/datasets", "/output")}, "not below"),
        ({"output": mount("/projects/../../x", "/output")}, "output.mountSource.path"),
        ({"output": mount("/projects/u/x", "/")}, "nothing can be mounted at '/'"),
        ({"output": mount("/projects/u/x", "/code/")}, "two folders are mounted at /code"),
        (role(api, image="unheard-of"), "image 'unheard-of' is unknown; known patterns: '*tensorflow*'"),
        (role(api, taskNumber=1000), "more than 64 tasks"),
        (role(api, command="echo \0"), "command: contains a null"),
        (role(api, cpuNumber="2"), "taskRoles.0.cpuNumber"),
        (role(api, cpuNumber=0), "taskRoles.0.cpuNumber"),
        (role(api, gpus=1), "taskRoles.0.gpus: Extra inputs are not permitted"),
        ({"taskRoles": []}, "taskRoles"),
        ({"apiVersion": "1.0"}, "apiVersion"),
        ({"job_name": "x"}, "job_name"),
        ({"queue": None}, "queue"),
    ]
    for changes, words in refused:
        assert_refused(api.post_job(api.job_body(**changes)), 400, words)
    body = api.job_body()
    assert_refused(api.http.post(f"{JOBS}/another", json=body), 400, "jobName", "another")
    assert_refused(api.http.post(f"{JOBS}/x", json=without(body, "jobName")), 400, "jobName: Field required")
    bad_namespace = f"{JOBS}/{body['jobName']}".replace("bita-user", "..%5C..")
    assert_refused(api.http.post(bad_namespace, json=body), 400, "namespace")
    for raw in (b"", b"{", b"[]", b"null", b"\xff", b'"text"'):
        response = api.http.post(f"{JOBS}/x", content=raw, headers={"Content-Type": "application/json"})
        assert_refused(response, 400)
    for name in ("Upper", "under_score", "-x", "x" * 64):
        assert_refused(api.post_job(api.job_body(name=name)), 400, "jobName")
    assert names_in_ledger(api) == before
    assert not (api.emulator.storage / "projects/u/x").exists()

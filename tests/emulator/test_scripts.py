"""Jobs and servings whose outcome a test defines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import DrivenClock, Emulator
from tests.emulator.conftest import JOBS, SERVINGS, Api, assert_refused


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def emulator(clock: DrivenClock, tmp_path: Path) -> Iterator[Emulator]:
    with Emulator(tmp_path, clock=clock) as emulator:
        yield emulator


@pytest.fixture
def api(emulator: Emulator) -> Iterator[Api]:
    api = Api(emulator)
    with api.http:
        yield api


def test_scripted_job_needs_neither_image_nor_inputs_and_succeeds_at_once(emulator: Emulator, api: Api) -> None:
    emulator.scripts.add(ScriptedJob())
    job = api.wait_job(api.submit("never run", models=[]))
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("SUCCEEDED", 0)
    assert [task["state"] for task in job["taskRoles"]["task1"]["taskStatuses"]] == ["SUCCEEDED"]


def test_scripted_job_writes_its_outputs_and_its_log(emulator: Emulator, api: Api) -> None:
    outputs = {"result.json": {"accuracy": 0.5}, "model/weights": b"\x00\x01", "notes.txt": "fine"}
    emulator.scripts.add(ScriptedJob(outputs=outputs, log="epoch 1\nepoch 2\n"))
    job, log = api.run("never run")
    assert job["state"] == "SUCCEEDED"
    assert log == "epoch 1\nepoch 2\n"
    folder = emulator.storage / "projects/u/p/outputs/1"
    assert (folder / "result.json").read_text() == '{"accuracy": 0.5}'
    assert (folder / "model/weights").read_bytes() == b"\x00\x01"
    assert (folder / "notes.txt").read_text() == "fine"


def test_scripted_job_may_fail(emulator: Emulator, api: Api) -> None:
    emulator.scripts.add(ScriptedJob(exit_code=137, log="out of memory\n"))
    job, _ = api.run("never run")
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 137)
    assert "ended with exit code 137" in job["jobStatus"]["appExitDiagnostics"]


def test_scripted_job_waits_and_runs_for_as_long_as_the_test_lets_pass(
    emulator: Emulator, api: Api, clock: DrivenClock
) -> None:
    emulator.scripts.add(ScriptedJob(queue_seconds=60, run_seconds=3600))
    name = api.submit("never run")
    assert api.job(name)["state"] == "WAITING"
    clock.advance(60)
    assert api.wait_job(name, "RUNNING")["state"] == "RUNNING"
    clock.advance(3600)
    job = api.wait_job(name)
    assert job["launchedTime"] - job["createdTime"] == 60_000
    assert job["stopedTime"] - job["launchedTime"] == 3_600_000


def test_scripted_job_can_be_stopped(emulator: Emulator, api: Api) -> None:
    emulator.scripts.add(ScriptedJob(run_seconds=3600))
    name = api.submit("never run")
    api.wait_job(name, "RUNNING")
    api.http.delete(f"{JOBS}/{name}")
    assert api.wait_job(name)["state"] == "STOPPED"


def test_script_added_last_counts_among_those_that_match(emulator: Emulator, api: Api) -> None:
    emulator.scripts.add(ScriptedJob())
    emulator.scripts.add(ScriptedJob(command="*evaluate.py*", exit_code=3))
    emulator.scripts.add(ScriptedJob(job_name="lucky-*"))
    assert api.run("python train.py")[0]["state"] == "SUCCEEDED"
    assert api.run("python evaluate.py --x")[0]["state"] == "FAILED"
    assert api.run("python evaluate.py --x", jobName="lucky-1")[0]["state"] == "SUCCEEDED"


def test_job_that_no_script_matches_really_runs(emulator: Emulator, api: Api) -> None:
    emulator.scripts.add(ScriptedJob(command="*train.py*"))
    response = api.post_job(api.job_body("true"))
    assert_refused(response, 400, "does not exist")


def test_scripted_job_cannot_write_outside_the_storage(emulator: Emulator, api: Api) -> None:
    for path in ("/etc/passwd", "../up", "a/../../up"):
        with pytest.raises(ValidationError, match="is not a path inside the output folder"):
            ScriptedJob(outputs={path: "x"})
    emulator.scripts.add(ScriptedJob())
    output = {"kind": "nfs", "mountSource": {"path": "/elsewhere/x", "mountPath": "/output"}}
    assert_refused(api.post_job(api.job_body("true", output=output)), 400, "/elsewhere/x")


def test_scripted_serving_answers_whatever_it_is_asked(emulator: Emulator, api: Api) -> None:
    emulator.scripts.add(ScriptedServing(answer={"predictions": [7]}))
    name = api.serve("never run")
    url = api.wait_serving(name, "RUNNING")["hosts"]
    with httpx.Client(base_url=url, trust_env=False) as http:
        for asked in (http.get("/"), http.get("/health"), http.post("/image", data={"urls": "x"})):
            assert (asked.status_code, asked.json()) == (200, {"predictions": [7]})
    api.http.delete(f"{SERVINGS}/{name}")
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_scripted_serving_may_fail(emulator: Emulator, api: Api) -> None:
    emulator.scripts.add(ScriptedServing())
    emulator.scripts.add(ScriptedServing(serving_name="bad-*", exit_code=3))
    assert api.wait_serving(api.serve("never run", name="bad-1"), "FAILED")["podstatuses"][0]["message"].endswith("3")
    api.wait_serving(api.serve("never run", name="good-1"), "RUNNING")


def test_stopping_the_emulator_ends_scripted_servings(tmp_path: Path) -> None:
    with Emulator(tmp_path) as emulator:
        emulator.scripts.add(ScriptedServing())
        api = Api(emulator)
        with api.http:
            url = api.wait_serving(api.serve("never run"), "RUNNING")["hosts"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)

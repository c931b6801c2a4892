"""The whole way, on a real scheduler and triggerer, once with real training."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import SECONDS, wait_until
from tests.e2e.dag_runs import NIGHTLY_CHECK, SCRIPTED

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


@pytest.mark.dag_runs("gate opens")
def test_the_gate_opens_and_a_digit_is_recognised(world: World) -> None:
    dag, run_id, state = world.finish("gate opens")

    assert state == "success", world.states(dag, run_id)
    assert set(world.states(dag, run_id).values()) == {"success"}
    assert world.airflow.xcom(dag, run_id, "evaluate")["metrics"]["accuracy"] >= 0.88
    assert world.airflow.xcom(dag, run_id, "gate")["open"] is True
    assert world.airflow.xcom(dag, run_id, "ask")["predictions"] == [7]
    version = world.airflow.xcom(dag, run_id, "save_model")["version"]
    assert version in world.model_versions()
    assert world.airflow.xcom(dag, run_id, "deploy")["model_path"].endswith(version)
    assert "opened" in world.servings()
    assert "opened-next" not in world.servings()


@pytest.mark.dag_runs("gate opens")
def test_a_service_that_answers_rightly_is_not_rolled_back(world: World) -> None:
    world.finish("gate opens")
    run_id = world.airflow.trigger(NIGHTLY_CHECK, {"serving_name": "opened"})

    assert world.airflow.wait(NIGHTLY_CHECK, run_id, seconds=SECONDS) == "success"
    states = world.states(NIGHTLY_CHECK, run_id)
    assert states.pop("roll_back") == "skipped"
    assert set(states.values()) == {"success"}
    assert world.airflow.xcom(NIGHTLY_CHECK, run_id, "compare")["accuracy"] >= 0.7
    assert len(world.airflow.xcom(NIGHTLY_CHECK, run_id, "ask")["predictions"]) == 50


@pytest.mark.long
@pytest.mark.dag_runs("gate closes")
def test_a_threshold_that_cannot_be_met_leaves_nothing_deployed(world: World) -> None:
    dag, run_id, state = world.finish("gate closes")

    after = world.states(dag, run_id)
    assert state == "success", after
    assert after["gate"] == "success"
    assert {after["deploy"], after["ask"]} == {"skipped"}
    assert world.airflow.xcom(dag, run_id, "gate")["open"] is False
    assert "closed" not in world.servings()


@pytest.mark.long
@pytest.mark.dag_runs("three days")
def test_a_backfill_runs_side_by_side_and_its_newest_day_serves(world: World) -> None:
    def runs() -> list[dict[str, Any]]:
        path = f"/dags/{SCRIPTED}/dagRuns?run_type=backfill"
        found: list[dict[str, Any]] = world.airflow.call("GET", path)["dag_runs"]
        return found

    wait_until(lambda: len(runs()) == 3)
    for run in runs():
        assert world.airflow.wait(SCRIPTED, run["dag_run_id"], seconds=SECONDS) == "success"
    finished = runs()
    assert max(run["start_date"] for run in finished) < min(run["end_date"] for run in finished), "one after the other"
    versions = {world.airflow.xcom(SCRIPTED, run["dag_run_id"], "save_model")["version"] for run in finished}
    assert len(versions) == 3
    assert versions <= world.model_versions()
    deploys = {run["logical_date"][:10]: world.airflow.tasks(SCRIPTED, run["dag_run_id"])["deploy"] for run in finished}
    deployed = sorted((task["end_date"], day) for day, task in deploys.items() if task["state"] == "success")
    days = [day for _, day in deployed]
    assert days == sorted(days), "an older run replaced a newer one"
    assert days[-1] == max(deploys)
    assert "backfilled-next" not in world.servings()


def test_a_retry_after_the_worker_was_killed_finds_its_job(world: World) -> None:
    run_id = world.airflow.trigger("one_job")
    job = wait_until(lambda: next((job for job in world.ledger("one-job") if job["state"] == "RUNNING"), None))

    for process in world.worker_processes(world.airflow.tasks("one_job", run_id)["job"]["id"]):
        os.kill(process.pid, signal.SIGKILL)

    assert world.airflow.wait("one_job", run_id, seconds=SECONDS) == "success"
    task = world.airflow.tasks("one_job", run_id)["job"]
    assert task["try_number"] == 2
    assert [entry["name"] for entry in world.ledger("one-job")] == [job["name"]]
    result = world.airflow.xcom("one_job", run_id, "job")
    assert result["job_name"] == job["name"]
    output = world.emulator.storage / result["output_path"].lstrip("/")
    assert (output / "result.txt").read_text() == "done\n"
    assert (output.parent.parent / f"code-{result['code_digest']}" / "run.sh").exists()


def test_marking_tasks_as_failed_stops_their_jobs(world: World) -> None:
    dag, run_id = "both_ways", world.airflow.trigger("both_ways")
    wait_until(lambda: world.states(dag, run_id) == {"on-worker": "running", "in-triggerer": "deferred"})
    # Airflow tells nobody about a trigger that no triggerer has begun yet, which takes one a moment.
    wait_until(lambda: world.airflow.tasks(dag, run_id)["in-triggerer"]["triggerer_job"])
    before = len(queries(world, dag, run_id))
    wait_until(lambda: len(queries(world, dag, run_id)) > before + 4)

    for task in ("on-worker", "in-triggerer"):
        world.airflow.call("PATCH", f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}", {"new_state": "failed"})

    def job_states() -> set[str]:
        return {job["state"] for task in ("on-worker", "in-triggerer") if (job := world.job(dag, run_id, task))}

    wait_until(lambda: job_states() == {"STOPPED"})


def queries(world: World, dag: str, run_id: str) -> list[Any]:
    """Return the requests that asked about the job of the task that waits on its worker."""
    job = world.job(dag, run_id, "on-worker")
    return [request for request in job["requests"] if request["method"] == "GET"] if job else []


@pytest.mark.long
@pytest.mark.dag_runs("function")
def test_a_python_function_runs_on_the_platform_and_what_it_returns_is_the_tasks_result(world: World) -> None:
    dag, run_id, state = world.finish("function")

    assert state == "success", world.states(dag, run_id)
    assert world.airflow.xcom(dag, run_id, "best")["learning_rate"] == 0.5
    for index in (0, 1):
        output = world.airflow.xcom(dag, run_id, "train", "bitahub_output_path", map_index=index)
        assert (world.emulator.storage / output.lstrip("/") / "model.json").exists()

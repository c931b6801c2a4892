"""The whole way, on a real scheduler and triggerer, with real training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e

DAG = "mnist_lifecycle"
SECONDS = 400


def states(world: World, dag: str, run_id: str) -> dict[str, str]:
    return {name: ti["state"] for name, ti in world.airflow.tasks(dag, run_id).items()}


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return answer


def test_the_gate_opens_and_a_digit_is_recognised(world: World) -> None:
    run_id = world.airflow.trigger(DAG, {"serving_name": "opened"})

    assert world.airflow.wait(DAG, run_id, seconds=SECONDS) == "success", states(world, DAG, run_id)
    assert set(states(world, DAG, run_id).values()) == {"success"}
    assert world.airflow.xcom(DAG, run_id, "evaluate")["metrics"]["accuracy"] >= 0.88
    assert world.airflow.xcom(DAG, run_id, "gate")["open"] is True
    assert world.airflow.xcom(DAG, run_id, "ask")["predictions"] == [7]
    version = world.airflow.xcom(DAG, run_id, "save_model")["version"]
    assert version in world.model_versions()
    assert "opened" in world.servings()


def test_a_threshold_that_cannot_be_met_leaves_nothing_deployed(world: World) -> None:
    run_id = world.airflow.trigger(DAG, {"threshold": 1, "epochs": 1, "serving_name": "closed"})

    assert world.airflow.wait(DAG, run_id, seconds=SECONDS) == "success", states(world, DAG, run_id)
    after = states(world, DAG, run_id)
    assert after["gate"] == "success"
    assert {after["newest_only"], after["deploy"], after["ask"]} == {"skipped"}
    assert world.airflow.xcom(DAG, run_id, "gate")["open"] is False
    assert "closed" not in world.servings()


def test_a_closed_gate_closes_whatever_its_downstream_wants(world: World) -> None:
    run_id = world.airflow.trigger("gates")

    assert world.airflow.wait("gates", run_id, seconds=SECONDS) == "success"
    after = states(world, "gates", run_id)
    assert {name: after.pop(name) for name in ("candidate.deploy[0]", "candidate.deploy[1]")} == {
        "candidate.deploy[0]": "skipped",
        "candidate.deploy[1]": "success",
    }
    assert {state for name, state in after.items() if name.startswith("after_")} == {"skipped"}
    assert after["clean_up"] == "success"


def test_a_backfill_runs_side_by_side_and_deploys_once_at_most(world: World) -> None:
    before = world.model_versions()
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    backfill = {
        "dag_id": DAG,
        "from_date": (today - timedelta(days=2)).isoformat(),
        "to_date": today.isoformat(),
        "max_active_runs": 3,
        "dag_run_conf": {"epochs": 1, "threshold": 0.5, "serving_name": "backfilled"},
    }
    world.airflow.call("POST", "/backfills", backfill)

    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = world.airflow.call("GET", f"/dags/{DAG}/dagRuns?run_type=backfill")["dag_runs"]
        return found

    wait_until(lambda: len(runs()) == 3)
    for run in runs():
        assert world.airflow.wait(DAG, run["dag_run_id"], seconds=SECONDS) == "success"
    finished = runs()
    assert max(run["start_date"] for run in finished) < min(run["end_date"] for run in finished), "one after the other"
    assert len(world.model_versions() - before) == 3
    deployed = [run for run in finished if states(world, DAG, run["dag_run_id"])["deploy"] == "success"]
    assert [run["logical_date"][:10] for run in deployed] in ([], [today.date().isoformat()])


def test_a_retry_after_the_worker_was_killed_finds_its_job(world: World) -> None:
    run_id = world.airflow.trigger("one_job")
    job = wait_until(lambda: next((job for job in world.ledger("one-job") if job["state"] == "RUNNING"), None))

    for process in worker_processes(world):
        os.kill(process.pid, signal.SIGKILL)

    assert world.airflow.wait("one_job", run_id, seconds=SECONDS) == "success"
    task = world.airflow.tasks("one_job", run_id)["job"]
    assert task["try_number"] == 2
    assert [entry["name"] for entry in world.ledger("one-job")] == [job["name"]]
    result = world.airflow.xcom("one_job", run_id, "job")
    assert result["job_name"] == job["name"]
    output = world.emulator.storage / result["output_path"].lstrip("/")
    assert (output / "result.txt").read_text() == "done\n"


def test_marking_tasks_as_failed_stops_their_jobs(world: World) -> None:
    run_id = world.airflow.trigger("both_ways")
    wait_until(lambda: states(world, "both_ways", run_id) == {"on-worker": "running", "in-triggerer": "deferred"})
    # Airflow tells nobody about a trigger that no triggerer has begun yet, which takes one a moment.
    wait_until(lambda: world.airflow.tasks("both_ways", run_id)["in-triggerer"]["triggerer_job"])
    before = len(looks(world, "on-worker"))
    wait_until(lambda: len(looks(world, "on-worker")) > before + 4)

    for task in ("on-worker", "in-triggerer"):
        path = f"/dags/both_ways/dagRuns/{run_id}/taskInstances/{task}"
        world.airflow.call("PATCH", path, {"new_state": "failed"})

    wait_until(
        lambda: {job["state"] for task in ("on-worker", "in-triggerer") for job in world.ledger(task)} == {"STOPPED"}
    )


def looks(world: World, prefix: str) -> list[Any]:
    return [request for job in world.ledger(prefix) for request in job["requests"] if request["method"] == "GET"]


def worker_processes(world: World) -> list[psutil.Process]:
    """Give the process that runs the task of `one_job`, and the one that supervises it."""
    scheduler = psutil.Process(world.airflow.processes["scheduler"].pid)
    workers = [process for process in scheduler.children(recursive=True) if process.children()]
    assert workers, "no task runs"
    return [process for worker in workers for process in (worker, *worker.children(recursive=True))]

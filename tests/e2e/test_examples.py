"""The examples of a sweep and of an approval, and what Airflow's metrics say of both, on a real scheduler."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import SLOTS, SWEPT, wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.long]

# Seconds after which an answer no longer meets the scheduler's belated news that the task has left its worker.
PARKED = 8


@pytest.mark.dag_runs("sweep")
def test_a_sweep_deploys_its_best_model_and_runs_few_jobs_at_once(world: World) -> None:
    dag, run_id, state = world.finish("sweep")

    assert state == "success", world.states(dag, run_id)
    tasks = world.airflow.tasks(dag, run_id)
    trainings = {index: tasks[f"train[{index}]"] for index in range(len(SWEPT))}
    assert {index: task["state"] for index, task in trainings.items()} == {
        index: "failed" if accuracy is None else "success" for index, accuracy in enumerate(SWEPT.values())
    }
    assert [task["rendered_map_index"] for task in trainings.values()] == [f"learning rate {rate}" for rate in SWEPT]
    best = world.airflow.xcom(dag, run_id, "best")
    assert best["index"] == 3, "its map index, although one before has no result"
    assert best["ranking"] == [{"index": 3, "value": 0.96}, {"index": 2, "value": 0.91}]
    assert best["job_name"] == world.airflow.xcom(dag, run_id, "train", map_index=3)["job_name"]
    assert "swept" in world.servings()
    urls = [world.airflow.xcom(dag, run_id, "train", "bitahub_job_url", map_index=index) for index in trainings]
    names = {url.rpartition("/")[2] for url in urls}
    jobs = [job for job in world.ledger("scripted-train-") if job["name"] in names]
    assert len(jobs) == len(SWEPT)
    times = sorted([(job["createdTime"], 1) for job in jobs] + [(job["stopedTime"], -1) for job in jobs])
    running, most = 0, 0
    for _, change in times:
        running += change
        most = max(most, running)
    assert most <= SLOTS
    for index in trainings:
        log = world.airflow.call("GET", f"/dags/{dag}/dagRuns/{run_id}/taskInstances/train/logs/1?map_index={index}")
        assert "DEFERRED" in json.dumps(log), "it occupied its slot because it was never deferred"


def answer(world: World, name: str, option: str) -> dict[str, Any]:
    """Wait until a run asks for approval, answer it, and return what it showed."""
    dag, run_id = world.run(name)
    wait_until(lambda: world.states(dag, run_id).get("approve") == "awaiting_input", seconds=600)
    parked = time.monotonic()
    path = f"/dags/{dag}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    details: dict[str, Any] = world.airflow.call("GET", path)
    time.sleep(max(0.0, parked + PARKED - time.monotonic()))
    world.airflow.call("PATCH", path, {"chosen_options": [option], "params_input": {}})
    assert world.finish(name)[2] == "success", world.states(dag, run_id)
    return details


@pytest.mark.dag_runs("approval", "rejection")
def test_a_model_is_deployed_only_after_somebody_has_agreed(world: World) -> None:
    assert "approved" not in world.servings()
    details = answer(world, "approval", "Approve")
    assert "| `accuracy` | 0.9 |" in details["body"]
    assert "bitahub/confusion_matrix?dag_id=release_with_approval&run_id=" in details["body"]
    assert details["subject"].startswith("Deploy approved from /models/")
    assert details["defaults"] == ["Reject"]
    assert set(world.states(*world.run("approval")).values()) == {"success"}
    serving = world.servings()["approved"]
    del serving["meteringDetail"]  # it runs on

    answer(world, "rejection", "Reject")
    states = world.states(*world.run("rejection"))
    assert states.pop("deploy") == "skipped"
    assert set(states.values()) == {"success"}
    assert world.servings()["approved"].items() >= serving.items()


@pytest.mark.dag_runs("sweep", "approval")
def test_workers_and_the_triggerer_send_metrics(world: World) -> None:
    for name in ("sweep", "approval"):
        world.finish(name)
    counts = world.metrics.counts

    def of(name: str, dag_id: str, task_id: str) -> int:
        return counts[f"airflow.bitahub.{name},dag_id={dag_id},task_id={task_id}"]

    assert of("job.submitted", "parameter_sweep", "train") == len(SWEPT)
    assert of("job.ended.succeeded", "parameter_sweep", "train") == len(SWEPT) - 1
    assert of("job.ended.failed", "parameter_sweep", "train") == 1
    assert of("rollout.deployed", "release_with_approval", "deploy") == 1
    assert counts["airflow.bitahub.watch.queries,connection=bitahub_default"] > 0

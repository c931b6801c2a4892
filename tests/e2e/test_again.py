"""Running again, on a real scheduler: clears, backfills and retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import SECONDS, wait_until
from tests.e2e.dag_runs import BACKFILLS

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def finish(world: World, backfill_id: str) -> str:
    """Wait for the end of a backfill of one day and return the id of its DAG run."""
    wait_until(lambda: world.airflow.call("GET", f"/backfills/{backfill_id}")["completed_at"], SECONDS)
    [run] = world.airflow.call("GET", "/dags/again/dagRuns?run_type=backfill")["dag_runs"]
    assert world.airflow.wait("again", run["dag_run_id"], seconds=SECONDS) == "success"
    return str(run["dag_run_id"])


def results(world: World, run_id: str) -> list[str]:
    return [str(world.airflow.xcom("again", run_id, "job", map_index=index)["job_name"]) for index in (0, 1)]


@pytest.mark.dag_runs("one day")
def test_running_again_makes_new_jobs_and_takes_their_results(world: World) -> None:
    run_id = finish(world, world.started["one day"])
    first = results(world, run_id)

    assert finish(world, BACKFILLS["one day"].start(world.airflow, "completed")) == run_id
    second = results(world, run_id)

    body = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "reset_dag_runs": True}
    world.airflow.call("POST", "/dags/again/clearTaskInstances", body)
    wait_until(lambda: world.airflow.state("again", run_id) != "success")
    assert world.airflow.wait("again", run_id, seconds=SECONDS) == "success"
    third = results(world, run_id)

    ledger = {job["name"]: job["state"] for job in world.ledger("again-20260105-")}
    assert ledger == dict.fromkeys([*first, *second, *third], "SUCCEEDED")
    assert len(ledger) == 6, "a job was used twice"


@pytest.mark.dag_runs("endings")
def test_endings_are_told_apart(world: World) -> None:
    dag, run_id, state = world.finish("endings")
    assert state == "failed"
    tasks: dict[str, Any] = world.airflow.tasks(dag, run_id)
    assert {name: (task["state"], task["try_number"]) for name, task in tasks.items()} == {
        "too-long-on-worker": ("failed", 1),
        "too-long-in-triggerer": ("failed", 1),
        "unknown-image": ("failed", 1),  # a mistake, which uses up no retries
        "fails-once-more": ("failed", 2),
    }
    assert [job["state"] for job in world.ledger("too-long-")] == ["STOPPED", "STOPPED"]
    for where in ("on-worker", "in-triggerer"):  # on the latter, both the worker and the triggerer have logged
        lines = world.job_lines(dag, run_id, f"too-long-{where}")
        assert lines == [f"line {number} 训练" for number in range(1, len(lines) + 1)]
        assert len(lines) > 10
    assert world.ledger("unknown-image") == []
    assert [job["name"][-2:] for job in world.ledger("fails-once-more")] == ["-1", "-2"]

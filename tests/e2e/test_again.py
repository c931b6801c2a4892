"""Running again, on a real scheduler: clears, backfills and retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import SECONDS, wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

DAY = "2026-01-05T00:00:00Z"


def backfill(world: World, reprocess: str) -> str:
    """Backfill one day, wait for the end, and return the id of the DAG run."""
    body = {"dag_id": "again", "from_date": DAY, "to_date": DAY, "reprocess_behavior": reprocess}
    made = world.airflow.call("POST", "/backfills", body)
    wait_until(lambda: world.airflow.call("GET", f"/backfills/{made['id']}")["completed_at"], SECONDS)
    runs = world.airflow.call("GET", "/dags/again/dagRuns?run_type=backfill")["dag_runs"]
    [run] = [run for run in runs if run["logical_date"] == DAY]
    assert world.airflow.wait("again", run["dag_run_id"], seconds=SECONDS) == "success"
    return str(run["dag_run_id"])


def results(world: World, run_id: str) -> list[str]:
    return [str(world.airflow.xcom("again", run_id, "job", map_index=index)["job_name"]) for index in (0, 1)]


def test_running_again_makes_new_jobs_and_takes_their_results(world: World) -> None:
    run_id = backfill(world, "none")
    first = results(world, run_id)

    assert backfill(world, "completed") == run_id
    second = results(world, run_id)

    body = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "reset_dag_runs": True}
    world.airflow.call("POST", "/dags/again/clearTaskInstances", body)
    wait_until(lambda: world.airflow.state("again", run_id) != "success")
    assert world.airflow.wait("again", run_id, seconds=SECONDS) == "success"
    third = results(world, run_id)

    ledger = {job["name"]: job["state"] for job in world.ledger("again-20260105-")}
    assert ledger == dict.fromkeys([*first, *second, *third], "SUCCEEDED")
    assert len(ledger) == 6, "none was taken twice"


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
    assert world.ledger("unknown-image") == []
    assert [job["name"][-2:] for job in world.ledger("fails-once-more")] == ["-1", "-2"]

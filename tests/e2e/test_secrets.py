"""No secret appears where it must not be. This test searches what all earlier tests left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import secrets_of, wait_until
from tests.leaks import leaks

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "deploys",  # a serving, which has a token
    [
        pytest.param("gate opens", marks=pytest.mark.dag_runs("gate opens")),
        pytest.param("deployments", marks=[pytest.mark.dag_runs("deployments"), pytest.mark.long]),
    ],
)
def test_no_secret_is_in_database_logs_or_process_arguments(world: World, deploys: str) -> None:
    airflow = world.airflow
    world.finish(deploys)
    dag, run_id = "both_ways", airflow.trigger("both_ways")
    # A trigger is only in the database while its task is deferred.
    wait_until(lambda: world.states(dag, run_id) == {"on-worker": "running", "in-triggerer": "deferred"})
    assert world.emulator.state.servings()
    assert world.sign_in.issued
    secrets = secrets_of(world.emulator, world.sign_in)

    assert leaks(airflow.home, secrets) == []
    assert [line for line in world.arguments.seen for secret in secrets.values() if secret in line] == []

    # The search works: it finds other values in all these places.
    job = airflow.xcom(dag, run_id, "in-triggerer", "bitahub_job_url").rpartition("/")[2]
    found = leaks(airflow.home, {"the job": job, "the command": "sleep 3000"})
    for place in ("logs/", "xcom", "task_state_store", "trigger", "rendered_task_instance_fields"):
        assert any(place in leak for leak in found), place
    assert any("airflow scheduler" in line for line in world.arguments.seen)

    for task in ("on-worker", "in-triggerer"):
        airflow.call("PATCH", f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}", {"new_state": "failed"})

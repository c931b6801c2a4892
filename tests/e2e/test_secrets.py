"""No secret leaves its place: this looks at what all that ran before it has left behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.leaks import leaks

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


def test_no_secret_is_in_database_logs_or_process_arguments(world: World) -> None:
    airflow = world.airflow
    if not world.servings():  # these tests were chosen to run alone
        run_id = airflow.trigger("mnist_lifecycle", {"epochs": 1, "threshold": 0.1})
        assert airflow.wait("mnist_lifecycle", run_id, seconds=400) == "success"
    run_id = airflow.trigger("both_ways")  # a trigger is only in the database while its task is deferred
    deadline = time.monotonic() + 60
    while {ti["state"] for ti in airflow.tasks("both_ways", run_id).values()} != {"deferred", "running"}:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    servings = world.emulator.state.servings()
    assert servings
    secrets = {"the password": world.emulator.token} | {f"the token of {each.key}": each.token for each in servings}

    assert leaks(airflow.home, secrets) == []
    assert [line for line in world.arguments.seen for secret in secrets.values() if secret in line] == []

    # What is no secret is found in all these places, so a secret would be.
    job = airflow.xcom("both_ways", run_id, "in-triggerer", "bitahub_job_url").rpartition("/")[2]
    found = leaks(airflow.home, {"the job": job, "the command": "sleep 300"})
    for place in ("logs/", "xcom", "task_state_store", "trigger", "rendered_task_instance_fields"):
        assert any(place in leak for leak in found), place
    assert any("airflow api-server" in line for line in world.arguments.seen)

    for task in ("on-worker", "in-triggerer"):
        airflow.call("PATCH", f"/dags/both_ways/dagRuns/{run_id}/taskInstances/{task}", {"new_state": "failed"})

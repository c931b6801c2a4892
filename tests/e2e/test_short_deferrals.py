"""Short deferrals, on a real scheduler with the default heartbeat of its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import SECONDS

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


@pytest.mark.dag_runs
def test_no_task_fails_because_its_job_ended_soon_after_the_deferral(world: World, short_deferrals: str) -> None:
    assert "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL" not in world.airflow.environment
    world.airflow.wait("short_deferrals", short_deferrals, seconds=2 * SECONDS)
    tasks = world.airflow.tasks("short_deferrals", short_deferrals)
    assert len(tasks) == 100
    assert {name: task["state"] for name, task in tasks.items() if task["state"] != "success"} == {}
    assert min(task["duration"] for task in tasks.values()) >= 7, "a task was not deferred"

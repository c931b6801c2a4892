"""Whether anybody still wants what a task instance waits for."""

from __future__ import annotations

from typing import Any, Protocol

# A task in one of these states will come back for its job, or is already there. Everything else, a vanished row
# included, means that somebody marked, cleared or deleted it.
_WANTED = {"running", "deferred", "queued", "scheduled", "up_for_retry", "up_for_reschedule"}


class TaskInstance(Protocol):
    """The part of Airflow's task instances, as workers and triggerers know them, that is used here."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int | None


def is_wanted(ti: TaskInstance) -> bool:
    """Ask Airflow whether the task instance still waits for its job.

    `on_kill` also runs when a pod is merely drained, or a trigger merely moved to another triggerer. Then the job must
    live on, for the next try to find it. No answer counts as a yes, for the same reason.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        states: dict[str, Any] = RuntimeTaskInstance.get_task_states(
            dag_id=ti.dag_id,
            task_ids=[ti.task_id],
            run_ids=[ti.run_id],
            map_index=None if ti.map_index is None or ti.map_index < 0 else ti.map_index,
        )
    except Exception:
        return True
    return any(state in _WANTED for state in states.get(ti.run_id, {}).values())

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


def is_wanted(ti: TaskInstance, *, when_reset: bool) -> bool:
    """Ask Airflow whether the task instance still waits for its job.

    `on_kill` also runs when a pod is merely drained, or a trigger merely moved to another triggerer. Then the job must
    live on, for the next try to find it. No answer counts as a yes, for the same reason.

    :param when_reset: the answer where the task has no state at all. To a worker that means that a new scheduler took
        the task for an orphan of one that died, and will start it again. To a triggerer it means that the task was
        cleared, since schedulers leave deferred tasks alone; its next try may be a long way off.
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
    found = states.get(ti.run_id, {}).values()
    return any(when_reset if state is None else state in _WANTED for state in found)

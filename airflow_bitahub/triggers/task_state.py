"""Whether the task of a job or serving is still active, so that the job or serving must go on."""

from __future__ import annotations

from typing import Any, Protocol

# A task in one of these states waits for its job, or will come back to it. Any other state, or no such row, means that
# a user marked, cleared or deleted the task.
_ACTIVE_STATES = {"running", "deferred", "queued", "scheduled", "up_for_retry", "up_for_reschedule"}


class TaskInstance(Protocol):
    """What this module reads of Airflow's task instances; those of workers and triggerers have it alike."""

    @property
    def dag_id(self) -> str:
        """The DAG."""

    @property
    def task_id(self) -> str:
        """The task in it."""

    @property
    def run_id(self) -> str:
        """The DAG run."""

    @property
    def map_index(self) -> int | None:
        """Which of a mapped task's instances it is; -1 or None: it is not mapped."""


def is_task_active(ti: TaskInstance, *, when_reset: bool) -> bool:
    """Ask Airflow whether a task instance still waits for its job or serving.

    `on_kill` also runs when a worker's pod is drained, or when a trigger moves to another triggerer. Then the job must
    go on, and the next try finds it. For the same reason the answer is True when Airflow does not answer.

    :param when_reset: the answer for a task without any state. In a worker it means that a new scheduler took over the
        task from one that died, and will start the task again. In a triggerer it means that a user cleared the task,
        because schedulers do not reset deferred tasks; its next try may come much later.
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
    return any(when_reset if state is None else state in _ACTIVE_STATES for state in found)

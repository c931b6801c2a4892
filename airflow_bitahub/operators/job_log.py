"""The job's log in the task's log, on a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_bitahub.operators.masking import AirflowMask
from airflow_bitahub.procedures.job_log import (
    CURSOR_KEY,
    LAST_LINES,
    LINES_PER_LOOK,
    JobLog,
    Look,
    wait_and_follow,
    without_mark,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.hooks.bitahub import BitaHubHook


class TaskLog:
    """Logs what the job of a task prints.

    :param log: the task's logger
    :param interval: seconds between two looks at the job's log; 0: only its last lines are logged
    """

    def __init__(self, context: Context, log: Any, job_name: str, interval: float) -> None:
        self._ti = context["ti"]
        self._log = log
        self._interval = interval
        self._is_resumed = False
        self._job_log = JobLog(job_name, mask=AirflowMask())
        self._last_line = ""

    def resume(self) -> None:
        """Go on where an earlier process has stopped logging the same job, in this try."""
        self._is_resumed = True
        if self._interval:
            self._job_log = JobLog(self._job_log.name, self._load_cursor(), AirflowMask())

    def follow(self, waiting: Procedure[Job]) -> Procedure[Job]:
        """Wait for the job as `waiting` does, and log what it prints meanwhile."""
        return wait_and_follow(waiting, self._job_log, self._interval, self._say) if self._interval else waiting

    def keep(self) -> None:
        """Store how far the log was logged, for the trigger."""
        if not self._interval:
            return
        try:
            self._ti.xcom_push(key=CURSOR_KEY, value=self._job_log.cursor)
        except Exception as error:  # lines that are logged twice cost less than the job
            self._log.debug("How far the job's log was logged could not be stored: %s", error)

    def conclude(self, hook: BitaHubHook) -> None:
        """Log the last lines of a job that has ended.

        Where triggerers have hosts of their own, what they have logged is not shown any more once a task has resumed.
        So a resumed task logs the last lines again.
        """
        most = LINES_PER_LOOK if self._interval else LAST_LINES
        look = self._read_end(hook, self._job_log, most)
        if self._is_resumed and look is not None and len(look.lines) < LAST_LINES:
            whole = self._read_end(hook, JobLog(self._job_log.name, mask=AirflowMask()), LINES_PER_LOOK)
            if whole is not None and len(whole.lines) > len(look.lines):
                self._log.info("The last lines of the job's log, some of which may have been logged before:")
                look = Look(whole.lines[-LAST_LINES:])
        if look is not None:
            self._say(look)

    def _load_cursor(self) -> Any:
        try:
            # Without the index, Airflow returns the cursors of all instances of a mapped task.
            return self._ti.xcom_pull(task_ids=self._ti.task_id, key=CURSOR_KEY, map_indexes=self._ti.map_index)
        except Exception as error:  # the job's end matters more
            self._log.debug("How far the job's log was logged is not known: %s", error)
            return None

    def _read_end(self, hook: BitaHubHook, job_log: JobLog, most: int) -> Look | None:
        try:
            return job_log.take(hook.send(job_log.call(most)), most, is_last=True)
        except Exception as error:  # the platform may have no such call, and the job's end matters more
            self._log.debug("The job's log cannot be read: %s", error)
            return None

    @property
    def last_line(self) -> str:
        """The last line that was logged and is not empty, without its mark: often the reason of a failure."""
        return self._last_line

    def _say(self, look: Look) -> None:
        for line in look.shown():
            self._log.info("%s", line)
        self._last_line = next(filter(None, map(without_mark, reversed(look.lines))), self._last_line)

"""What operators that start something on the platform do alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferralError, TaskDeferralTimeout

from airflow_bitahub.hooks import DEFAULT_CONN_ID

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_bitahub.hooks.bitahub import BitaHubHook

T = TypeVar("T")

# What the scheduler gives a trigger beyond its deadline, for the case that no triggerer is there to keep that.
NO_TRIGGERER = timedelta(minutes=5)
# Airflow kills a task process 5 seconds after its SIGTERM.
KILL_BUDGET = 4.0


class BitaHubOperator(BaseOperator):
    """Talks to BitaHub through a connection.

    It has no constructor: Airflow copies all of a DAG's params for every one in an operator's ancestry.
    """

    bitahub_conn_id: str = DEFAULT_CONN_ID
    _is_unwanted = False

    @cached_property
    def hook(self) -> BitaHubHook:
        """The hook this operator talks through."""
        from airflow_bitahub.hooks.bitahub import BitaHubHook

        return BitaHubHook(self.bitahub_conn_id)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Take up a deferred task again, also where it was the framework that ended its waiting."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            return self.take_up_failure(context, error)

    def take_up_failure(self, context: Context, error: TaskDeferralError | TaskDeferralTimeout) -> Any:  # noqa: ARG002
        """Give the result after all, or raise what it means that the trigger failed or nobody kept its deadline."""
        raise error

    def stop_if_unwanted(self, context: Context, what: str, stop: Callable[[], None]) -> None:
        """Call `stop` if somebody marked, cleared or deleted the task, for use in `on_kill`.

        `on_kill` also runs when a worker is merely drained; then what the task started lives on, and the next try
        finds it. It is a signal handler, and what it interrupted may hold the lock of the channel to Airflow, which
        would never be released while the handler waits for it: hence the thread with a time limit.
        """

        from airflow_bitahub.triggers.task_state import is_task_active

        def work() -> None:
            if is_task_active(context["ti"], when_reset=True):
                self.log.info("The %s lives on: its task still waits for it", what)
                return
            self._is_unwanted = True
            self.log.info("Stopping the %s: its task no longer waits for it", what)
            stop()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(KILL_BUDGET)

    @staticmethod
    def despite_the_alarm(stop: Callable[[], T]) -> T:
        """Give what `stop` gives; Airflow's alarm for ``execution_timeout`` may interrupt it, but only once."""
        try:
            return stop()
        except AirflowTaskTimeout:
            return stop()

    def check_still_wanted(self) -> None:
        """Raise if `stop_if_unwanted` has found that nobody waits for the task.

        Airflow lets the task go on for some seconds after `on_kill`, in which it must not start anything new.
        """
        if self._is_unwanted:
            raise AirflowFailException("The task was marked, cleared or deleted, so that nothing new is started.")


def keep(context: Context, key: str, value: dict[str, Any]) -> None:
    """Write down in Airflow's task state store what later tries have to know.

    It goes with the DAG run, and no sooner: a job, or its wait for its turn, may outlast the store's retention.
    """
    from airflow.sdk.execution_time.context import NEVER_EXPIRE

    context["task_state_store"].set(key, value, retention=NEVER_EXPIRE)

"""What operators that start something on the platform do alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.triggers.task_state import is_wanted

if TYPE_CHECKING:
    from airflow.sdk import Context

# Airflow kills a task process 5 seconds after its SIGTERM.
KILL_BUDGET = 4.0


class BitaHubOperator(BaseOperator):
    """Talks to BitaHub through a connection.

    :param bitahub_conn_id: the Airflow connection
    """

    def __init__(self, *, bitahub_conn_id: str = BitaHubHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bitahub_conn_id = bitahub_conn_id
        self._is_unwanted = False

    @cached_property
    def hook(self) -> BitaHubHook:
        """The hook this operator talks through."""
        return BitaHubHook(self.bitahub_conn_id)

    def stop_if_unwanted(self, context: Context, what: str, stop: Callable[[], None]) -> None:
        """Call `stop` if somebody marked, cleared or deleted the task, for use in `on_kill`.

        `on_kill` also runs when a worker is merely drained; then what the task started lives on, and the next try
        finds it. It is a signal handler, and what it interrupted may hold the lock of the channel to Airflow, which
        would never be released while the handler waits for it: hence the thread with a time limit.
        """

        def work() -> None:
            if is_wanted(context["ti"], when_reset=True):
                self.log.info("The %s lives on: its task still waits for it", what)
                return
            self._is_unwanted = True
            self.log.info("Stopping the %s: its task no longer waits for it", what)
            stop()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(KILL_BUDGET)

    def check_still_wanted(self) -> None:
        """Raise if `stop_if_unwanted` has found that nobody waits for the task.

        Airflow lets the task go on for some seconds after `on_kill`, in which it must not start anything new.
        """
        if self._is_unwanted:
            raise AirflowFailException("The task was marked, cleared or deleted, so that nothing new is started.")

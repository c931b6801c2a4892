"""One waiting task: the procedure that waits for its job or serving, stepped by the watcher.

The procedure decides everything, as it does on a worker. Only its driver differs: it is taken to its next call as soon
as the last call is answered, and its `Sleep` tells the schedule when to send that call. So the asyncio task of a
trigger sleeps until the procedure ends, however many queries that takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast

from airflow_bitahub.api.protocol import QUERIES, Sleep
from airflow_bitahub.exceptions import BitaHubError

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.triggers.watch.journal import Journal

log = logging.getLogger(__name__)


class Waiter:
    """Steps a procedure that waits for one job or serving.

    :param procedure: starts with a call
    :param journal: is given the answer to every query
    :param plan: called with this waiter when it has a new `call`, and with the seconds to wait before it is sent: how
        many it should be, and how many it may be
    """

    __slots__ = ("_context", "_journal", "_plan", "_procedure", "call", "job_name", "outcome")

    def __init__(
        self, procedure: Procedure[Any], journal: Journal, plan: Callable[[Waiter, float, float], None]
    ) -> None:
        self._procedure = procedure
        self._journal = journal
        self._plan = plan
        self._context = copy_context()  # by which Airflow finds the task that a line of the log belongs to
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()  # of the procedure
        self.call = cast("Call[Any]", next(procedure))  # to be sent next
        # The job that it waits for, so that the list of jobs can answer its queries; None for a serving.
        self.job_name = self.call.request.names["name"] if self.call.request.operation == "get_job" else None

    @property
    def is_querying(self) -> bool:
        """Whether its call queries the job or serving itself."""
        return self.call.request.operation in QUERIES

    @property
    def is_done(self) -> bool:
        """Whether the procedure has ended, or its trigger was cancelled."""
        return self.outcome.done()

    def receive(self, answer: Any) -> None:
        """Take the procedure to its next call with the answer to this one. An exception is raised in the procedure."""
        if not self.is_done:
            self._context.run(self._step, answer)

    def _step(self, answer: Any) -> None:
        if self.is_querying:
            self._note(answer)
        try:
            step = self._procedure.throw(answer) if isinstance(answer, Exception) else self._procedure.send(answer)
            pause = longest = 0.0
            while isinstance(step, Sleep):
                pause += step.seconds
                longest += step.seconds if step.at_most is None else step.at_most
                step = next(self._procedure)
            self.call = step
            self._plan(self, pause, longest)
        except StopIteration as end:
            self.outcome.set_result(end.value)
        except Exception as error:
            self.outcome.set_exception(error)

    def _note(self, answer: Any) -> None:
        try:
            if isinstance(answer, BitaHubError):
                self._journal.failed(answer)
            elif not isinstance(answer, Exception):
                self._journal.answered(answer)
        except Exception:  # such as text that a log cannot hold: the job matters more
            log.exception("Could not log what the platform answered about %s", self.call.request.names.get("name"))

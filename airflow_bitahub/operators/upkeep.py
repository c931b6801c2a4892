"""What the operators share that stop, start, scale and remove a serving."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow_bitahub.api.names import LONGEST_SERVING_NAME
from airflow_bitahub.exceptions import BitaHubError, ServingFailedError, ServingTimeoutError, StateUnknownError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.arguments import Check, as_dns_label, as_flag, as_seconds, as_seconds_or_zero, as_text
from airflow_bitahub.operators.base import BitaHubOperator, ServingLifecycle
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.operators.lineage import ServingLineage
from airflow_bitahub.operators.records import AwaitedServing, load_awaited_serving, save_awaited_serving
from airflow_bitahub.triggers.events import earliest_report, is_about, log_late_start, serving_subject

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.api.servings import Serving
    from airflow_bitahub.exceptions import JobTimeoutError
    from airflow_bitahub.procedures.turn import Turn
    from airflow_bitahub.triggers.events import ServingEvent

R = TypeVar("R")

SERVING_CHECKS: Mapping[str, Check] = {
    "serving_name": as_dns_label(LONGEST_SERVING_NAME),
    "version": as_text,
    "bitahub_conn_id": as_text,
}
AWAIT_CHECKS: Mapping[str, Check] = {
    **SERVING_CHECKS,
    "readiness_path": as_text,
    "launch_timeout": as_seconds,
    "poll_interval": as_seconds,
    "deferrable": as_flag,
    "defer_after": as_seconds_or_zero,
}
_TURN_TIMEOUT = 1800.0  # seconds for which other tasks may deploy the serving first


def new_turn(
    operator: EndServing | AwaitServing, deadline: float | None = None, on_save: Callable[[], None] = lambda: None
) -> Turn:
    """Return the turn of an operator to change its serving.

    :param deadline: until when to wait for it, in seconds since the epoch; None: for half an hour
    :param on_save: called before anything is stored
    """
    from airflow_bitahub.hooks.deployment_records import VariableRecords
    from airflow_bitahub.procedures.site import Site
    from airflow_bitahub.procedures.turn import Turn
    from airflow_bitahub.triggers.task_state import is_task_active

    name, version = operator.serving_name, operator.version
    site = Site(name, version, VariableRecords(operator.hook, name, version), operator.log.info, on_save=on_save)
    deadline = time.time() + _TURN_TIMEOUT if deadline is None else deadline
    return Turn(site, partial(is_task_active, when_reset=True), deadline=deadline)


class EndServing(BitaHubOperator, ServingLineage):
    """Stops or removes a serving that this Airflow has deployed.

    :param serving_name: the serving
    :param version: its version
    :param bitahub_conn_id: the Airflow connection
    """

    template_fields: Sequence[str] = ("serving_name", "version", "bitahub_conn_id")
    argument_checks: ClassVar[Mapping[str, Check]] = SERVING_CHECKS
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubServingLink(),)
    ui_color = "#dff5e1"

    def __init__(
        self, *, serving_name: str, version: str = "v1", bitahub_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.serving_name = serving_name
        self.version = version
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    def end(self, context: Context, ending: Callable[[Turn], Procedure[R]]) -> R:
        """Run a procedure that stops or removes the serving, and return its result."""
        try:
            self.read_arguments()
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=self.hook.serving_url(self.serving_name))
            return self.hook.run(ending(new_turn(self)))
        except BitaHubError as error:
            raise airflow_error(error) from None


class AwaitServing(ServingLifecycle, ServingLineage):
    """Changes a serving that this Airflow has deployed, and waits until it answers.

    It has no constructor, see `BitaHubOperator`.
    """

    is_update: bool  # the serving answers already, so all its replicas are to be waited for
    serving_name: str
    version: str
    readiness_path: str
    launch_timeout: Any
    poll_interval: Any
    deferrable: bool
    defer_after: Any
    cancel_on_kill: bool

    _awaited: AwaitedServing | None = None

    @abstractmethod
    def change(self, turn: Turn, context: Context) -> Procedure[Serving]:
        """Return the procedure that sends the change. It returns the serving."""

    def note(self, context: Context, serving: Serving, *, is_started: bool) -> None:
        """Store which serving this task waits for.

        :param is_started: this task has started it, and stops it if it fails
        """
        self._awaited = AwaitedServing(serving.created_at, context["ti"].max_tries, is_started)
        save_awaited_serving(context, self._awaited)

    # Airflow's entry points ------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        """Change the serving, and wait until it answers."""
        from airflow_bitahub.procedures.servings import wait_for_serving

        with self.settling(context):
            self.read_arguments()
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=self.hook.serving_url(self.serving_name))
            limit = min(self.launch_timeout, (self.execution_timeout or timedelta.max).total_seconds())
            deadline = self.deadline(limit)
            serving = self.hook.run(self.change(new_turn(self, deadline, self.raise_if_abandoned), context))
            self.log.info("The %s", serving)
            self.note(context, serving, is_started=self._awaited is not None and self._awaited.is_started)
            wait = partial(
                wait_for_serving,
                self.serving_name,
                self.version,
                poll_interval=self.poll_interval,
                readiness_path=self.readiness_path,
                created_at=serving.created_at,
                is_update=self.is_update,
                is_known=True,
                on_change=lambda seen: self.log.info("The %s", seen),
            )
            if self.deferrable:
                since, first = time.monotonic(), time.time() + self.defer_after
                with suppress(ServingTimeoutError):
                    return self._result(
                        self.hook.run(wait(deadline=first if deadline is None else min(first, deadline)))
                    )
                self._defer(context, serving, deadline, time.monotonic() - since)
            return self._result(self.hook.run(wait(deadline=deadline)))

    def execute_complete(self, context: Context, event: ServingEvent | None = None) -> dict[str, Any]:
        """Continue after the deferral with what the trigger reports."""
        with self.settling(context):
            self.read_arguments("serving_name", "version")
            created_at = self._awaited.created_at if self._awaited is not None else None
            if not event or is_about(event, serving_subject(self.serving_name, self.version, created_at)):
                log_late_start(event or {}, self.log)
                return self._complete(event or {})
        self.log.warning("Ignoring a trigger's report about %s: this task waits for another", event.get("subject"))
        return self.execute(context)

    # Settling and stopping, see the base class -----------------------------------------------------------------

    def restore(self, context: Context) -> None:
        """Load which serving this task waits for."""
        self._awaited = load_awaited_serving(context)

    def limit_of(self, error: JobTimeoutError | ServingTimeoutError) -> str:  # noqa: ARG002
        """Return the name of the argument whose time limit an error is about."""
        timeout = self.execution_timeout
        # A task that resumes has not read it yet.
        launch_timeout = as_seconds("launch_timeout", self.launch_timeout)
        is_shorter = timeout is not None and timeout.total_seconds() < launch_timeout
        return "execution_timeout" if is_shorter else "launch_timeout"

    def nothing_to_stop(self) -> str:
        """Return in words why there is no serving to stop; "" where this task has started one."""
        has_started = self._awaited is not None and self._awaited.is_started
        return "" if has_started else "this task did not start it, so it was not stopped"

    def how_to_stop(self) -> str:
        """Return in words how a user stops the serving."""
        return "BitaHubStopServingOperator stops it."

    def stop(self) -> str:
        """Stop the serving that this task has started, and return in words what became of it."""
        return self._stop(60)

    # Steps -----------------------------------------------------------------------------------------------------

    def _stop(self, timeout: float) -> str:
        from airflow_bitahub.procedures.servings import stop_own_serving

        def is_own(created_at: float | None) -> bool:
            return self._awaited is not None and created_at == self._awaited.created_at

        stopping = stop_own_serving(self.serving_name, self.version, is_own, timeout=timeout)
        return "the serving was stopped" if self.hook.new_client().run(stopping) else "there was nothing to stop"

    def _complete(self, event: ServingEvent) -> dict[str, Any]:
        """Return the result that a trigger's report leads to, or raise its error."""
        from airflow_bitahub.api.servings import Serving

        message = event.get("message", "")
        match event.get("outcome"):
            case "ready":
                return self._result(Serving.model_validate(event["serving"]))
            case "failed":
                raise ServingFailedError(message, self.serving_name)
            case "timeout":
                raise ServingTimeoutError(message, self.serving_name)
            case _:
                raise StateUnknownError(f"The state of serving {self.serving_name!r} is unknown: {message}")

    def _defer(self, context: Context, serving: Serving, deadline: float | None, waited: float) -> None:
        from airflow_bitahub.triggers.serving import BitaHubServingTrigger

        self.defer(
            trigger=BitaHubServingTrigger(
                bitahub_conn_id=self.bitahub_conn_id,
                serving_name=self.serving_name,
                version=self.version,
                poll_interval=self.poll_interval,
                readiness_path=self.readiness_path,
                created_at=serving.created_at,
                is_update=self.is_update,
                deadline=deadline,
                cancel_on_kill=self.cancel_on_kill and not self.nothing_to_stop(),
                earliest_report=earliest_report(context["ti"].start_date, waited),
            ),
            method_name="execute_complete",
            timeout=self.deferral_timeout(deadline),
        )

    def _result(self, serving: Serving) -> dict[str, Any]:
        return {
            "serving_name": serving.name,
            "version": self.version,
            "status": serving.status.value,
            "url": serving.url,
            "replicas": serving.replicas,
        }

"""What both sensors share."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
)

from airflow_bitahub.exceptions import BitaHubError, TransportError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.operators.arguments import Check, CheckedArguments, as_flag, as_text
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.triggers.events import TRIGGERER_MARGIN, earliest_report, is_about, log_late_start

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.triggers.base import BitaHubTrigger


class BitaHubSensor(BaseSensorOperator, CheckedArguments):
    """Queries BitaHub until a condition is met, on a worker or in the triggerer; ``soft_fail`` means the same in both.

    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param bitahub_conn_id: the Airflow connection
    """

    argument_checks: ClassVar[Mapping[str, Check]] = {"deferrable": as_flag, "bitahub_conn_id": as_text}

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    @cached_property
    def hook(self) -> BitaHubHook:
        """The hook that this sensor talks through."""
        from airflow_bitahub.hooks.bitahub import BitaHubHook

        return BitaHubHook(self.bitahub_conn_id)

    @abstractmethod
    def query(self) -> dict[str, Any] | None:
        """Query once. Return the sensor's result, or None while the condition is not met; raise if it never will be."""

    @abstractmethod
    def trigger(self, deadline: float, earliest_report: float | None = None) -> BitaHubTrigger:
        """Return the trigger that waits until the deadline, and reports no sooner than told, see `BitaHubTrigger`."""

    @abstractmethod
    def read(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result in a trigger's report. Raises as `query` does."""

    def poke(self, context: Context) -> PokeReturnValue | bool:  # noqa: ARG002
        """Query once."""
        with self._failing():
            self.read_arguments()
            result = self.query()
        return False if result is None else PokeReturnValue(True, result)

    def execute(self, context: Context) -> Any:
        """Wait on this worker or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        with self._skipping(), self._failing():
            self.read_arguments()
            result = self.query()
        if result is None:
            start = context["ti"].start_date
            deadline = start.timestamp() + self._limit[1]
            self.defer(
                trigger=self.trigger(deadline, earliest_report(start)),
                method_name="execute_complete",
                timeout=timedelta(seconds=deadline - time.time()) + TRIGGERER_MARGIN,
            )
        return result

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Continue after the deferral with what the trigger reports."""
        with self._skipping(), self._failing():
            self.read_arguments()
        if event and not is_about(event, self.trigger(0).subject):
            self.log.warning("Ignoring a trigger's report about %s: this task waits for another", event.get("subject"))
            return self.execute(context)
        with self._skipping(), self._failing():
            event = event or {}
            log_late_start(event, self.log)
            if event.get("outcome") == "timeout":
                raise self._timed_out(event["message"])
            if event.get("is_final"):
                raise AirflowFailException(event["message"])
            if event.get("outcome") == "error" or not event:
                raise TransportError(f"The queries failed for too long: {event.get('message', 'no report')}")
            return self.read(event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume a deferred sensor, also where its trigger failed or Airflow itself ended the deferral."""
        try:
            # Not Airflow's sensor, which would hide why the deferral ended.
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            with self._skipping(), self._failing():
                self.read_arguments()
                if (result := self.query()) is not None:
                    return result
                if isinstance(error, TaskDeferralTimeout):
                    raise self._timed_out("No triggerer watched: is one running?") from error
                raise TransportError(f"Watching failed: {error}") from error

    @property
    def _limit(self) -> tuple[str, float]:
        """The name of the argument that limits this try, and the seconds from the start of the try."""
        limit = self.execution_timeout
        if limit is not None and limit.total_seconds() < self.timeout:
            return "execution_timeout", limit.total_seconds()
        return "timeout", self.timeout

    def _timed_out(self, problem: str) -> AirflowSensorTimeout | AirflowTaskTimeout:
        """Return the error for a limit of time that has passed, the same as on a worker."""
        name, seconds = self._limit
        kind = AirflowTaskTimeout if name == "execution_timeout" else AirflowSensorTimeout
        return kind(f"{problem} The limit is {name}={timedelta(seconds=seconds)} from the start of the try.")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BitaHubError as error:
            raise airflow_error(error) from None

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        try:
            yield
        except (Exception, AirflowTaskTimeout) as error:
            is_end = isinstance(error, AirflowFailException | AirflowSensorTimeout | AirflowTaskTimeout)
            if self.never_fail or (self.soft_fail and is_end):
                raise AirflowSkipException(str(error)) from error
            raise

"""What both sensors share."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from airflow_bitahub.exceptions import BitaHubError, TransportError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.operators.arguments import Check, CheckedArguments, as_flag, as_text
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.triggers.events import is_about

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
    def trigger(self, deadline: float) -> BitaHubTrigger:
        """Return the trigger that waits until the deadline, in seconds since the epoch."""

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
            self.defer(trigger=self.trigger(time.time() + self.timeout), method_name="execute_complete")
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
            if event.get("outcome") == "timeout":
                raise AirflowSensorTimeout(event["message"])
            if event.get("is_final"):
                raise AirflowFailException(event["message"])
            if event.get("outcome") == "error" or not event:
                raise TransportError(f"The queries failed for too long: {event.get('message', 'no report')}")
            return self.read(event)

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
        except Exception as error:
            is_end = isinstance(error, AirflowFailException | AirflowSensorTimeout)
            if self.never_fail or (self.soft_fail and is_end):
                raise AirflowSkipException(str(error)) from error
            raise

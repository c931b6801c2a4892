"""`BitaHubServingSensor`: waiting for a serving that another system or another DAG created."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.exceptions import ServingFailedError, ServingTimeoutError
from airflow_bitahub.operators.arguments import Check, as_text
from airflow_bitahub.sensors.base import BitaHubSensor

if TYPE_CHECKING:
    from airflow_bitahub.api.servings import Serving
    from airflow_bitahub.triggers.serving import BitaHubServingTrigger


class BitaHubServingSensor(BitaHubSensor):
    """Succeeds when a serving runs and its program answers, and fails when it has failed or was stopped.

    The serving need not exist yet. The XCom result has ``serving_name``, ``status`` and ``url``.

    :param serving_name: the serving
    :param version: its version
    :param readiness_path: where the program is asked whether it answers. At ``/`` any answer below HTTP 500 counts,
        elsewhere only one below HTTP 400
    :param poke_interval: seconds between two queries; when deferred, the longest pause: young
        servings are queried more often
    :param timeout: seconds after which the sensor fails
    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param bitahub_conn_id: the Airflow connection
    """

    template_fields: Sequence[str] = ("serving_name", "version", "readiness_path", "bitahub_conn_id")
    argument_checks: ClassVar[Mapping[str, Check]] = {
        **BitaHubSensor.argument_checks,
        "serving_name": as_text,
        "version": as_text,
        "readiness_path": as_text,
    }
    ui_color = "#dff5e1"

    def __init__(self, *, serving_name: str, version: str = "v1", readiness_path: str = "/", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.serving_name = serving_name
        self.version = version
        self.readiness_path = readiness_path
        self.check_arguments()

    def query(self) -> dict[str, Any] | None:
        """Query the serving once."""
        from airflow_bitahub.procedures.servings import wait_for_serving

        waiting = wait_for_serving(
            self.serving_name,
            self.version,
            poll_interval=0,
            readiness_path=self.readiness_path,
            deadline=0,
            grace=None,
        )
        try:
            return _result(self.hook.run(waiting))
        except ServingTimeoutError as error:
            self.log.info("%s", error)
            return None
        except ServingFailedError as error:
            raise AirflowFailException(str(error)) from None

    def trigger(self, deadline: float, earliest_report: float | None = None) -> BitaHubServingTrigger:
        """Return the trigger that waits for the serving."""
        from airflow_bitahub.triggers.serving import BitaHubServingTrigger

        return BitaHubServingTrigger(
            bitahub_conn_id=self.bitahub_conn_id,
            serving_name=self.serving_name,
            version=self.version,
            poll_interval=self.poke_interval,
            readiness_path=self.readiness_path,
            deadline=deadline,
            grace=None,
            cancel_on_kill=False,
            earliest_report=earliest_report,
        )

    def read(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of the serving that is ready."""
        from airflow_bitahub.api.servings import Serving

        if event["outcome"] == "failed":
            raise AirflowFailException(event["message"])
        return _result(Serving.model_validate(event["serving"]))


def _result(serving: Serving) -> dict[str, Any]:
    return {"serving_name": serving.name, "status": serving.status.value, "url": serving.url}

"""`BitaHubStopServingOperator`: stopping a served model, which then costs nothing and can be started again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.arguments import Check
from airflow_bitahub.operators.base import BitaHubOperator
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.operators.lineage import ServingLineage
from airflow_bitahub.operators.upkeep import SERVING_CHECKS, new_turn

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context


class BitaHubStopServingOperator(BitaHubOperator, ServingLineage):
    """Stops a serving that this Airflow has deployed, and succeeds once it has ended. Its record stays.

    `BitaHubStartServingOperator` starts it again. A serving that has ended or was removed is left as it is. While
    another task deploys the serving, this one waits. A serving that someone else created is never touched.

    The XCom result is ``{"serving_name": "mnist-serving-demo", "version": "v1", "status": "STOPPED"}``; the status is
    None for a serving that was removed.

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

    def execute(self, context: Context) -> dict[str, Any]:
        """Stop the serving, and wait until it has ended."""
        from airflow_bitahub.procedures.upkeep import stop_deployed

        try:
            self.read_arguments()
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=self.hook.serving_url(self.serving_name))
            serving = self.hook.run(stop_deployed(new_turn(self)))
        except BitaHubError as error:
            raise airflow_error(error) from None
        if serving is None:
            self.log.info("Serving %r is no longer on the platform", self.serving_name)
        else:
            self.log.info("The %s", serving)
        status = None if serving is None else serving.status.value
        return {"serving_name": self.serving_name, "version": self.version, "status": status}

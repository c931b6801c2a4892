"""`BitaHubStopServingOperator`: stopping a served model, which then costs nothing and can be started again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_bitahub.operators.upkeep import EndServing

if TYPE_CHECKING:
    from airflow.sdk import Context


class BitaHubStopServingOperator(EndServing):
    """Stops a serving that this Airflow has deployed, and succeeds once it has ended. Its record stays.

    `BitaHubStartServingOperator` starts it again. A serving that has ended or was removed is left as it is. While
    another task deploys the serving, this one waits. A serving that someone else created is never touched.

    The XCom result is ``{"serving_name": "mnist-serving-demo", "version": "v1", "status": "STOPPED"}``; the status is
    None for a serving that was removed.

    :param serving_name: the serving
    :param version: its version
    :param bitahub_conn_id: the Airflow connection
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Stop the serving, and wait until it has ended."""
        from airflow_bitahub.procedures.upkeep import stop_deployed

        serving = self.end(context, stop_deployed)
        if serving is None:
            self.log.info("Serving %r is no longer on the platform", self.serving_name)
        else:
            self.log.info("The %s", serving)
        status = None if serving is None else serving.status.value
        return {"serving_name": self.serving_name, "version": self.version, "status": status}

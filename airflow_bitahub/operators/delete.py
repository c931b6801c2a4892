"""`BitaHubDeleteServingOperator`: removing a served model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_bitahub.operators.upkeep import EndServing

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_bitahub.lineage.names import Material


class BitaHubDeleteServingOperator(EndServing):
    """Removes a serving that this Airflow has deployed, and what is left of a deployment of it.

    It also succeeds where there is nothing to remove. So it can be the teardown of a deployment, for a service that
    lives for one DAG run:

    .. code-block:: python

        name = "mnist-{{ (dag_run.logical_date or dag_run.run_after) | ts_nodash | lower }}"  # one name for each run
        deploy = BitaHubDeployServingOperator(task_id="deploy", serving_name=name, ...)
        delete = BitaHubDeleteServingOperator(task_id="delete", serving_name=name)
        deploy >> ask >> delete.as_teardown(setups=deploy)

    While another task deploys the serving, this one waits. A serving that someone else created is never touched.

    The XCom result is ``{"serving_name": "mnist-serving-demo", "version": "v1", "removed": True}``.

    :param serving_name: the serving
    :param version: its version
    :param bitahub_conn_id: the Airflow connection
    """

    _is_removed = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Remove the serving, and wait until the platform no longer has it."""
        from airflow_bitahub.procedures.upkeep import delete_deployed

        is_removed = self.end(context, delete_deployed)
        self.log.info(
            "Serving %r was removed" if is_removed else "There was no serving %r to remove", self.serving_name
        )
        self._is_removed = is_removed
        return {"serving_name": self.serving_name, "version": self.version, "removed": is_removed}

    def lineage_outputs(self) -> Iterable[Material]:
        """Return the serving, which the task may have removed."""
        return [replace(each, is_removed=self._is_removed) for each in super().lineage_outputs()]

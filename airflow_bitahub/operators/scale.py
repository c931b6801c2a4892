"""`BitaHubScaleServingOperator`: more or fewer replicas of a served model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf

from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.arguments import Check, as_count
from airflow_bitahub.operators.base import DEFER_AFTER
from airflow_bitahub.operators.upkeep import AWAIT_CHECKS, AwaitServing

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.api.servings import Serving
    from airflow_bitahub.procedures.turn import Turn


class BitaHubScaleServingOperator(AwaitServing):
    """Changes the number of replicas of a serving, and succeeds once all of them run *and* the program answers.

    Only a serving that this Airflow has deployed is changed. While a task deploys the serving, this one waits. The
    number is put on record, so that a rollback restores as many replicas. Another deployment of the same specification
    leaves it as it is; one of another specification brings its own number.

    Where the platform has no room for more replicas, the task fails in the end, but the serving keeps the new number:
    the platform may still start them. To withdraw it, scale the serving back.

    The XCom result has ``serving_name``, ``version``, ``status``, ``url`` and ``replicas``. A limit of time is a
    ``timedelta`` or a number of seconds.

    :param serving_name: the serving
    :param replicas: the number of replicas
    :param version: its version
    :param readiness_path: where the program is asked whether it answers. At ``/`` any answer below HTTP 500 counts,
        elsewhere only one below HTTP 400
    :param launch_timeout: how long the replicas may take to run, from the start of the try
    :param poll_interval: the longest pause between two queries, which is a tenth of the time waited
    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param defer_after: how long a deferrable task waits on its worker first; 0: not at all
    :param bitahub_conn_id: the Airflow connection
    """

    template_fields: Sequence[str] = (
        "bitahub_conn_id",  # the first: where another cannot be rendered, the serving may have to be stopped
        "serving_name",
        "replicas",
        "version",
        "readiness_path",
    )
    argument_checks: ClassVar[Mapping[str, Check]] = {**AWAIT_CHECKS, "replicas": as_count()}
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubServingLink(),)
    ui_color = "#dff5e1"
    is_update = True
    cancel_on_kill = False

    def __init__(
        self,
        *,
        serving_name: str,
        replicas: int | str,
        version: str = "v1",
        readiness_path: str = "/",
        launch_timeout: timedelta | float = 1800,
        poll_interval: timedelta | float = 5,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: timedelta | float = DEFER_AFTER,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.serving_name = serving_name
        self.replicas = replicas
        self.version = version
        self.readiness_path = readiness_path
        self.launch_timeout = launch_timeout
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.defer_after = defer_after
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    def change(self, turn: Turn, context: Context) -> Procedure[Serving]:  # noqa: ARG002
        """Change the number of replicas."""
        from airflow_bitahub.procedures.upkeep import scale_deployed

        return scale_deployed(turn, int(self.replicas))

    def nothing_to_stop(self) -> str:
        """Return in words what becomes of the serving when the task fails."""
        return f"the serving keeps {self.replicas} replicas, which the platform may still start"

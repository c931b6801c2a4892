"""`BitaHubStartServingOperator`: starting a served model again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf

from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.arguments import Check, as_flag
from airflow_bitahub.operators.base import DEFER_AFTER, KILL_BUDGET
from airflow_bitahub.operators.upkeep import AWAIT_CHECKS, AwaitServing

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.api.servings import Serving
    from airflow_bitahub.procedures.turn import Turn


class BitaHubStartServingOperator(AwaitServing):
    """Starts a serving that was stopped or has failed, and succeeds once it runs *and* its program answers.

    Only a serving that this Airflow has deployed is started. One that runs already is only waited for. While another
    task deploys the serving, this one waits. If this task has started the serving and fails, it stops it again.

    The XCom result has ``serving_name``, ``version``, ``status``, ``url`` and ``replicas``. A limit of time is a
    ``timedelta`` or a number of seconds.

    :param serving_name: the serving
    :param version: its version
    :param readiness_path: where the program is asked whether it answers. At ``/`` any answer below HTTP 500 counts,
        elsewhere only one below HTTP 400
    :param launch_timeout: how long the serving may take to be ready, from the start of the try. Then it is stopped
        again. ``execution_timeout`` works likewise, also while the task is deferred
    :param poll_interval: the longest pause between two queries, which is a tenth of the time waited
    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param defer_after: how long a deferrable task waits on its worker first; 0: not at all
    :param cancel_on_kill: stop the serving when the task is marked, cleared or deleted before it is ready
    :param bitahub_conn_id: the Airflow connection
    """

    template_fields: Sequence[str] = (
        "bitahub_conn_id",  # the first: where another cannot be rendered, the serving may have to be stopped
        "serving_name",
        "version",
        "readiness_path",
    )
    argument_checks: ClassVar[Mapping[str, Check]] = {**AWAIT_CHECKS, "cancel_on_kill": as_flag}
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubServingLink(),)
    ui_color = "#dff5e1"
    is_update = False

    def __init__(
        self,
        *,
        serving_name: str,
        version: str = "v1",
        readiness_path: str = "/",
        launch_timeout: timedelta | float = 1800,
        poll_interval: timedelta | float = 5,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: timedelta | float = DEFER_AFTER,
        cancel_on_kill: bool = True,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.serving_name = serving_name
        self.version = version
        self.readiness_path = readiness_path
        self.launch_timeout = launch_timeout
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.defer_after = defer_after
        self.cancel_on_kill = cancel_on_kill
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    def change(self, turn: Turn, context: Context) -> Procedure[Serving]:
        """Start the serving."""
        from airflow_bitahub.procedures.upkeep import start_deployed

        def on_start(serving: Serving) -> None:
            self.raise_if_abandoned()
            self.note(context, serving, is_started=True)

        return start_deployed(turn, on_start)

    def on_kill(self) -> None:
        """Stop the serving if the task was marked, cleared or deleted before it was ready."""
        if self._context is not None and self.cancel_on_kill and not self.nothing_to_stop():
            self.stop_if_abandoned(self._context, lambda: self._stop(KILL_BUDGET))

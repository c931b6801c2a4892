"""The trigger that waits for a step of a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_bitahub import metrics
from airflow_bitahub.triggers.serving import BitaHubServingTrigger

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.triggers.watch.watcher import Watcher


class BitaHubRolloutTrigger(BitaHubServingTrigger):
    """Waits for the serving that a deployment has created: the candidate, or the one under the public name.

    It takes the parameters of `BitaHubServingTrigger`, and:

    :param deployed_name: the public name. When a user marks, clears or deletes the waiting task, the deployment is
        ended as `procedures.repair` does it. A version with secret environment variables cannot be restored here, since
        their values are kept nowhere
    :param log_masks: digests of the secrets that the task has given to the serving, see `secret_digests`
    """

    def __init__(self, *, deployed_name: str, log_masks: Mapping[str, Any] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.deployed_name = deployed_name
        self.log_masks = log_masks or {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores of the trigger."""
        path, arguments = super().serialize()
        return path, {**arguments, "deployed_name": self.deployed_name, "log_masks": self.log_masks}

    async def stop_with(self, watcher: Watcher) -> None:
        """End the deployment."""
        loop = asyncio.get_running_loop()

        def send(call: Call[Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(watcher.perform(_only(call)), loop).result()

        # The records are read and stored by blocking calls to Airflow.
        await asyncio.to_thread(self._end, send)

    def _end(self, send: Any) -> None:
        from airflow_bitahub.client import drive
        from airflow_bitahub.hooks.bitahub import BitaHubHook
        from airflow_bitahub.hooks.deployment_records import VariableRecords
        from airflow_bitahub.procedures.deployments import Owner
        from airflow_bitahub.procedures.repair import abandon
        from airflow_bitahub.procedures.site import Site

        ti: Any = self.task_instance
        records = VariableRecords(BitaHubHook(self.bitahub_conn_id), self.deployed_name, self.version)
        tags = metrics.task_tags(ti)
        site = Site(
            self.deployed_name,
            self.version,
            records,
            self.log.info,
            on_end=lambda end: metrics.count(metrics.ROLLOUT + end, tags),
        )
        self.log.info("The deployment was ended: %s", drive(abandon(site, Owner.of(ti), {}), send))


def _only(call: Call[Any]) -> Procedure[Any]:
    return (yield from call)

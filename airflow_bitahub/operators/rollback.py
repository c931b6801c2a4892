"""`BitaHubRollbackServingOperator`: back to a version of a serving that worked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.configuration import conf

from airflow_bitahub.assets import BitaHubServing
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubModelLink, BitaHubServingLink
from airflow_bitahub.operators.announcing import declare
from airflow_bitahub.operators.arguments import (
    Check,
    as_env,
    as_flag,
    as_seconds,
    as_seconds_or_zero,
    as_text,
    one_of,
    optional,
)
from airflow_bitahub.operators.base import DEFER_AFTER
from airflow_bitahub.operators.checks import as_checks
from airflow_bitahub.operators.rollout import RolloutOperator, owner_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.procedures.deployments import Deployment, Owner, Version
    from airflow_bitahub.procedures.plan import Plan


class BitaHubRollbackServingOperator(RolloutOperator):
    """Gives a serving the version back that worked before, or another one of the last five.

    It is done as `BitaHubDeployServingOperator` does it: the old version, too, is tried as a candidate first. Another
    try, and clearing the task, does not go back any further.

    The XCom result is that of `BitaHubDeployServingOperator`, and so is the asset event.

    :param serving_name: the serving
    :param to: the version to go back to: its model's path, or the beginning of its digest, as the deployment's log
        names it; None: the one before the current one
    :param version: the serving's version on the platform; the document always sends ``v1``
    :param secret_envs: the values of the secret environment variables that the versions need, since they are kept
        nowhere. A secret value in a command is given by the name that the command gives it
    :param strategy: see `BitaHubDeployServingOperator`; likewise the other arguments
    """

    template_fields: Sequence[str] = (
        "bitahub_conn_id",
        "serving_name",
        "version",
        "to",
        "secret_envs",  # Airflow never shows an argument with such a name
        "checks",
        "readiness_path",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"secret_envs": "json", "checks": "json"}
    argument_checks: ClassVar[Mapping[str, Check]] = {
        "bitahub_conn_id": as_text,
        "serving_name": as_text,
        "to": optional(as_text),
        "version": as_text,
        "secret_envs": optional(as_env, default={}),
        "strategy": one_of("candidate", "in_place", "recreate"),
        "checks": as_checks,
        "bake_seconds": as_seconds_or_zero,
        "readiness_path": as_text,
        "launch_timeout": as_seconds,
        "candidate_timeout": as_seconds,
        "poll_interval": as_seconds,
        "deferrable": as_flag,
        "defer_after": as_seconds_or_zero,
        "cancel_on_kill": as_flag,
    }
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubServingLink(), BitaHubModelLink())
    ui_color = "#dff5e1"

    def __init__(
        self,
        *,
        serving_name: str,
        to: str | None = None,
        version: str = "v1",
        secret_envs: Mapping[str, Any] | None = None,
        strategy: Literal["candidate", "in_place", "recreate"] = "candidate",
        checks: Sequence[Mapping[str, Any]] = (),
        bake_seconds: timedelta | float = 0,
        readiness_path: str = "/",
        launch_timeout: timedelta | float = 1800,
        candidate_timeout: timedelta | float = 600,
        poll_interval: timedelta | float = 5,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: timedelta | float = DEFER_AFTER,
        cancel_on_kill: bool = True,
        multiple_outputs: bool = True,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=multiple_outputs, **kwargs)
        self.serving_name = serving_name
        self.to = to
        self.version = version
        self.secret_envs = secret_envs
        self.strategy = strategy
        self.checks = checks
        self.bake_seconds: Any = bake_seconds  # seconds, once the arguments have been read; likewise other times
        self.readiness_path = readiness_path
        self.launch_timeout = launch_timeout
        self.candidate_timeout: Any = candidate_timeout
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.defer_after = defer_after
        self.cancel_on_kill = cancel_on_kill
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()
        declare(self, BitaHubServing, serving_name, bitahub_conn_id)

    def plan(self, context: Context, record: Deployment) -> Plan:
        """Return what to deploy. Raises ConfigurationError where no such version is on record."""
        from airflow_bitahub.procedures.plan import Plan

        owner = owner_of(context)
        version, secrets = self._target(record, owner), self.known_secrets()
        return Plan(
            version.to_spec(secrets),
            replace(version, run_date=self.run_date(context), deployed_by=str(owner)),
            owner,
            secrets,
            strategy=self.strategy,
            can_update=self.can_update,
            only_newer=False,
            checks=self.checks_with_files(),
            bake_seconds=self.bake_seconds,
            readiness_path=self.readiness_path,
            launch_timeout=self.launch_timeout,
            candidate_timeout=self.candidate_timeout,
            turn_deadline=self.turn_deadline(),
            poll_interval=self.poll_interval,
            withdraws=True,
        )

    def known_secrets(self) -> Mapping[str, str]:
        """Return the secret values that this task knows, by name."""
        values = optional(as_env, default={})("secret_envs", self.secret_envs)
        return {name: self.hook.folders.fill(value) for name, value in values.items()}

    def _target(self, record: Deployment, owner: Owner) -> Version:
        current = record.current
        if record.rollout is not None and record.rollout.owner == owner:
            return record.rollout.version
        if current is not None and current.deployed_by == str(owner):
            return current  # an earlier try has gone back
        known = ", ".join(str(version) for version in record.versions) or "none"
        if self.to is None:
            earlier = [each for each in record.versions[1:] if not each.is_withdrawn]
            if not earlier:
                raise ConfigurationError(
                    f"Serving {self.serving_name!r} has no earlier version to go back to: each one on record was "
                    f"itself rolled back, or there is none. On record: {known}."
                )
            return earlier[0]
        wanted = self.hook.folders.fill(self.to)
        found = [each for each in record.versions if each.model_path == wanted or each.digest.startswith(wanted)]
        if not found:
            raise ConfigurationError(
                f"to={self.to!r} is no version of serving {self.serving_name!r} on record. On record: {known}."
            )
        return found[0]

"""What the operators that give a serving another version share: doing it in one go or in several, and cleaning up."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout

from airflow_bitahub import metrics
from airflow_bitahub.api.protocol import Sleep
from airflow_bitahub.assets import BitaHubServing
from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    ServingCheckError,
    ServingFailedError,
    ServingOutdatedError,
    ServingTimeoutError,
    StateUnknownError,
)
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.announcing import announce
from airflow_bitahub.operators.arguments import as_seconds
from airflow_bitahub.operators.base import KILL_BUDGET, ServingLifecycle, task_url
from airflow_bitahub.operators.checks import read_checks
from airflow_bitahub.operators.lineage import DeploymentLineage
from airflow_bitahub.operators.records import (
    DEPLOYMENT_FACTS,
    TaskRollout,
    push_facts,
    push_model_link,
    save_rollout,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.texts import lines_of
from airflow_bitahub.triggers.events import earliest_report, log_late_start

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_bitahub.api.protocol import Procedure
    from airflow_bitahub.api.servings import Serving
    from airflow_bitahub.exceptions import JobTimeoutError
    from airflow_bitahub.procedures.checks import AnswerCheck, SampleCheck
    from airflow_bitahub.procedures.deployments import Deployment, Owner, RolloutEnd
    from airflow_bitahub.procedures.plan import Deployed, Plan, Waiting
    from airflow_bitahub.procedures.site import Site
    from airflow_bitahub.triggers.events import ServingEvent

# How long a task that waits for its turn is deferred. It is longer than Airflow takes to record a deferral.
_TURN_PAUSE = timedelta(seconds=30)


class _Pause(Exception):
    """The task is to be deferred until it may be its turn."""


class _Deferral(Exception):
    """The task is to be deferred until a serving is ready."""

    def __init__(self, waiting: Waiting) -> None:
        super().__init__(waiting)
        self.waiting = waiting


def owner_of(context: Context) -> Owner:
    """Return the task instance as the owner of a deployment."""
    from airflow_bitahub.procedures.deployments import Owner

    return Owner.of(context["ti"])


class RolloutOperator(ServingLifecycle, DeploymentLineage):
    """Gives a serving a version, as `procedures.rollout` says.

    It has no constructor, see `BitaHubOperator`.
    """

    serving_name: str
    version: str
    deferrable: bool
    defer_after: Any
    cancel_on_kill: bool
    launch_timeout: Any
    poll_interval: Any
    readiness_path: str

    checks: Any
    _read_checks: list[AnswerCheck | SampleCheck] | None = None
    _site: Site | None = None
    _owner: Owner | None = None
    _end: RolloutEnd | None = None  # of this task's replacement
    _waited = 0.0  # seconds, on this worker

    # What subclasses implement ---------------------------------------------------------------------------------

    @abstractmethod
    def plan(self, context: Context, record: Deployment) -> Plan:
        """Return what to deploy. Raises ConfigurationError for arguments that the platform could not accept."""

    def look(self, plan: Plan) -> None:
        """Raise ConfigurationError if a plan cannot work, before its first serving is created."""

    def known_secrets(self) -> Mapping[str, str]:
        """Return the secret values that this task knows, by name."""
        return {}

    # Airflow's entry points ------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        """Deploy the version, and wait until it serves."""
        with self.settling(context):
            self.read_arguments()
            return self._deploy(context)

    def execute_again(self, context: Context, event: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """Go on after a pause in which another task deployed."""
        with self.settling(context):
            self.read_arguments()
            self._raise_if_late()
            return self._deploy(context, is_resumed=True)

    def execute_complete(self, context: Context, event: ServingEvent | None = None) -> dict[str, Any]:
        """Go on after the deferral. What is on the platform counts, and not what the trigger saw."""
        with self.settling(context):
            self.read_arguments()
            log_late_start(event or {}, self.log)
            if not event or event.get("outcome") == "error":
                message = (event or {}).get("message", "")
                raise StateUnknownError(f"The state of {self.subject} is unknown: {message}")
            self._raise_if_late()
            return self._deploy(context, is_resumed=True)

    def _raise_if_late(self) -> None:
        """Raise AirflowTaskTimeout if `execution_timeout` has passed, which Airflow itself counts anew in each part."""
        if self.execution_timeout is not None:
            limit = self.deadline(self.execution_timeout.total_seconds())
            if limit is not None and limit <= time.time():
                raise AirflowTaskTimeout

    def on_kill(self) -> None:
        """End the deployment if the task was marked, cleared or deleted."""
        # Whether there is anything to end is on record. Only the thread with its time limit may ask Airflow for that.
        if self._context is not None and self.cancel_on_kill:
            # The creation itself may have been interrupted, and its serving may appear later.
            self.stop_if_abandoned(self._context, self._abandon_soon)

    # Settling and stopping, see the base class -----------------------------------------------------------------

    def restore(self, context: Context) -> None:
        """Load the record of the serving."""
        self._owner = owner_of(context)
        self._look_up_connection()
        self._site = self._new_site()
        self._site.on_save = self.raise_if_abandoned
        self._site.load()

    def limit_of(self, error: JobTimeoutError | ServingTimeoutError) -> str:  # noqa: ARG002
        """Return the name of the argument whose time limit an error is about."""
        return "launch_timeout"

    def nothing_to_stop(self) -> str:
        """Return in words why there is nothing to end; "" where this task deploys, or may deploy."""
        if self._site is None or self._owner is None:
            return ""
        rollout = self._site.record.rollout
        is_own = rollout is not None and rollout.owner == self._owner
        return "" if is_own or self._site.creation_of(self._owner) else "this task has changed nothing since"

    def how_to_stop(self) -> str:
        """Return in words how a user ends the deployment."""
        return "Clearing the task takes the deployment up again; `airflow-bitahub servings reap` ends it."

    def stop(self) -> str:
        """End the deployment, and return in words what became of it."""
        end = self._abandon(retry.GRACE_PERIOD, 60)
        if self._site is not None:
            self._save_steps(self._site)
        return end

    # Steps -----------------------------------------------------------------------------------------------------

    def _deploy(self, context: Context, *, is_resumed: bool = False) -> dict[str, Any]:
        from airflow_bitahub.procedures.rollout import Deployer
        from airflow_bitahub.procedures.turn import Turn
        from airflow_bitahub.triggers.task_state import is_task_active

        site = self._site or self._new_site()
        plan = self.plan(context, site.record)  # a wrong argument fails before anything is waited for
        is_active = partial(is_task_active, when_reset=True)
        turn = Turn(site, is_active, self._owner, self.turn_deadline(), self.known_secrets())
        if self.deferrable:
            turn.pause = self._pause
        context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=self.hook.serving_url(self.serving_name))
        push_model_link(context, self.hook, plan.version.model_path)
        deployer = Deployer(partial(self.plan, context), site, turn, self._wait, is_resumed, self.look)
        try:
            deployed = self.hook.run(deployer.deploy())
        except _Deferral as deferral:
            self._defer(context, deferral.waiting)
        except _Pause:
            self._defer_for_a_while()
        except ServingOutdatedError as error:
            self._push_facts(context, deployer.plan, "outdated")
            raise AirflowSkipException(str(error)) from None
        except (ServingFailedError, ServingCheckError):
            if hasattr(deployer, "plan"):
                self._push_facts(context, deployer.plan, self._end or "failed")
            raise
        finally:
            self._save_steps(site)
        self._deployed = deployer.plan.version
        self._push_facts(context, deployer.plan, "reverted" if deployer.plan.withdraws else "deployed")
        result = self._result(deployer.plan, deployed)
        announce(self, context, BitaHubServing, lambda: self._details(result, context))
        return result

    def _details(self, result: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Return what the asset event says."""
        return {
            "uri": self.hook.uri(f"/servings/{self.serving_name}"),
            "url": result["url"],
            "serving": self.serving_name,
            "version": result["version"],
            "model_path": result["model_path"],
            "previous": result["previous"],
            "run": asdict(owner_of(context)),
        }

    def _push_facts(self, context: Context, plan: Plan, outcome: RolloutEnd | Literal["outdated"]) -> None:
        from airflow_bitahub.hooks.deployment_records import VariableRecords

        facts = {
            "outcome": outcome,
            "serving_name": self.serving_name,
            "version": self.version,
            "record": VariableRecords(self.hook, self.serving_name, self.version).key,
            "model_path": plan.version.model_path,
        }
        push_facts(context, DEPLOYMENT_FACTS, facts)

    def _save_steps(self, site: Site) -> None:
        """Store the steps of this task's replacement, for the task's page."""
        rollout, ended_at = (site.record.rollout, None) if site.record.rollout else (site.ended, time.time())
        if rollout is None or rollout.owner != self._owner or self._context is None:
            return
        try:
            save_rollout(self._context, TaskRollout.of(rollout, ended_at))
        except Exception as error:  # what happened matters more than whether it is shown
            self.log.warning("The steps of the deployment could not be stored for the task's page: %s", error)

    def _result(self, plan: Plan, deployed: Deployed) -> dict[str, Any]:
        return {
            "serving_name": self.serving_name,
            "version": self.version,
            "status": deployed.serving.status.value,
            "url": deployed.serving.url,
            "model_path": plan.version.model_path,
            "previous": deployed.previous.model_path if deployed.previous else None,
            "away_seconds": deployed.away_seconds,
        }

    def _wait(self, plan: Plan, waiting: Waiting) -> Procedure[Serving]:
        from airflow_bitahub.hooks.sessions import mask

        serving = yield from self._wait_or_defer(plan, waiting)
        mask(serving.token)  # its program may repeat a request in an answer to a check
        return serving

    def _wait_or_defer(self, plan: Plan, waiting: Waiting) -> Procedure[Serving]:
        """Wait for a serving: on the worker, or there for `defer_after` only and then in the triggerer."""
        from airflow_bitahub.procedures.plan import wait_for

        if not self.deferrable:
            return (yield from wait_for(waiting, plan))
        now, since = time.time(), time.monotonic()
        is_too_long = waiting.until is not None and waiting.until > now + self.defer_after
        first = now if is_too_long else now + self.defer_after
        try:
            with suppress(ServingTimeoutError):
                return (yield from wait_for(replace(waiting, deadline=min(first, waiting.deadline)), plan))
        finally:
            self._waited += time.monotonic() - since
        limits = (waiting.deadline, waiting.pending_deadline)
        if any(limit is not None and limit <= time.time() for limit in limits):
            return (yield from wait_for(waiting, plan))
        raise _Deferral(waiting)

    @staticmethod
    def _pause(seconds: float) -> Procedure[None]:
        """Wait a little on the worker, and then in the triggerer: there may be no worker left for the other task."""
        yield Sleep(seconds)
        raise _Pause

    def _defer_for_a_while(self) -> None:
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        self.defer(trigger=TimeDeltaTrigger(_TURN_PAUSE), method_name="execute_again")

    def _defer(self, context: Context, waiting: Waiting) -> None:
        from airflow_bitahub.secret_digests import digests_of
        from airflow_bitahub.triggers.rollout import BitaHubRolloutTrigger

        secrets = self.known_secrets().values()
        ends = [waiting.deadline]
        if self.execution_timeout is not None:
            ends.append(self.deadline(self.execution_timeout.total_seconds()) or waiting.deadline)
        self.defer(
            trigger=BitaHubRolloutTrigger(
                deployed_name=self.serving_name,
                bitahub_conn_id=self.bitahub_conn_id,
                serving_name=waiting.name,
                version=self.version,
                poll_interval=self.poll_interval,
                readiness_path=self.readiness_path,
                created_at=waiting.created_at,
                pending_deadline=waiting.pending_deadline,
                until=waiting.until,
                is_update=waiting.is_update,
                unseen_until=waiting.unseen_until,
                deadline=min(ends),
                cancel_on_kill=self.cancel_on_kill,
                earliest_report=earliest_report(context["ti"].start_date, self._waited),
                log_masks=digests_of(part for secret in secrets for part in (secret, *lines_of(secret))),
            ),
            method_name="execute_complete",
            timeout=self.deferral_timeout(min(ends)),
        )

    def _abandon_soon(self) -> None:
        """End what this task has under way, as far as there is time before Airflow kills this process."""
        try:
            self.log.info("The deployment was ended: %s", self._abandon(KILL_BUDGET / 2, KILL_BUDGET))
        except BitaHubError as error:
            self.log.warning("%s The next deployment, or `airflow-bitahub servings reap`, ends this one.", error)

    def _abandon(self, grace: float, timeout: float) -> str:
        """End what this task has under way.

        :param grace: seconds to wait for a serving whose creation may still be on its way
        :param timeout: seconds for a removal
        """
        from airflow_bitahub.procedures.repair import abandon

        site = self._new_site()
        if self._site is None or self._owner is None:
            return "it is not known what serves"
        site.timeout, site.lost_at = timeout, self._site.lost_at
        site.may_recreate = timeout > KILL_BUDGET  # otherwise Airflow would end this process in the middle
        try:
            secrets = self.known_secrets()
        except ConfigurationError:  # an argument was not rendered
            secrets = {}
        end = self.hook.new_client().run(abandon(site, self._owner, secrets, grace))
        self._site.record, self._site.ended = site.record, site.ended
        return end

    def _new_site(self) -> Site:
        from airflow_bitahub.hooks.deployment_records import VariableRecords
        from airflow_bitahub.procedures.site import Site

        records = VariableRecords(self.hook, self.serving_name, self.version)
        page = task_url(self._context) if self._context is not None else ""
        return Site(self.serving_name, self.version, records, self.log.info, task_url=page, on_end=self._count_end)

    def _count_end(self, end: RolloutEnd) -> None:
        ended = self._site.ended if self._site is not None else None
        if ended is not None and ended.owner == self._owner:  # and not one that this task only tidied up
            self._end = end
        metrics.count(metrics.ROLLOUT + end, metrics.task_tags(self._context["ti"] if self._context else None))

    @property
    def can_update(self) -> bool:
        """Whether the platform replaces specifications in place: the extra ``endpoints`` has ``update_serving``."""
        return "update_serving" in self.hook.settings.table("endpoints")

    def checks_with_files(self) -> list[AnswerCheck | SampleCheck]:
        """Return the checks with the content of their files, which are read once in a process."""
        if self._read_checks is None:
            self._read_checks = read_checks(self.checks, self.hook)
        return self._read_checks

    def turn_deadline(self) -> float | None:
        """Return until when to wait for other deployments of the same serving, in seconds since the epoch."""
        return self.deadline(as_seconds("launch_timeout", self.launch_timeout))

    @staticmethod
    def run_date(context: Context) -> float | None:
        """Return the date of the DAG run by which versions are ordered, in seconds since the epoch."""
        run: Any = context["dag_run"]
        date = run.run_after or run.logical_date
        return None if date is None else date.timestamp()

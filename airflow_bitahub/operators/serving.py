"""`BitaHubDeployServingOperator`: a model as an online service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.configuration import conf

from airflow_bitahub.api.names import LONGEST_DEPLOYED_NAME
from airflow_bitahub.assets import BitaHubServing
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubModelLink, BitaHubServingLink
from airflow_bitahub.operators.announcing import declare
from airflow_bitahub.operators.arguments import (
    Check,
    as_commands,
    as_count,
    as_dns_label,
    as_env,
    as_flag,
    as_metrics,
    as_model_path,
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

    from airflow_bitahub.api.servings import ServingSpec
    from airflow_bitahub.lineage.names import Material
    from airflow_bitahub.procedures.deployments import Deployment
    from airflow_bitahub.procedures.plan import Plan


class BitaHubDeployServingOperator(RolloutOperator):
    """Deploys a model under a name, and succeeds once this version answers there, and answers rightly.

    A serving that works is never given up for one that has not been seen to work:

    1. *Candidate.* The new version is created beside the old one, as ``{serving_name}-next``, with one replica.
    2. *Checks.* It is asked what `checks` say. If it does not start, or fails a check, it is removed, and the old
       version has not been touched.
    3. *Switch.* The public name gets the new version: in place where the platform can do that (the entry
       ``update_serving`` of the connection's extra ``endpoints``), otherwise by removing the old serving and creating
       the new one. Then the name does not answer while the new program starts.
    4. *Verification.* The new version is asked the same under the public name, and watched for `bake_seconds`. If it
       fails, the old version gets the name back, and the task fails.
    5. The candidate is removed, in any case.

    One task at a time deploys a serving; others wait for their turn until `launch_timeout` has passed. A worker may be
    killed at any moment: the next try goes on. If there is none, the task's end cleans up, or
    ``airflow-bitahub servings reap``, or the next deployment.

    A serving that this Airflow created is recognized by a record in an Airflow Variable,
    ``bitahub_serving.{platform}.{name}.{version}``, which keeps its last five versions without secret values. The same
    specification again is left unchanged. A serving that someone else created is never touched. Give the path of a
    model's version rather than its name: the same name is the same specification, whatever the folder contains now.

    The XCom result is

    .. code-block:: python

        {
            "serving_name": "mnist-serving-demo",
            "version": "v1",
            "status": "RUNNING",
            "url": "http://mnist-serving-demo-testinference.bitahub.com",
            "model_path": "/models/_2f1f.../dense-mnist-tf/20260102-abcdefghijkl-1",
            "previous": "/models/_2f1f.../dense-mnist-tf/20260101-zyxwvutsrq-1",  # None: nothing served before
            "away_seconds": 0.0,  # for how long no version answered
        }

    The task emits an event of the asset ``BitaHubServing(serving_name).asset``, see `airflow_bitahub.assets`, also
    where the same version served already.

    In model, environment and commands, ``{user_id}`` and ``{user_name}`` stand for the connection's. A limit of time is
    a ``timedelta`` or a number of seconds.

    :param serving_name: at most 44 characters, DNS-1123; the candidate's name has five more
    :param model: the model's name, or the server path of one of its versions; mounted at
        ``/model/{user_name}/{model}``
    :param image: the container image; default: the connection's ``default_image``
    :param commands: shell lines that start the program
    :param port: the port on which the program listens
    :param envs: its environment, such as ``{"MODEL_PATH": "/model/{user_name}/dense-mnist-tf/dense-mnist-tf"}``.
        Airflow masks a value whose name says that it is secret, such as ``API_TOKEN``; likewise in `commands`
    :param secret_envs: more of its environment, whose values Airflow masks whatever their names
    :param replicas: the number of replicas
    :param cpu: cores per replica
    :param memory_mb: memory per replica in MB
    :param accelerator: device type such as ``gtx-1080-ti`` (seed); None or "": no accelerator
    :param accelerator_count: accelerators per replica
    :param version: the serving's version on the platform; the document always sends ``v1``
    :param preflight: before anything is created, look the model up through the connection's ``storage_uri``, and
        compare accelerator, cores and memory with what the connection says the installation has
    :param strategy: ``candidate``, see above; ``in_place`` or ``recreate``: switch at once, without a candidate, where
        there is no room for a second serving. Both verify and restore, too, but a version that does not work takes the
        service away for the time of a start. ``in_place`` needs the entry ``update_serving``
    :param checks: what the new version is asked, such as ``[{"image_file": "/datasets/{user_id}/MNIST/digit-7.png",
        "expected": 7}]``; see `operators.checks`
    :param bake_seconds: how long the new version must serve well before the task ends
    :param metrics: what to remember of the version, such as the evaluation's metrics; a gate compares with them
    :param only_newer: skip the task where a newer DAG run has deployed what serves
    :param if_exists: ``replace`` or ``fail``, when our own serving of this name has another specification
    :param readiness_path: where the program is asked whether it answers. At ``/`` any answer below HTTP 500 counts,
        elsewhere only one below HTTP 400
    :param launch_timeout: how long each start may take, the candidate's and the one under the public name, and how long
        to wait for other deployments of this serving. ``execution_timeout`` limits the whole try, also while the task
        is deferred
    :param candidate_timeout: how long the candidate may wait for a place, such as a free GPU
    :param poll_interval: the longest pause between two queries, which is a tenth of the time waited
    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param defer_after: how long a deferrable task waits on its worker first, for the candidate
        and again under the public name; 0: not at all
    :param cancel_on_kill: end the deployment when the task is marked, cleared or deleted
    :param bitahub_conn_id: the Airflow connection
    :param multiple_outputs: also push each entry of the result under its own name
    """

    template_fields: Sequence[str] = (
        "bitahub_conn_id",  # the first: where another cannot be rendered, the serving may have to be stopped
        "serving_name",
        "version",
        "model",
        "image",
        "commands",
        "port",
        "envs",
        "secret_envs",  # Airflow never shows an argument with such a name
        "replicas",
        "cpu",
        "memory_mb",
        "accelerator",
        "accelerator_count",
        "readiness_path",
        "checks",
        "metrics",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "commands": "bash",
        "envs": "json",
        "secret_envs": "json",
        "checks": "json",
        "metrics": "json",
    }
    argument_checks: ClassVar[Mapping[str, Check]] = {
        "bitahub_conn_id": as_text,
        "serving_name": as_dns_label(LONGEST_DEPLOYED_NAME),
        "version": as_text,
        "model": as_model_path,
        "image": optional(as_text),
        "commands": as_commands,
        "port": as_count(1, 65535),
        "envs": optional(as_env, default={}),
        "secret_envs": optional(as_env, default={}),
        "replicas": as_count(),
        "cpu": as_count(),
        "memory_mb": as_count(),
        "accelerator": optional(as_text),
        "accelerator_count": as_count(),
        "preflight": as_flag,
        "strategy": one_of("candidate", "in_place", "recreate"),
        "checks": as_checks,
        "bake_seconds": as_seconds_or_zero,
        "metrics": optional(as_metrics, default={}),
        "only_newer": as_flag,
        "if_exists": one_of("replace", "fail"),
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
        model: str,
        commands: str | Sequence[str],
        image: str | None = None,
        port: int | str = 5000,
        envs: Mapping[str, Any] | None = None,
        secret_envs: Mapping[str, Any] | None = None,
        replicas: int | str = 1,
        cpu: int | str = 2,
        memory_mb: int | str = 4096,
        accelerator: str | None = None,
        accelerator_count: int | str = 1,
        version: str = "v1",
        preflight: bool = True,
        strategy: Literal["candidate", "in_place", "recreate"] = "candidate",
        checks: Sequence[Mapping[str, Any]] = (),
        bake_seconds: timedelta | float = 0,
        metrics: Mapping[str, Any] | None = None,
        only_newer: bool = True,
        if_exists: Literal["replace", "fail"] = "replace",
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
        self.model = model
        self.commands = commands
        self.image = image
        self.port = port
        self.envs = envs
        self.secret_envs = secret_envs
        self.replicas = replicas
        self.cpu = cpu
        self.memory_mb = memory_mb
        self.accelerator = accelerator
        self.accelerator_count = accelerator_count
        self.version = version
        self.preflight = preflight
        self.strategy = strategy
        self.checks = checks
        self.bake_seconds: Any = bake_seconds  # seconds, once the arguments have been read; likewise other times
        self.metrics = metrics
        self.only_newer = only_newer
        self.if_exists = if_exists
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

    def plan(self, context: Context, record: Deployment) -> Plan:  # noqa: ARG002
        """Return what to deploy. Raises ConfigurationError for arguments that the platform could not accept."""
        from airflow_bitahub.procedures.deployments import Version
        from airflow_bitahub.procedures.plan import Plan

        can_update, owner = self.can_update, owner_of(context)
        if self.strategy == "in_place" and not can_update:
            raise ConfigurationError(
                "strategy='in_place' needs the entry 'update_serving' in the connection's extra 'endpoints'. Add it, "
                "or set strategy='candidate' or 'recreate'."
            )
        spec, secrets = self._spec(), self.known_secrets()
        version = Version.of(
            spec,
            secrets,
            metrics=dict(self.metrics or {}),
            run_date=self.run_date(context),
            deployed_by=str(owner),
        )
        return Plan(
            spec,
            version,
            owner,
            secrets,
            strategy=self.strategy,
            can_update=can_update,
            if_exists=self.if_exists,
            only_newer=self.only_newer,
            checks=self.checks_with_files(),
            bake_seconds=self.bake_seconds,
            readiness_path=self.readiness_path,
            launch_timeout=self.launch_timeout,
            candidate_timeout=self.candidate_timeout,
            turn_deadline=self.turn_deadline(),
            poll_interval=self.poll_interval,
        )

    def look(self, plan: Plan) -> None:
        """Raise ConfigurationError if a plan cannot work, before its first serving is created."""
        if not self.preflight:
            return
        from airflow_bitahub.operators import preflight

        resource = plan.spec.resource
        device = resource.acc_device.device_type if resource.acc_device else None
        replica = preflight.Replica(plan.spec.image, resource.cpu, resource.memory_mb, device, {})
        preflight.look(self.hook, [replica], {"model": plan.spec.model.path})

    def lineage_inputs(self) -> Iterable[Material]:
        """Return the model."""
        from airflow_bitahub.lineage.names import Material

        folders = self.hook.folders
        return [Material(folders.model_mount(folders.fill(self.model))[0])]

    def known_secrets(self) -> Mapping[str, str]:
        """Return the secret values among the environment and the commands, by name."""
        from airflow_bitahub.operators.masking import secrets_by_name

        fill = self.hook.folders.fill
        envs, secret_envs = (
            {
                name: fill(value)
                for name, value in optional(as_env, default={})(argument, getattr(self, argument)).items()
            }
            for argument in ("envs", "secret_envs")
        )
        return secrets_by_name(envs, secret_envs, [fill(line) for line in as_commands("commands", self.commands)])

    def _spec(self) -> ServingSpec:
        """Return the creation's body. Raises ConfigurationError for arguments that the platform could not accept."""
        from airflow_bitahub.operators.job_spec import NO_IMAGE, accelerator, serving_spec

        fill = self.hook.folders.fill
        image = self.image or self.hook.default_image
        if not image:
            raise ConfigurationError(NO_IMAGE)
        path, mount_path = self.hook.folders.model_mount(fill(self.model))
        device = accelerator(self.accelerator, self.accelerator_count)
        envs = {**(self.envs or {}), **(self.secret_envs or {})}
        return serving_spec(
            name=self.serving_name,
            model={"path": path, "mount_path": mount_path},
            image=image,
            replicas=self.replicas,
            resource={"cpu": self.cpu, "memory_mb": self.memory_mb, "acc_device": device},
            protocols=[{"port": self.port}],
            envs={name: fill(value) for name, value in envs.items()},
            commands=[fill(line) for line in self.commands],
            version=self.version,
        )

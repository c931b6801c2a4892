"""`BitaHubDeployServingOperator`: a model as an online service."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.configuration import conf

from airflow_bitahub.api.names import LONGEST_SERVING_NAME
from airflow_bitahub.exceptions import ConfigurationError, ServingFailedError, ServingTimeoutError, StateUnknownError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.arguments import (
    Check,
    as_commands,
    as_count,
    as_dns_label,
    as_env,
    as_flag,
    as_model_path,
    as_seconds,
    as_text,
    one_of,
    optional,
)
from airflow_bitahub.operators.base import KILL_BUDGET, ResourceLifecycle
from airflow_bitahub.operators.records import (
    AwaitedServing,
    load_awaited_serving,
    load_serving_record,
    save_awaited_serving,
    save_serving_record,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.triggers.events import earliest_report, is_about, log_late_start, serving_subject

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.api.servings import Serving, ServingSpec
    from airflow_bitahub.exceptions import JobTimeoutError
    from airflow_bitahub.procedures.rollout import ServingRecord
    from airflow_bitahub.triggers.events import ServingEvent


class BitaHubDeployServingOperator(ResourceLifecycle):
    """Deploys a model under a name, and succeeds once the platform reports RUNNING *and* the program answers.

    A serving that this Airflow created is recognized by a record in an Airflow Variable,
    ``bitahub_serving.{connection}.{name}.{version}``. With the same specification it is left unchanged, also when the
    task is cleared; with another one it is replaced or refused. Replacing removes the old serving first, so the service
    is unavailable until the new one answers. A serving that someone else created is never touched. Give the path of a
    model's version rather than its name: the same name is the same specification, whatever the folder contains now.

    The XCom result is

    .. code-block:: python

        {
            "serving_name": "mnist-serving-demo",
            "version": "v1",
            "status": "RUNNING",
            "url": "http://mnist-serving-demo-testinference.bitahub.com",
            "model_path": "/models/_2f1f.../dense-mnist-tf/20260101-abcdefghij-1",
        }

    In model, environment and commands, ``{user_id}`` and ``{user_name}`` stand for the connection's. A limit of time is
    a ``timedelta`` or a number of seconds.

    :param serving_name: at most 49 characters, DNS-1123
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
    :param if_exists: ``replace`` or ``fail``, when our own serving of this name has another specification
    :param readiness_path: where the program is asked whether it answers. At ``/`` any answer below HTTP 500 counts,
        elsewhere only one below HTTP 400
    :param launch_timeout: how long the serving may take to be ready, from the start of the try. Then the serving that
        this task created is stopped. ``execution_timeout`` works likewise, also while the task is deferred
    :param poll_interval: the pause between two queries
    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param cancel_on_kill: stop the serving when the task is marked, cleared or deleted before it is ready
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
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"commands": "bash", "envs": "json", "secret_envs": "json"}
    argument_checks: ClassVar[Mapping[str, Check]] = {
        "bitahub_conn_id": as_text,
        "serving_name": as_dns_label(LONGEST_SERVING_NAME),
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
        "if_exists": one_of("replace", "fail"),
        "readiness_path": as_text,
        "launch_timeout": as_seconds,
        "poll_interval": as_seconds,
        "deferrable": as_flag,
        "cancel_on_kill": as_flag,
    }
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubServingLink(),)
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
        if_exists: Literal["replace", "fail"] = "replace",
        readiness_path: str = "/",
        launch_timeout: timedelta | float = 1800,
        poll_interval: timedelta | float = 5,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
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
        self.if_exists = if_exists
        self.readiness_path = readiness_path
        self.launch_timeout: Any = launch_timeout  # seconds, once the arguments have been read; likewise the next
        self.poll_interval: Any = poll_interval
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    _own: ServingRecord | None = None  # of the serving that this task created and must stop if it fails
    _awaited_created_at: float | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Create the serving or find it again, and wait until it answers."""
        from airflow_bitahub.procedures.rollout import ensure_serving
        from airflow_bitahub.procedures.servings import wait_for_serving

        with self.settling(context):
            self.read_arguments()
            serving, self._own = self.hook.run(
                ensure_serving(
                    self._spec(), load=self._load, save=self._save_unless_abandoned, if_exists=self.if_exists
                )
            )
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=self.hook.serving_url(serving.name))
            self.log.info("The %s", serving)
            save_awaited_serving(context, AwaitedServing(self._own, serving.created_at))
            limit = min(self.launch_timeout, (self.execution_timeout or timedelta.max).total_seconds())
            deadline = self.deadline(limit)
            wait = partial(
                wait_for_serving,
                self.serving_name,
                self.version,
                poll_interval=self.poll_interval,
                readiness_path=self.readiness_path,
                created_at=serving.created_at,
                is_known=True,
                on_change=lambda seen: self.log.info("The %s", seen),
            )
            if self.deferrable:
                with suppress(ServingTimeoutError):  # one query first, since most existing servings are ready
                    return self._ready(self.hook.run(wait(deadline=0)))
                self._defer(context, serving, deadline)
            return self._ready(self.hook.run(wait(deadline=deadline)))

    def execute_complete(self, context: Context, event: ServingEvent | None = None) -> dict[str, Any]:
        """Continue after the deferral with what the trigger reports."""
        with self.settling(context):
            self.read_arguments("serving_name", "version", "model")
            awaited = serving_subject(self.serving_name, self.version, self._awaited_created_at)
            if not event or is_about(event, awaited):
                log_late_start(event or {}, self.log)
                return self._complete(event or {})
        self.log.warning("Ignoring a trigger's report about %s: this task waits for another", event.get("subject"))
        return self.execute(context)

    def on_kill(self) -> None:
        """Stop the serving if the task was marked, cleared or deleted before it was ready."""
        if self._context is not None and self._own is not None and self.cancel_on_kill:
            # The creation itself may have been interrupted, and its serving may appear later.
            grace = KILL_BUDGET / 2 if self._own.since is not None else 0
            self.stop_if_abandoned(self._context, partial(self._stop, self._own, grace, KILL_BUDGET))

    # Settling and stopping, see the base class -----------------------------------------------------------------

    @property
    def subject(self) -> str:
        """The serving in words."""
        return f"serving {self.serving_name!r}"

    def restore(self, context: Context) -> None:
        """Load which serving is this task's to stop, and when the awaited one was created."""
        self._own, self._awaited_created_at = load_awaited_serving(context)

    def timeout_error(self, problem: str | None = None) -> ServingTimeoutError:
        """Return the error for a time limit that has passed."""
        problem = problem or "was not ready in time."
        return ServingTimeoutError(f"The {self.subject} {problem}", self.serving_name)

    def limit_of(self, error: JobTimeoutError | ServingTimeoutError) -> str:  # noqa: ARG002
        """Return the name of the argument whose time limit an error is about."""
        return self._shortest_limit

    def nothing_to_stop(self) -> str:
        """Return in words why there is no serving to stop; "" where this task created one."""
        return "" if self._own else "this task did not create it, so it was not stopped"

    def how_to_stop(self) -> str:
        """Return in words how a user finds and stops the serving."""
        return "Look for it on the platform. Clearing the task takes it up again."

    def stop(self) -> str:
        """Stop the serving that this task created, and return in words what became of it."""
        if self._own is None:
            return self.nothing_to_stop()
        # The creation itself may have been interrupted, and its serving may appear later.
        grace = retry.GRACE_PERIOD if self._own.since is not None else 0
        return "the serving was stopped" if self._stop(self._own, grace) else "there was nothing to stop"

    # Steps -----------------------------------------------------------------------------------------------------

    def _complete(self, event: ServingEvent) -> dict[str, Any]:
        """Return the result that a trigger's report leads to, or raise its error."""
        from airflow_bitahub.api.servings import Serving

        message = event.get("message", "")
        match event.get("outcome"):
            case "ready":
                return self._ready(Serving.model_validate(event["serving"]))
            case "failed":
                raise ServingFailedError(message, self.serving_name)
            case "timeout":
                raise ServingTimeoutError(message, self.serving_name)
            case _:
                raise StateUnknownError(f"The state of serving {self.serving_name!r} is unknown: {message}")

    def _stop(self, own: ServingRecord, grace: float = 0, timeout: float = 60) -> bool:
        """Stop the serving of a record; return False where it has ended, or another one has replaced it."""
        from airflow_bitahub.procedures.servings import stop_own_serving

        if self._load() != own:
            return False

        def is_own(created_at: float | None) -> bool:
            return own.describes(created_at, time.time())

        stopping = stop_own_serving(self.serving_name, self.version, is_own, grace=grace, timeout=timeout)
        return self.hook.new_client().run(stopping)

    def _defer(self, context: Context, serving: Serving, deadline: float | None) -> None:
        from airflow_bitahub.triggers.serving import BitaHubServingTrigger

        self.defer(
            trigger=BitaHubServingTrigger(
                bitahub_conn_id=self.bitahub_conn_id,
                serving_name=self.serving_name,
                version=self.version,
                poll_interval=self.poll_interval,
                readiness_path=self.readiness_path,
                created_at=serving.created_at,
                deadline=deadline,
                cancel_on_kill=self.cancel_on_kill and self._own is not None,
                earliest_report=earliest_report(context["ti"].start_date),
            ),
            method_name="execute_complete",
            timeout=self.deferral_timeout(deadline),
        )

    @property
    def _shortest_limit(self) -> str:
        """The name of the argument that limits the time from the start of a try until the serving is ready."""
        timeout = self.execution_timeout
        # A task that resumes has not read it yet.
        launch_timeout = as_seconds("launch_timeout", self.launch_timeout)
        is_shorter = timeout is not None and timeout.total_seconds() < launch_timeout
        return "execution_timeout" if is_shorter else "launch_timeout"

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

    def _load(self) -> ServingRecord | None:
        return load_serving_record(self.bitahub_conn_id, self.serving_name, self.version)

    def _save(self, record: ServingRecord) -> None:
        save_serving_record(self.bitahub_conn_id, self.serving_name, self.version, record)

    def _save_unless_abandoned(self, record: ServingRecord) -> None:
        self.raise_if_abandoned()
        if record.since is not None or self._own is not None:
            self._own = record  # from here on, this task may have to stop a serving
        self._save(record)

    def _ready(self, serving: Serving) -> dict[str, Any]:
        """Record that the serving is ready, so that no task stops it any more, and return the result."""
        if self._own is not None:
            record = self._load()
            if record is None or not record.replaces(self._own.created_at):
                self._save(replace(self._own, created_at=serving.created_at, since=None, ready=True))
        folders = self.hook.folders
        return {
            "serving_name": serving.name,
            "version": self.version,
            "status": serving.status.value,
            "url": serving.url,
            "model_path": folders.model_mount(folders.fill(self.model))[0],
        }

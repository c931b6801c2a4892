"""Deploying a model as an online service, and asking it."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import Variable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferralError, TaskDeferralTimeout

from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    InvokeError,
    ServingFailedError,
    ServingTimeoutError,
    StorageError,
    TransportError,
)
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.base import KILL_BUDGET, NO_TRIGGERER, BitaHubOperator, keep
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.operators.job import explain
from airflow_bitahub.triggers.events import is_about, serving_subject

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.api.servings import Serving, ServingSpec
    from airflow_bitahub.procedures.rollout import ServingRecord
    from airflow_bitahub.triggers.events import ServingEvent

_WAITED = "bitahub_serving"  # key in Airflow's task state store


class BitaHubDeployServingOperator(BitaHubOperator):
    """Makes a model answer under a name; succeeds once the platform says RUNNING *and* the program answers.

    A serving this Airflow created is known again (by a note kept as an Airflow Variable,
    ``bitahub_serving.{connection}.{name}.{version}``): with the same specification it is left as it is, also when the
    task is cleared; with another it is replaced or refused. Replacing removes the old one first, so that the service
    is away until the new one answers. A serving somebody else created is never touched. Give the path of a model's
    version rather than its name: the same name is the same specification, whatever the folder holds by now.

    The XCom result is

    .. code-block:: python

        {
            "serving_name": "mnist-serving-demo",
            "version": "v1",
            "status": "RUNNING",
            "url": "http://mnist-serving-demo-testinference.bitahub.com",
            "model_path": "/models/_2f1f.../dense-mnist-tf/20260101-abcdefghij-1",
        }

    In model, environment and commands, ``{user_id}`` and ``{user_name}`` stand for the connection's.

    :param serving_name: at most 49 characters, DNS-1123
    :param model: the model's name, or the server path of one of its versions; seen at ``/model/{user_name}/{model}``
    :param image: the container image; default: the connection's ``default_image``
    :param commands: shell lines that start the program
    :param port: the port the program listens on
    :param envs: its environment, such as ``{"MODEL_PATH": "/model/{user_name}/dense-mnist-tf/dense-mnist-tf"}``
    :param replicas: how many
    :param cpu: cores per replica
    :param memory_mb: MB per replica
    :param accelerator: device type such as ``gtx-1080-ti`` (seed); None or "": no accelerator
    :param accelerator_count: per replica
    :param version: the serving's version on the platform; the document always sends ``v1``
    :param if_exists: ``replace`` or ``fail``, when our own serving of this name has another specification
    :param readiness_path: where the program is asked whether it answers: at ``/`` anything below HTTP 500 is an answer,
        anywhere else only what is below HTTP 400
    :param launch_timeout: seconds until it must be ready, counted from the start of the try; what this task created is
        stopped otherwise. ``execution_timeout`` counts likewise, also while the task is deferred
    :param poll_interval: seconds between two looks
    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param cancel_on_kill: stop the serving when the task is marked, cleared or deleted before it is ready
    :param bitahub_conn_id: the Airflow connection
    :param multiple_outputs: push each entry of the result under its own name, too
    """

    template_fields: Sequence[str] = (
        "serving_name",
        "model",
        "image",
        "commands",
        "port",
        "envs",
        "replicas",
        "cpu",
        "memory_mb",
        "accelerator",
        "accelerator_count",
        "version",
        "readiness_path",
        "bitahub_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"commands": "bash", "envs": "json"}
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
        envs: Mapping[str, str] | None = None,
        replicas: int | str = 1,
        cpu: int | str = 2,
        memory_mb: int | str = 4096,
        accelerator: str | None = None,
        accelerator_count: int | str = 1,
        version: str = "v1",
        if_exists: Literal["replace", "fail"] = "replace",
        readiness_path: str = "/",
        launch_timeout: float = 1800,
        poll_interval: float = 5,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        cancel_on_kill: bool = True,
        multiple_outputs: bool = True,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=multiple_outputs, **kwargs)
        if if_exists not in ("replace", "fail"):
            raise ValueError(f"if_exists must be 'replace' or 'fail', not {if_exists!r}")
        if poll_interval <= 0 or launch_timeout <= 0:
            raise ValueError("poll_interval and launch_timeout must be more than 0 seconds")
        self.serving_name = serving_name
        self.model = model
        self.commands = commands
        self.image = image
        self.port = port
        self.envs = envs
        self.replicas = replicas
        self.cpu = cpu
        self.memory_mb = memory_mb
        self.accelerator = accelerator
        self.accelerator_count = accelerator_count
        self.version = version
        self.if_exists = if_exists
        self.readiness_path = readiness_path
        self.launch_timeout = launch_timeout
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill
        self.bitahub_conn_id = bitahub_conn_id
        self._context: Context | None = None
        self._own: ServingRecord | None = None  # our note of the serving this task created

    def execute(self, context: Context) -> dict[str, Any]:
        """Create the serving or find it again, and wait until it answers."""
        from airflow_bitahub.procedures.rollout import ensure_serving
        from airflow_bitahub.procedures.servings import wait_for_serving

        self._take_up(context)  # should this try fail early, what an earlier one has created is to be stopped
        with self._settling(context):
            spec = self._spec()
            creating = ensure_serving(spec, load=self._load, save=self._save_if_wanted, if_exists=self.if_exists)
            serving, self._own = self.hook.run(creating)
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=self.hook.serving_url(serving.name))
            self.log.info("The %s", serving)
            deadline = context["ti"].start_date.timestamp() + self._limit
            note = {"own": self._own and self._own.to_json(), "created_at": serving.created_at}
            keep(context, _WAITED, note)
            wait = partial(
                wait_for_serving,
                self.serving_name,
                self.version,
                poll_interval=self.poll_interval,
                readiness_path=self.readiness_path,
                created_at=serving.created_at,
                on_change=lambda seen: self.log.info("The %s", seen),
            )
            if self.deferrable:
                with suppress(ServingTimeoutError):  # one look, since most servings found again are ready
                    return self._ready(self.hook.run(wait(deadline=0)))
                self._defer(serving, deadline)
            return self._ready(self.hook.run(wait(deadline=deadline)))

    def execute_complete(self, context: Context, event: ServingEvent | None = None) -> dict[str, Any]:
        """Take up the trigger's report."""
        from airflow_bitahub.api.servings import Serving

        created_at = self._take_up(context)
        if event and not is_about(event, serving_subject(self.serving_name, self.version, created_at)):
            self.log.warning("Airflow hands over a report about %s, which is not waited for", event.get("subject"))
            return self.execute(context)
        with self._settling(context):
            event = event or {}
            message = event.get("message", "")
            match event.get("outcome"):
                case "ready":
                    return self._ready(Serving.model_validate(event["serving"]))
                case "failed":
                    raise ServingFailedError(message, self.serving_name)
                case "timeout":
                    raise ServingTimeoutError(message, self.serving_name)
                case _ if event.get("is_final"):
                    raise AirflowFailException(message)
                case _:
                    raise TransportError(f"Nothing is known of serving {self.serving_name!r}: {message}")

    def take_up_failure(self, context: Context, error: TaskDeferralError | TaskDeferralTimeout) -> None:
        """Treat a trigger that failed like any other trouble, and a deadline that nobody kept like any other."""
        self._take_up(context)
        with self._settling(context):
            name = self.serving_name
            if isinstance(error, TaskDeferralTimeout):
                raise ServingTimeoutError(
                    f"Nobody has watched serving {name!r}: is a triggerer running?", name
                ) from error
            raise TransportError(f"Serving {name!r} could not be watched: {error}") from error

    def on_kill(self) -> None:
        """Stop the serving if somebody marked, cleared or deleted the task before it was ready."""
        if self._context is not None and self._own is not None and self.cancel_on_kill:
            # what is interrupted may be the creation, so that the serving is still to appear
            grace = KILL_BUDGET / 2 if self._own.since is not None else 0
            stop = partial(self._stop, self._own, grace)
            self.stop_if_unwanted(self._context, f"serving {self.serving_name}", stop)

    def _defer(self, serving: Serving, deadline: float) -> None:
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
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=deadline - time.time()) + NO_TRIGGERER,
        )

    @property
    def _limit(self) -> float:
        """The seconds from the start of a try until the serving must be ready."""
        limits = [self.launch_timeout]
        if self.execution_timeout is not None:
            limits.append(self.execution_timeout.total_seconds())
        return min(limits)

    def _take_up(self, context: Context) -> float | None:
        """Remember which serving is this task's to stop, and give when the one that was waited for was created."""
        from airflow_bitahub.procedures.rollout import ServingRecord

        self._context = context
        note: Any = context["task_state_store"].get(_WAITED) or {}
        self._own = ServingRecord.from_json(note.get("own"))
        created_at: float | None = note.get("created_at")
        return created_at

    @contextmanager
    def _settling(self, context: Context) -> Iterator[None]:
        """Leave no serving of this task's behind that never got ready, and tell Airflow what is worth another try."""
        try:
            yield
        except AirflowTaskTimeout as error:
            self._stop_own("execution_timeout has passed")
            raise ServingTimeoutError(
                f"Serving {self.serving_name!r} was not ready in time. The limit is execution_timeout="
                f"{self.execution_timeout} from the start of the try.",
                self.serving_name,
            ) from error
        except Exception as error:
            is_final = isinstance(error, AirflowFailException) or getattr(error, "is_final", False)
            is_last = is_final or context["ti"].try_number > context["ti"].max_tries
            if isinstance(error, ServingTimeoutError) or is_last:
                self._stop_own(
                    "it was not ready in time" if isinstance(error, ServingTimeoutError) else "the task fails"
                )
            if isinstance(error, BitaHubError):
                raise airflow_error(error) from error
            raise

    def _stop_own(self, why: str) -> None:
        if self._own is not None:
            self.log.info("Stopping serving %s: %s", self.serving_name, why)
            stop = partial(self._stop, self._own)
            try:
                self.despite_the_alarm(stop)
            except Exception as error:  # the error that the task fails with is what matters
                self.log.error("%s", error)

    def _stop(self, own: ServingRecord, grace: float = 0) -> None:
        from airflow_bitahub.procedures.servings import stop_own_serving

        if self._load() == own:  # otherwise another task has taken over
            stopping = stop_own_serving(self.serving_name, self.version, own.describes, grace=grace)
            self.hook.new_client().run(stopping)

    def _spec(self) -> ServingSpec:
        """Give the creation's body. Raises ConfigurationError for arguments the platform could not accept."""
        from pydantic import ValidationError

        from airflow_bitahub.api.servings import ServingSpec

        fill = self.hook.folders.fill
        image = self.image or self.hook.default_image
        if not image:
            raise ConfigurationError("Give an image, or set default_image in the extra of the Airflow connection.")
        path, mount_path = self.hook.folders.model_mount(fill(self.model))
        commands = [self.commands] if isinstance(self.commands, str) else list(self.commands)
        device = {"device_type": self.accelerator, "requests": self.accelerator_count} if self.accelerator else None
        try:
            return ServingSpec.model_validate(
                {
                    "name": self.serving_name,
                    "model": {"path": path, "mount_path": mount_path},
                    "image": image,
                    "replicas": self.replicas,
                    "resource": {"cpu": self.cpu, "memory": self.memory_mb, "acc_device": device},
                    "protocols": [{"port": self.port}],
                    "envs": {name: fill(value) for name, value in (self.envs or {}).items()},
                    "commands": [fill(line) for line in commands],
                    "version": self.version,
                }
            )
        except ValidationError as error:
            raise ConfigurationError(explain(error)) from error

    @property
    def _variable(self) -> str:
        return f"bitahub_serving.{self.bitahub_conn_id}.{self.serving_name}.{self.version}"

    def _load(self) -> ServingRecord | None:
        from airflow_bitahub.procedures.rollout import ServingRecord

        return ServingRecord.from_json(Variable.get(self._variable, default=None, deserialize_json=True))

    def _save_if_wanted(self, record: ServingRecord) -> None:
        self.check_still_wanted()
        if record.since is not None or self._own is not None:
            self._own = record  # from here on there may be a serving of this task's that has to be stopped
        self._save(record)

    def _save(self, record: ServingRecord) -> None:
        Variable.set(
            self._variable,
            record.to_json(),
            description="How BitaHubDeployServingOperator knows its serving again",
            serialize_json=True,
        )

    def _ready(self, serving: Serving) -> dict[str, Any]:
        """Note that the serving need not be stopped any more, and give the result."""
        if self._own is not None:
            note = self._load()
            if note is None or not note.replaces(self._own.created_at):
                self._save(replace(self._own, created_at=serving.created_at, since=None, ready=True))
        folders = self.hook.folders
        return {
            "serving_name": serving.name,
            "version": self.version,
            "status": serving.status.value,
            "url": serving.url,
            "model_path": folders.model_mount(folders.fill(self.model))[0],
        }


class BitaHubInvokeServingOperator(BitaHubOperator):
    """Asks a served model about one picture, and gives its answer as the XCom result.

    With the document's demo (seed) that is ``{"predictions": [7], "probabilities": [[...]]}``. The answer's own status
    code counts, since that program reports its errors inside HTTP 200. Give exactly one of the three pictures; path
    and field names belong to the served program.

    :param serving_name: the serving
    :param version: its version
    :param image_url: a picture the serving fetches itself
    :param image_file: a picture read here: a path on the platform's storage (``/datasets/{user_id}/...``), on this
        worker, or any address Airflow's object storage knows
    :param image_base64: a picture as text
    :param path: where the program is asked (seed: ``/image``)
    :param field: the form field; default: ``urls`` (seed), ``files`` or ``base64``
    :param expected_prediction: fail unless the first of ``predictions`` is this; None: any answer will do
    :param request_timeout: seconds to wait for the answer
    :param bitahub_conn_id: the Airflow connection
    """

    template_fields: Sequence[str] = (
        "serving_name",
        "version",
        "image_url",
        "image_file",
        "image_base64",
        "path",
        "field",
        "expected_prediction",
        "bitahub_conn_id",
    )
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubServingLink(),)
    ui_color = "#dff5e1"

    def __init__(
        self,
        *,
        serving_name: str,
        version: str = "v1",
        image_url: str | None = None,
        image_file: str | None = None,
        image_base64: str | None = None,
        path: str = "/image",
        field: str | None = None,
        expected_prediction: Any = None,
        request_timeout: float = 60,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.serving_name = serving_name
        self.version = version
        self.image_url = image_url
        self.image_file = image_file
        self.image_base64 = image_base64
        self.path = path
        self.field = field
        self.expected_prediction = expected_prediction
        self.request_timeout = request_timeout
        self.bitahub_conn_id = bitahub_conn_id

    def execute(self, context: Context) -> Any:
        """Ask, and check the answer."""
        from airflow_bitahub.api.servings import get_serving, invoke_serving

        try:
            picture = self._picture()
            serving = self.hook.send(get_serving(self.serving_name, self.version))
            if not serving.url:
                raise ServingFailedError(f"The {serving}: it has no address to be asked at.", serving.name)
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=serving.url)
            answer = self.hook.send(invoke_serving(serving, self.path, timeout=self.request_timeout, **picture))
            self._check(answer)
        except BitaHubError as error:
            raise airflow_error(error) from error
        return answer

    def _picture(self) -> dict[str, Any]:
        """Give the picture as `invoke_serving` takes it."""
        given = {
            name: value
            for name, value in (
                ("urls", self.image_url),
                ("files", self.image_file),
                ("base64", self.image_base64),
            )
            if value
        }
        if len(given) != 1:
            raise AirflowFailException("Give exactly one of image_url, image_file and image_base64.")
        [(kind, value)] = given.items()
        field = self.field or kind
        if kind == "files":
            return {"files": {field: (value.rsplit("/", 1)[-1], self._read(value))}}
        if kind == "base64":
            value = "".join(value.split())  # the command base64 wraps its lines
            try:
                base64.b64decode(value.rpartition(",")[2], validate=True)
            except ValueError as error:
                raise AirflowFailException(f"image_base64 is not base64: {error}") from error
        return {"form": {field: value}}

    def _read(self, path: str) -> bytes:
        from airflow.sdk import ObjectStoragePath

        from airflow_bitahub.storage import is_server_path, read_bytes

        if is_server_path(path):
            return self.hook.storage.read_bytes(self.hook.folders.fill(path))
        try:
            return read_bytes(ObjectStoragePath(path))
        except FileNotFoundError as error:
            raise StorageError(f"The picture {path} is not there.") from error

    def _check(self, answer: Any) -> None:
        if self.expected_prediction in (None, ""):
            return
        predictions = answer.get("predictions") if isinstance(answer, Mapping) else None
        first = predictions[0] if isinstance(predictions, Sequence) and predictions else None
        if str(first) != str(self.expected_prediction):
            raise InvokeError(
                f"Serving {self.serving_name!r} said {first!r} where {self.expected_prediction!r} was expected.",
                self.serving_name,
            )

"""`BitaHubInvokeServingOperator`: asking a served model."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, InvokeError, ServingFailedError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.arguments import Check, as_flag, as_seconds, as_text, is_none, optional
from airflow_bitahub.operators.base import BitaHubOperator
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.operators.xcom import problem_as_xcom
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context


class BitaHubInvokeServingOperator(BitaHubOperator):
    """Sends one picture to a served model, and returns the model's answer, of at most 1 MiB, as the XCom result.

    The document's demo (seed) answers ``{"predictions": [7], "probabilities": [[...]]}``. That program reports its
    errors inside HTTP 200, so the status code inside the answer counts. Give exactly one of the three pictures. The
    path and the field's name are defined by the served program.

    :param serving_name: the serving
    :param version: its version
    :param image_url: the address of a picture that the served program downloads itself
    :param image_file: a picture that this task reads: a path on the platform's storage (``/datasets/{user_id}/...``)
    :param image_base64: a picture as base64 text
    :param allow_any_image_file: let `image_file` also be a file of this worker, or any address that Airflow's object
        storage supports. Set it only where nobody else can choose `image_file`: what is read is sent to the program
    :param path: the path to which the picture is sent (seed: ``/image``)
    :param field: the form field; default: ``urls`` (seed), ``files`` or ``base64``
    :param expected_prediction: fail unless this is the first of ``predictions``; None: accept any answer
    :param request_timeout: how long to wait for the answer: a ``timedelta`` or a number of seconds
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
    argument_checks: ClassVar[Mapping[str, Check]] = {
        "serving_name": as_text,
        "version": as_text,
        "image_url": optional(as_text),
        "image_file": optional(as_text),
        "image_base64": optional(as_text),
        "allow_any_image_file": as_flag,
        "path": as_text,
        "field": optional(as_text),
        "request_timeout": as_seconds,
        "bitahub_conn_id": as_text,
    }
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
        allow_any_image_file: bool = False,
        path: str = "/image",
        field: str | None = None,
        expected_prediction: Any = None,
        request_timeout: timedelta | float = 60,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.serving_name = serving_name
        self.version = version
        self.image_url = image_url
        self.image_file = image_file
        self.image_base64 = image_base64
        self.allow_any_image_file = allow_any_image_file
        self.path = path
        self.field = field
        self.expected_prediction = expected_prediction
        self.request_timeout: Any = request_timeout  # seconds, once the arguments have been read
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    def execute(self, context: Context) -> Any:
        """Send the picture, and check the answer."""
        from airflow_bitahub.api.servings import get_serving, invoke_serving

        try:
            self.read_arguments()
            picture = self._picture()
            serving = self.hook.send(get_serving(self.serving_name, self.version))
            if not serving.url:
                raise ServingFailedError(f"The {serving}: it has no address.", serving.name)
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=serving.url)
            call = invoke_serving(serving, self.path, timeout=self.request_timeout, **picture)
            answer = self.hook.send(call)
            if problem := problem_as_xcom(answer):
                raise InvokeError(
                    f"The answer of serving {serving.name!r} cannot become a result in Airflow: {problem}.",
                    serving.name,
                )
            self._check(answer)
        except BitaHubError as error:
            raise airflow_error(error) from None
        return answer

    def _picture(self) -> dict[str, Any]:
        """Return the picture as arguments of `invoke_serving`."""
        given = {
            name: value
            for name, value in (
                ("urls", self.image_url),
                ("files", self.image_file),
                ("base64", self.image_base64),
            )
            if value is not None
        }
        if len(given) != 1:
            raise ConfigurationError("Give exactly one of image_url, image_file and image_base64.")
        [(kind, value)] = given.items()
        field = self.field or kind
        if kind == "files":
            return {"files": {field: (value.rsplit("/", 1)[-1], self._read(value))}}
        if kind == "base64":
            value = "".join(value.split())  # the command `base64` wraps its lines
            try:
                base64.b64decode(value.rpartition(",")[2], validate=True)
            except ValueError as error:
                raise ConfigurationError(f"image_base64 is not base64: {error}") from error
        return {"form": {field: value}}

    def _read(self, path: str) -> bytes:
        from airflow_bitahub.storage import PICTURE_LIMIT, is_server_path, read_anywhere

        if is_server_path(path):
            return self.hook.storage.read_bytes("image_file", self.hook.folders.fill(path), PICTURE_LIMIT)
        if not self.allow_any_image_file:
            raise ConfigurationError(
                f"image_file {path!r} is not below /projects, /datasets or /models of the platform's storage. To read "
                f"files of the worker or other addresses, set allow_any_image_file=True."
            )
        return read_anywhere("image_file", path, PICTURE_LIMIT)

    def _check(self, answer: Any) -> None:
        if is_none(self.expected_prediction):
            return
        predictions = answer.get("predictions") if isinstance(answer, Mapping) else None
        first = predictions[0] if isinstance(predictions, Sequence) and predictions else None
        if str(first) != str(self.expected_prediction):
            raise InvokeError(
                f"Serving {self.serving_name!r} answered {shorten(repr(first), 200)}; expected was "
                f"{self.expected_prediction!r}.",
                self.serving_name,
            )

"""`BitaHubInvokeServingOperator`: asking a served model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, InvokeError, ServingFailedError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.arguments import (
    Check,
    as_flag,
    as_json,
    as_seconds,
    as_seconds_or_zero,
    as_text,
    optional,
)
from airflow_bitahub.operators.base import BitaHubOperator
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.operators.questions import PICTURE_CHECKS, FileReader, as_json_body
from airflow_bitahub.operators.xcom import problem_as_xcom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.lineage.names import Material
    from airflow_bitahub.procedures.questions import Question


class BitaHubInvokeServingOperator(BitaHubOperator):
    """Asks a served model, and returns the model's answer, of at most 1 MiB, as the XCom result.

    Give exactly one of `image_url`, `image_file`, `image_base64` and `json`; a picture is one value, or a list for
    several pictures in one request. The document's demo (seed) answers
    ``{"predictions": [7], "probabilities": [[...]]}``. That program reports its errors inside HTTP 200, so the status
    code inside the answer counts: 0 and 200 mean success, also as text. The path and the field's name are defined by
    the served program.

    The XCom ``seconds`` has the time that the answer took. To ask about many pictures in tasks of their own, map the
    operator: ``BitaHubInvokeServingOperator.partial(...).expand(image_file=[...])``.

    :param serving_name: the serving
    :param version: its version
    :param image_url: the address of a picture that the served program downloads itself
    :param image_file: a picture that this task reads: a path on the platform's storage (``/datasets/{user_id}/...``)
    :param image_base64: a picture as base64 text
    :param json: what is sent as JSON, or its text
    :param allow_any_image_file: let `image_file` also be a file of this worker, or any address that Airflow's object
        storage supports. Set it only where nobody else can choose `image_file`: what is read is sent to the program
    :param path: the path to which it is sent (seed: ``/image``)
    :param field: the form field of pictures; default: ``urls`` (seed), ``files`` or ``base64s``
    :param expected_prediction: fail unless this is the first of ``predictions``, or, where it is a list, all of them;
        an answer without ``predictions`` is compared as a whole, and of a mapping only the expected keys. 7, 7.0 and
        "7" are the same. None: accept any answer
    :param request_timeout: how long to wait for an answer: a ``timedelta`` or a number of seconds
    :param warmup_timeout: for how long to ask again where there is no answer (no connection, HTTP 502, 503 or 504, or
        none in time), since the program may still start; likewise. 0: ask once
    :param bitahub_conn_id: the Airflow connection
    """

    template_fields: Sequence[str] = (
        "serving_name",
        "version",
        "image_url",
        "image_file",
        "image_base64",
        "json",
        "path",
        "field",
        "expected_prediction",
        "bitahub_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"json": "json"}
    argument_checks: ClassVar[Mapping[str, Check]] = {
        "serving_name": as_text,
        "version": as_text,
        **{name: optional(check) for name, check in PICTURE_CHECKS.items()},
        "json": optional(as_json_body),
        "allow_any_image_file": as_flag,
        "path": as_text,
        "field": optional(as_text),
        "expected_prediction": optional(as_json),
        "request_timeout": as_seconds,
        "warmup_timeout": as_seconds_or_zero,
        "bitahub_conn_id": as_text,
    }
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubServingLink(),)
    ui_color = "#dff5e1"

    def __init__(
        self,
        *,
        serving_name: str,
        version: str = "v1",
        image_url: str | Sequence[str] | None = None,
        image_file: str | Sequence[str] | None = None,
        image_base64: str | Sequence[str] | None = None,
        json: Any = None,
        allow_any_image_file: bool = False,
        path: str = "/image",
        field: str | None = None,
        expected_prediction: Any = None,
        request_timeout: timedelta | float = 60,
        warmup_timeout: timedelta | float = 60,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.serving_name = serving_name
        self.version = version
        self.image_url = image_url
        self.image_file = image_file
        self.image_base64 = image_base64
        self.json = json
        self.allow_any_image_file = allow_any_image_file
        self.path = path
        self.field = field
        self.expected_prediction = expected_prediction
        self.request_timeout: Any = request_timeout  # seconds, once the arguments have been read; likewise the next
        self.warmup_timeout: Any = warmup_timeout
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    def execute(self, context: Context) -> Any:
        """Ask the program, and check its answer."""
        from airflow_bitahub.api.servings import get_serving
        from airflow_bitahub.hooks.sessions import mask
        from airflow_bitahub.procedures.questions import WarmUp, ask, compared, matches, shown

        try:
            self.read_arguments()
            question = self._question()
            serving = self.hook.send(get_serving(self.serving_name, self.version))
            mask(serving.token)  # its program may repeat the request in its answer
            if not serving.url:
                raise ServingFailedError(f"The {serving}: it has no address.", serving.name)
            context["ti"].xcom_push(key=BitaHubServingLink().xcom_key, value=serving.url)
            warmup = WarmUp(self.warmup_timeout)
            say = partial(self.log.info, "%s")
            answer = self.hook.run(ask(serving, question, warmup, timeout=self.request_timeout, say=say))
            context["ti"].xcom_push(key="seconds", value=round(answer.seconds, 3))
            if problem := problem_as_xcom(answer.value):
                raise InvokeError(
                    f"The answer of serving {serving.name!r} cannot become a result in Airflow: {problem}.",
                    serving.name,
                )
            prediction = compared(answer.value, self.expected_prediction)
            self.log.info("%s -> %s in %.2f s", question, shown(prediction), answer.seconds)
            if self.expected_prediction is not None and not matches(self.expected_prediction, prediction):
                raise InvokeError(
                    f"Serving {serving.name!r} answered {shown(prediction)}; expected was "
                    f"{shown(self.expected_prediction)}.",
                    serving.name,
                )
        except BitaHubError as error:
            raise airflow_error(error) from None
        return answer.value

    def lineage_inputs(self) -> Iterable[Material]:
        """Return the serving."""
        from airflow_bitahub.lineage.names import Material

        return [Material(f"/servings/{self.serving_name}")]

    def _question(self) -> Question:
        from airflow_bitahub.procedures.questions import Question

        given = [name for name in (*PICTURE_CHECKS, "json") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigurationError("Give exactly one of image_url, image_file, image_base64 and json.")
        [name] = given
        value = getattr(self, name)
        if name == "json":
            return Question(self.path, json_body=value)
        reader = FileReader(
            self.hook,
            allow_any=self.allow_any_image_file,
            advice="To read files of the worker or other addresses, set allow_any_image_file=True.",
        )
        return Question(self.path, reader.pictures(name, name, value), form_field=self.field or "")

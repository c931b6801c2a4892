"""The description at ``/openapi.json``: what each address accepts, and every answer it may give.

A route declares only its `request_body` and its `success_response`; its docstring is its summary. Everything else
follows from its method and its address, and `complete_openapi` adds it to all routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

DESCRIPTION = """Speaks BitaHub's API and really runs the jobs and servings that it receives.

This description holds while no fault is active: a fault may answer anything, or close the connection. An address that
is not listed here is answered 404 in plain text, a method that is not listed 405, and a malformed HTTP request 400 in
plain text. A 500 is a defect.
"""

Responses: TypeAlias = dict[int | str, dict[str, Any]]
JsonObject: TypeAlias = dict[str, Any]
TailLines = Annotated[int, Query(alias="tailLines", ge=0, le=100_000)]
T = TypeVar("T")


class SuccessStatus(BaseModel):
    """The platform's status of a successful request."""

    code: Literal[0]
    msg: str


class Success(BaseModel, Generic[T]):
    """The platform's envelope around the requested data."""

    status: SuccessStatus
    data: T


class ErrorStatus(BaseModel):
    """Why a request was refused; the code is the HTTP status."""

    code: int
    msg: str


class ErrorEnvelope(BaseModel):
    """The platform's envelope for a request that had no effect."""

    status: ErrorStatus
    data: None


class GatewayStatus(BaseModel):
    """How the platform's gateway refuses a request: a Status object of Kubernetes."""

    kind: Literal["Status"]
    apiVersion: Literal["v1"]
    metadata: dict[str, Any]
    status: Literal["Failure"]
    message: str
    reason: str
    code: int


class JobName(BaseModel):
    """The name of the job."""

    jobName: str


class ServingName(BaseModel):
    """Name and version of the serving."""

    name: str
    version: str


class Scale(BaseModel):
    """How many replicas of a serving shall run."""

    model_config = ConfigDict(extra="forbid")

    replicas: Annotated[int, Field(ge=1)]


class ItemList(BaseModel):
    """A list, and its length."""

    items: list[JsonObject]
    totalItems: int


class Log(BaseModel):
    """The last lines that a program printed."""

    log: str


class LogPiece(Log):
    """The last lines that a program printed after an offset.

    `offset` is where they begin in the log, and `nextOffset` where they end, in bytes. `skippedLines` lines lie between
    the offset that was asked for and theirs.
    """

    offset: int
    nextOffset: int
    skippedLines: int


class TaskLog(LogPiece):
    """The piece of the log that one task of a job of several has printed."""

    taskRoleName: str
    taskIndex: int


class TaskLogs(BaseModel):
    """The pieces of the log of a job of several tasks."""

    taskLogs: list[TaskLog]


_SCHEMAS, _RESPONSES = "#/components/schemas/", "#/components/responses/"
_PARAMETERS = {
    "cluster": "The cluster; any name works.",
    "workspace": "The workspace; any name works.",
    "namespace": "The namespace. Each has its own jobs and servings.",
    "name": "The name of the job or serving.",
    "fault_id": "The id of the fault.",
}


def request_body(model: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    """Return a route's ``openapi_extra`` that describes its body, with the field names of JSON."""
    schema = model.model_json_schema(by_alias=True, ref_template=_SCHEMAS + "{model}")
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def success_response(model: type[BaseModel]) -> Responses:
    """Return a route's ``responses`` that describe its answer of success."""
    return {200: {"model": model, "description": "The request succeeded."}}


PROFILED = "The shape depends on the emulator's profile."
CONFLICT: Responses = {409: {"model": ErrorEnvelope, "description": "The name is already in use."}}


def complete_openapi(app: FastAPI, needs_token: Callable[[str, str], bool]) -> None:
    """Make an app's ``/openapi.json`` complete.

    :param needs_token: whether a method of an address needs a token
    """
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        return _completed(generate(), needs_token)

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any], needs_token: Callable[[str, str], bool]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (ErrorEnvelope, GatewayStatus):
        _share(model.model_json_schema(ref_template=_SCHEMAS + "{model}"), schemas)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)  # such errors are answered in the platform's envelope
    components["responses"] = _shared_responses()
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "The emulator's own token, or one obtained by signing in.",
        }
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, operation, needs_token(method.upper(), path))
            for body in operation.get("requestBody", {}).get("content", {}).values():
                body["schema"] = _share(body["schema"], schemas)
    return document


def _complete(path: str, operation: dict[str, Any], requires_token: bool) -> None:
    """Add to an operation what follows from its address and from whether it requires a token."""
    queries = [parameter for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
    operation["parameters"] = [*_path_parameters(path), *queries]
    operation["summary"] = operation.pop("description")
    # A token is also allowed where it is not required: with it, the access token of a serving is shown.
    operation["security"] = [{"token": []}] if requires_token else [{"token": []}, {}]
    answers = operation["responses"]
    answers.pop("422", None)
    for code in _error_codes(path, operation, requires_token):
        answers.setdefault(code, {"$ref": _RESPONSES + code})


def _share(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Move a model's schema, and those of its parts, to the shared schemas; return a reference to it."""
    schemas.update(schema.pop("$defs", {}))
    schemas[schema["title"]] = schema
    return {"$ref": _SCHEMAS + schema["title"]}


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "description": _PARAMETERS[name], "schema": schema}


def _error_codes(path: str, operation: dict[str, Any], requires_token: bool) -> Iterator[str]:
    """Yield the codes of the shared responses that an operation may answer."""
    yield from ("403", "411", "413", "415")
    if requires_token:
        yield "401"
    if "requestBody" in operation or any(one["schema"]["type"] != "string" for one in operation["parameters"]):
        yield "400"
    if "{" in path:
        # A parameter that contains a slash makes another address of it.
        yield from ("404", "405")


def _shared_responses() -> dict[str, Any]:
    envelope = {"application/json": {"schema": {"$ref": _SCHEMAS + "ErrorEnvelope"}}}
    status = {"application/json": {"schema": {"$ref": _SCHEMAS + "GatewayStatus"}}}
    either = {
        "application/json": {
            "schema": {"anyOf": [{"$ref": _SCHEMAS + name} for name in ("ErrorEnvelope", "GatewayStatus")]}
        }
    }
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "400": {"description": "The request cannot be performed as it is.", "content": envelope},
        "401": {"description": "The token is missing, wrong or expired.", "content": status},
        "403": {
            "description": "The Host header is not a name of the emulator, or the user may not do this.",
            "content": either,
        },
        "404": {
            "description": "There is no such job, serving or fault; in plain text: no such address.",
            "content": envelope | text,
        },
        "405": {"description": "The address does not have this method.", "content": envelope},
        "411": {"description": "The request has no Content-Length.", "content": envelope},
        "413": {"description": "The body is too large.", "content": envelope},
        "415": {"description": "The body has another content type.", "content": envelope},
    }

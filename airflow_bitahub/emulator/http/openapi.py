"""What the emulator tells of itself at ``/openapi.json``: what each address takes, and every answer it gives.

A route says what it `takes` and `gives`. Everything else follows from its method and its address, and is added by
`describe` to all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

ABOUT = """Speaks BitaHub's API and really runs the jobs and servings it is given.

What is told here holds while no fault is in force: a fault may answer anything, or close the connection. An address
that is not told here is answered 404 in plain text, a method that is not told here 405, and what is not HTTP 400 in
plain text. A 500 is a defect.
"""

Responses: TypeAlias = dict[int | str, dict[str, Any]]
Record: TypeAlias = dict[str, Any]
T = TypeVar("T")


class Succeeded(BaseModel):
    """The platform's word for success."""

    code: Literal[0]
    msg: str


class Success(BaseModel, Generic[T]):
    """The platform's envelope around what was asked for."""

    status: Succeeded
    data: T


class Failed(BaseModel):
    """Why a request is refused; the code is the HTTP status."""

    code: int
    msg: str


class Refusal(BaseModel):
    """The platform's envelope of a request that had no effect."""

    status: Failed
    data: None


class GatewayStatus(BaseModel):
    """How the platform's gateway refuses: a Status object of Kubernetes."""

    kind: Literal["Status"]
    apiVersion: Literal["v1"]
    metadata: dict[str, Any]
    status: Literal["Failure"]
    message: str
    reason: str
    code: int


class JobName(BaseModel):
    """Which job it was."""

    jobName: str


class ServingName(BaseModel):
    """Which serving it was."""

    name: str
    version: str


class Scale(BaseModel):
    """How many programs of a serving shall run."""

    model_config = ConfigDict(extra="forbid")

    replicas: Annotated[int, Field(ge=1)]


class Items(BaseModel):
    """A list, and how many there are in all."""

    items: list[Record]
    totalItems: int


class Log(BaseModel):
    """The end of what a program printed."""

    log: str


_SCHEMAS, _RESPONSES = "#/components/schemas/", "#/components/responses/"
_PLACES = {
    "cluster": "The cluster; any will do.",
    "workspace": "The workspace; any will do.",
    "namespace": "The namespace. Each has jobs and servings of its own.",
    "name": "The name of the job or serving.",
    "fault_id": "The id that was given to the fault.",
}


def takes(model: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    """Give a route's ``openapi_extra`` that tells of its body, spelled as on the wire."""
    schema = model.model_json_schema(by_alias=True, ref_template=_SCHEMAS + "{model}")
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def gives(model: type[BaseModel]) -> Responses:
    """Give a route's ``responses`` that tell of its success."""
    return {200: {"model": model, "description": "It is done, or was found."}}


PROFILED = "In the shape of the emulator's profile."
CONFLICT: Responses = {409: {"model": Refusal, "description": "There is one of this name already."}}


def describe(app: FastAPI, needs_token: Callable[[str, str], bool]) -> None:
    """Let an app tell all that is known here about it.

    :param needs_token: whether a method of an address is refused without a token
    """
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        return _completed(generate(), needs_token)

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any], needs_token: Callable[[str, str], bool]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (Refusal, GatewayStatus):
        _share(model.model_json_schema(ref_template=_SCHEMAS + "{model}"), schemas)
    for fastapis_own in ("HTTPValidationError", "ValidationError"):
        schemas.pop(fastapis_own, None)  # such errors are answered in the platform's envelope
    components["responses"] = _shared_responses()
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "The emulator's own token, or one had by signing in.",
        }
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, operation, needs_token(method.upper(), path))
            for body in operation.get("requestBody", {}).get("content", {}).values():
                body["schema"] = _share(body["schema"], schemas)
    return document


def _complete(path: str, operation: dict[str, Any], is_closed: bool) -> None:
    """Add to an operation what follows from its address, and from whether it `is_closed` to who has no token."""
    queries = [parameter for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
    operation["parameters"] = [*_places(path), *queries]
    # Who brings a token that is not needed may be told more: the access token of a serving.
    operation["security"] = [{"token": []}] if is_closed else [{"token": []}, {}]
    answers = operation["responses"]
    answers.pop("422", None)
    for code in _refusals(path, operation, is_closed):
        answers.setdefault(code, {"$ref": _RESPONSES + code})


def _share(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Put a model's schema, and those of its parts, where all may refer to them; give such a reference."""
    schemas.update(schema.pop("$defs", {}))
    schemas[schema["title"]] = schema
    return {"$ref": _SCHEMAS + schema["title"]}


def _places(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "description": _PLACES[name], "schema": schema}


def _refusals(path: str, operation: dict[str, Any], is_closed: bool) -> Iterator[str]:
    """Give the codes of the shared responses that an operation may be answered with."""
    yield from ("403", "411", "413", "415")
    if is_closed:
        yield "401"
    if "requestBody" in operation or any(one["schema"]["type"] != "string" for one in operation["parameters"]):
        yield "400"
    if "{" in path:
        # What stands in a place may hold a slash, and then makes another address of it.
        yield from ("404", "405")


def _shared_responses() -> dict[str, Any]:
    refusal = {"application/json": {"schema": {"$ref": _SCHEMAS + "Refusal"}}}
    status = {"application/json": {"schema": {"$ref": _SCHEMAS + "GatewayStatus"}}}
    either = {
        "application/json": {"schema": {"anyOf": [{"$ref": _SCHEMAS + name} for name in ("Refusal", "GatewayStatus")]}}
    }
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "400": {"description": "The request cannot be performed as it is.", "content": refusal},
        "401": {"description": "The token is missing, wrong or expired.", "content": status},
        "403": {"description": "The Host header is not known, or the user may not do this.", "content": either},
        "404": {"description": "There is no such thing; in plain text: no such address.", "content": refusal | text},
        "405": {"description": "The address does not have this method.", "content": refusal},
        "411": {"description": "The request does not tell how long its body is.", "content": refusal},
        "413": {"description": "The body is too large.", "content": refusal},
        "415": {"description": "The body is of another content type.", "content": refusal},
    }

"""The routes of servings."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.answers import success_answer
from airflow_bitahub.emulator.http.bodies import parse_body, read_body
from airflow_bitahub.emulator.http.context import AppContext, Context
from airflow_bitahub.emulator.http.openapi import (
    CONFLICT,
    ItemList,
    JsonObject,
    Log,
    Scale,
    ServingName,
    Success,
    TailLines,
    request_body,
    success_response,
)
from airflow_bitahub.emulator.http.task_url import TaskUrl
from airflow_bitahub.emulator.http.views import serving_view
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.state.records import ServingKey

router = APIRouter(tags=["servings"])


@router.post(
    "",
    openapi_extra=request_body(ServingSpec),
    responses=success_response(Success[ServingName]) | CONFLICT,
)
async def create_serving(
    context: Context, namespace: str, body: Annotated[bytes, Depends(read_body)], task_url: TaskUrl
) -> JSONResponse:
    """Create a serving."""
    record = context.runner.servings.create(namespace, parse_body(ServingSpec, body), task_url)
    return success_answer({"name": record.key.name, "version": record.key.version})


@router.get("", responses=success_response(Success[ItemList]))
async def list_servings(context: Context, namespace: str, request: Request) -> JSONResponse:
    """List the servings of a namespace, newest first."""
    items = [_view(context, record.key, request) for record in context.state.servings(namespace)]
    return success_answer({"items": items, "totalItems": len(items)})


@router.get("/{name}", responses=success_response(Success[JsonObject]))
async def get_serving(
    context: Context, namespace: str, name: str, request: Request, version: str = "v1"
) -> JSONResponse:
    """Get a serving."""
    return success_answer(_view(context, ServingKey(namespace, name, version), request))


@router.put(
    "/{name}",
    openapi_extra=request_body(ServingSpec),
    responses=success_response(Success[ServingName]),
)
async def update_serving(
    context: Context,
    namespace: str,
    name: str,
    body: Annotated[bytes, Depends(read_body)],
    task_url: TaskUrl,
    version: str = "v1",
) -> JSONResponse:
    """Replace the specification of a serving; its address and access token stay the same."""
    context.runner.servings.update(ServingKey(namespace, name, version), parse_body(ServingSpec, body), task_url)
    return success_answer({"name": name, "version": version})


@router.patch(
    "/{name}",
    openapi_extra=request_body(Scale),
    responses=success_response(Success[ServingName]),
)
async def scale_serving(
    context: Context, namespace: str, name: str, body: Annotated[bytes, Depends(read_body)], version: str = "v1"
) -> JSONResponse:
    """Change the number of replicas of a serving."""
    context.runner.servings.scale(ServingKey(namespace, name, version), parse_body(Scale, body).replicas)
    return success_answer({"name": name, "version": version})


@router.put(
    "/{name}/start",
    responses=success_response(Success[ServingName]),
)
async def start_serving(context: Context, namespace: str, name: str, version: str = "v1") -> JSONResponse:
    """Start a serving that has stopped or failed."""
    await context.runner.servings.start(ServingKey(namespace, name, version))
    return success_answer({"name": name, "version": version})


@router.put(
    "/{name}/stop",
    responses=success_response(Success[ServingName]),
)
async def stop_serving(context: Context, namespace: str, name: str, version: str = "v1") -> JSONResponse:
    """Stop a serving and keep its record."""
    context.runner.servings.stop(ServingKey(namespace, name, version))
    return success_answer({"name": name, "version": version})


@router.delete("/{name}", responses=success_response(Success[ServingName]))
async def delete_serving(context: Context, namespace: str, name: str, version: str = "v1") -> JSONResponse:
    """Stop and remove a serving."""
    await context.runner.servings.delete(ServingKey(namespace, name, version))
    return success_answer({"name": name, "version": version})


@router.get("/{name}/log", responses=success_response(Success[Log]))
async def read_serving_log(
    context: Context, namespace: str, name: str, version: str = "v1", tail_lines: TailLines = 100
) -> JSONResponse:
    """Get the last lines that a serving printed."""
    record = context.state.serving(ServingKey(namespace, name, version))
    return success_answer({"log": tail(context.runner.servings.log_of(record.key), tail_lines)})


def _view(context: AppContext, key: ServingKey, request: Request) -> dict[str, Any]:
    return serving_view(context.state.serving(key), context.state.now(), show_token=request.state.knows_token)

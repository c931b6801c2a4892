"""The routes of servings."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.answers import success_answer
from airflow_bitahub.emulator.http.bodies import parse_body, read_body
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
from airflow_bitahub.emulator.http.views import serving_view
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.state import State


def serving_routes(state: State, runner: Runner) -> APIRouter:
    """Return the routes below ``.../serving``."""
    router = APIRouter(tags=["servings"])

    def view(key: ServingKey, request: Request) -> dict[str, Any]:
        return serving_view(state.serving(key), state.now(), show_token=request.state.knows_token)

    @router.post(
        "",
        summary="Create a serving.",
        openapi_extra=request_body(ServingSpec),
        responses=success_response(Success[ServingName]) | CONFLICT,
    )
    async def create_serving(namespace: str, body: Annotated[bytes, Depends(read_body)]) -> JSONResponse:
        record = runner.servings.create(namespace, parse_body(ServingSpec, body))
        return success_answer({"name": record.key.name, "version": record.key.version})

    @router.get(
        "", summary="List the servings of a namespace, newest first.", responses=success_response(Success[ItemList])
    )
    async def list_servings(namespace: str, request: Request) -> JSONResponse:
        items = [view(record.key, request) for record in state.servings(namespace)]
        return success_answer({"items": items, "totalItems": len(items)})

    @router.get("/{name}", summary="Get a serving.", responses=success_response(Success[JsonObject]))
    async def get_serving(namespace: str, name: str, request: Request, version: str = "v1") -> JSONResponse:
        return success_answer(view(ServingKey(namespace, name, version), request))

    @router.put(
        "/{name}",
        summary="Replace the specification of a serving; its address and access token stay the same.",
        openapi_extra=request_body(ServingSpec),
        responses=success_response(Success[ServingName]),
    )
    async def update_serving(
        namespace: str, name: str, body: Annotated[bytes, Depends(read_body)], version: str = "v1"
    ) -> JSONResponse:
        runner.servings.update(ServingKey(namespace, name, version), parse_body(ServingSpec, body))
        return success_answer({"name": name, "version": version})

    @router.patch(
        "/{name}",
        summary="Change the number of replicas of a serving.",
        openapi_extra=request_body(Scale),
        responses=success_response(Success[ServingName]),
    )
    async def scale_serving(
        namespace: str, name: str, body: Annotated[bytes, Depends(read_body)], version: str = "v1"
    ) -> JSONResponse:
        runner.servings.scale(ServingKey(namespace, name, version), parse_body(Scale, body).replicas)
        return success_answer({"name": name, "version": version})

    @router.put(
        "/{name}/start",
        summary="Start a serving that has stopped or failed.",
        responses=success_response(Success[ServingName]),
    )
    async def start_serving(namespace: str, name: str, version: str = "v1") -> JSONResponse:
        await runner.servings.start(ServingKey(namespace, name, version))
        return success_answer({"name": name, "version": version})

    @router.put(
        "/{name}/stop",
        summary="Stop a serving and keep its record.",
        responses=success_response(Success[ServingName]),
    )
    async def stop_serving(namespace: str, name: str, version: str = "v1") -> JSONResponse:
        runner.servings.stop(ServingKey(namespace, name, version))
        return success_answer({"name": name, "version": version})

    @router.delete("/{name}", summary="Stop and remove a serving.", responses=success_response(Success[ServingName]))
    async def delete_serving(namespace: str, name: str, version: str = "v1") -> JSONResponse:
        await runner.servings.delete(ServingKey(namespace, name, version))
        return success_answer({"name": name, "version": version})

    @router.get(
        "/{name}/log", summary="Get the last lines that a serving printed.", responses=success_response(Success[Log])
    )
    async def read_serving_log(
        namespace: str, name: str, version: str = "v1", tail_lines: TailLines = 100
    ) -> JSONResponse:
        record = state.serving(ServingKey(namespace, name, version))
        return success_answer({"log": tail(runner.servings.log_of(record.key), tail_lines)})

    return router

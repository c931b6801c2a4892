"""The emulator's own routes, which the platform does not have: health, the ledger, and faults."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from airflow_bitahub import __version__
from airflow_bitahub.emulator.answers import success_answer
from airflow_bitahub.emulator.faults.faults import Fault, Faults
from airflow_bitahub.emulator.http.bodies import parse_body, read_body
from airflow_bitahub.emulator.http.openapi import JsonObject, Success, request_body, success_response
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.http.views import ledger_view
from airflow_bitahub.emulator.state.state import State


def control_routes(state: State, faults: Faults, sign_in: SignIn | None) -> APIRouter:
    """Return the routes ``/``, ``/healthz`` and ``/emulator/...``.

    :param sign_in: knows the namespaces of the users who may sign in; None: there are no users
    """
    router = APIRouter(tags=["emulator"])

    @router.get("/", summary="Get name and version.", responses=success_response(Success[JsonObject]))
    async def about() -> JSONResponse:
        return success_answer({"name": "BitaHub emulator", "version": __version__})

    @router.get("/healthz", summary="Check that the emulator answers.", responses=success_response(Success[str]))
    async def healthz() -> JSONResponse:
        return success_answer("ok")

    @router.get(
        "/emulator/ledger",
        summary="List every job that ever existed, with the requests about it; users see those of their namespaces.",
        responses=success_response(Success[list[JsonObject]]),
    )
    async def ledger(request: Request) -> JSONResponse:
        entries = state.ledger()
        if sign_in is not None and request.state.user:
            entries = [entry for entry in entries if sign_in.may_work_in(entry.record.key.namespace)]
        return success_answer([ledger_view(entry) for entry in entries])

    @router.post(
        "/emulator/faults",
        summary="Activate a fault.",
        openapi_extra=request_body(Fault),
        responses=success_response(Success[JsonObject]),
    )
    async def add_fault(body: Annotated[bytes, Depends(read_body)]) -> JSONResponse:
        return success_answer(faults.add(parse_body(Fault, body)).view())

    @router.get(
        "/emulator/faults", summary="List the active faults.", responses=success_response(Success[list[JsonObject]])
    )
    async def list_faults() -> JSONResponse:
        return success_answer([armed.view() for armed in faults])

    @router.delete("/emulator/faults", summary="Remove all faults.", responses=success_response(Success[None]))
    async def clear_faults() -> JSONResponse:
        faults.clear()
        return success_answer(None)

    @router.delete("/emulator/faults/{fault_id}", summary="Remove a fault.", responses=success_response(Success[None]))
    async def remove_fault(fault_id: str) -> JSONResponse:
        faults.remove(fault_id)
        return success_answer(None)

    return router

"""The emulator's own routes, which the platform does not have: health, the ledger, and faults."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from airflow_bitahub import __version__
from airflow_bitahub.emulator.answers import success_answer
from airflow_bitahub.emulator.faults.faults import Fault
from airflow_bitahub.emulator.http.bodies import parse_body, read_body
from airflow_bitahub.emulator.http.context import Context
from airflow_bitahub.emulator.http.openapi import JsonObject, Success, request_body, success_response
from airflow_bitahub.emulator.http.views import ledger_view

router = APIRouter(tags=["emulator"])


@router.get("/", responses=success_response(Success[JsonObject]))
async def about() -> JSONResponse:
    """Get name and version."""
    return success_answer({"name": "BitaHub emulator", "version": __version__})


@router.get("/healthz", responses=success_response(Success[str]))
async def healthz() -> JSONResponse:
    """Check that the emulator answers."""
    return success_answer("ok")


@router.get(
    "/emulator/ledger",
    responses=success_response(Success[list[JsonObject]]),
)
async def ledger(context: Context, request: Request) -> JSONResponse:
    """List every job that ever existed, with the requests about it; users see those of their namespaces."""
    entries, sign_in = context.state.ledger(), request.app.state.sign_in
    if sign_in is not None and request.state.user:
        entries = [entry for entry in entries if sign_in.may_work_in(entry.record.key.namespace)]
    return success_answer([ledger_view(entry) for entry in entries])


@router.post(
    "/emulator/faults",
    openapi_extra=request_body(Fault),
    responses=success_response(Success[JsonObject]),
)
async def add_fault(context: Context, body: Annotated[bytes, Depends(read_body)]) -> JSONResponse:
    """Activate a fault."""
    return success_answer(context.faults.add(parse_body(Fault, body)).view())


@router.get("/emulator/faults", responses=success_response(Success[list[JsonObject]]))
async def list_faults(context: Context) -> JSONResponse:
    """List the active faults."""
    return success_answer([armed.view() for armed in context.faults])


@router.delete("/emulator/faults", responses=success_response(Success[None]))
async def clear_faults(context: Context) -> JSONResponse:
    """Remove all faults."""
    context.faults.clear()
    return success_answer(None)


@router.delete("/emulator/faults/{fault_id}", responses=success_response(Success[None]))
async def remove_fault(context: Context, fault_id: str) -> JSONResponse:
    """Remove a fault."""
    context.faults.remove(fault_id)
    return success_answer(None)

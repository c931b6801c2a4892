"""The page of faults in force, which can be set and removed there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from airflow_bitahub.emulator.console.access import ROOT
from airflow_bitahub.emulator.console.pages import context_of, read_form, render
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match, Records
from airflow_bitahub.emulator.http.bodies import parse_body, validation_message
from airflow_bitahub.emulator.state.errors import InvalidRequest

_PATH = f"{ROOT}/faults"
# Those that the documentation of `faults.faults` names; any other can be written as JSON.
_KINDS: Mapping[str, Effect] = MappingProxyType(
    {
        "refuse": Effect(before=Answer(status=429, headers={"Retry-After": "1"}, body="try again later")),
        "expire": Effect(before=Answer(status=401, body="the token has expired")),
        "close_before": Effect(before="close"),
        "close_after": Effect(after="close"),
        "gateway": Effect(after=Answer(status=504, body="<html><title>504 Gateway Time-out</title></html>")),
        "truncate": Effect(
            after=Answer(headers={"Content-Type": "application/json"}, body='{"status": {"code": 0, "ms')
        ),
        "slow": Effect(delay=5),
        "late": Effect(records=Records(hide_for=10)),
        "vanish": Effect(records=Records(hide_for=1e9)),
    }
)
_METHODS = ("*", "GET", "POST", "PUT", "PATCH", "DELETE")


def show_faults(request: Request) -> Response:
    """Show the faults in force."""
    return _page(request, {})


async def add_fault(request: Request) -> Response:
    """Set a fault, given by its kind or as JSON."""
    form = await read_form(request)
    try:
        fault = parse_body(Fault, form["json"].encode()) if "json" in form else _chosen(form)
    except InvalidRequest as error:
        return _page(request, form, str(error))
    context_of(request).faults.add(fault)
    return RedirectResponse(_PATH, 303)


async def remove_fault(request: Request) -> Response:
    """Remove a fault. If it is gone already, so much the better."""
    faults, fault_id = context_of(request).faults, request.path_params["fault_id"]
    if any(armed.id == fault_id for armed in faults):
        faults.remove(fault_id)
    return RedirectResponse(_PATH, 303)


def _chosen(form: Mapping[str, str]) -> Fault:
    effect, times = _KINDS.get(form.get("kind", "")), form.get("times", "").strip()
    if effect is None:
        raise InvalidRequest("there is no such kind of fault")
    match = {"method": form.get("method", "*"), "path": form.get("path", "").strip() or "*"}
    try:
        return Fault(match=Match.model_validate({**match, "times": times or None}), effect=effect)
    except ValidationError as error:
        raise InvalidRequest(validation_message(error.errors())) from None


def _page(request: Request, form: Mapping[str, str], error: str = "") -> Response:
    faults = [
        (armed, armed.fault.effect.model_dump_json(by_alias=True, exclude_unset=True))
        for armed in context_of(request).faults
    ]
    kinds = list(_KINDS)
    return render(
        request,
        "faults.html",
        400 if error else 200,
        faults=faults,
        kinds=kinds,
        methods=_METHODS,
        form=form,
        error=error,
    )


routes = [
    Route(_PATH, show_faults),
    Route(_PATH, add_fault, methods=["POST"]),
    Route(f"{_PATH}/{{fault_id}}/remove", remove_fault, methods=["POST"]),
]

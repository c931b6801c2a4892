"""The pages of servings, and the form that sends pictures to one."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_bitahub.emulator.console.access import ROOT
from airflow_bitahub.emulator.console.asking import Answer, ask
from airflow_bitahub.emulator.console.logs import readable_tail
from airflow_bitahub.emulator.console.pages import context_of, render
from airflow_bitahub.emulator.http.views import serving_view
from airflow_bitahub.emulator.state.errors import NotFound
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.pages.hiding import HIDDEN, hide_secrets


def list_servings(request: Request) -> Response:
    """Show all servings, newest first."""
    return render(request, "servings.html", servings=context_of(request).state.servings())


def show_serving(request: Request) -> Response:
    """Show a serving."""
    return _page(request, _serving(request), None)


async def ask_serving(request: Request) -> Response:
    """Send pictures to a serving, and show its answer."""
    serving = _serving(request)
    answer = await ask(serving, await request.body(), request.headers.get("content-type", ""))
    return _page(request, serving, answer)


def _serving(request: Request) -> StoredServing:
    """Return the serving of an address: the newest version of that name, unless the query names one."""
    state, names = context_of(request).state, request.path_params
    if version := request.query_params.get("version"):
        return state.serving(ServingKey(names["namespace"], names["name"], version))
    for serving in state.servings(names["namespace"]):
        if serving.key.name == names["name"]:
            return serving
    raise NotFound(f"there is no serving {names['name']!r} in namespace {names['namespace']!r}")


def _page(request: Request, serving: StoredServing, answer: Answer | None) -> Response:
    context = context_of(request)
    text, is_cut = readable_tail(context.runner.servings.log_of(serving.key))
    view = serving_view(serving, context.state.now(), show_token=False)
    return render(
        request,
        "serving.html",
        serving=serving,
        message=view.get("message", ""),
        metering=view["meteringDetail"],
        pods={pod["name"]: pod for pod in view["podstatuses"]},
        specification=json.dumps(hide_secrets(serving.spec.body()), indent=2, ensure_ascii=False),
        log=text.replace(serving.token, HIDDEN),  # programs may print the requests that they get
        log_is_cut=is_cut,
        answer=answer,
    )


_SERVING = f"{ROOT}/servings/{{namespace}}/{{name}}"
routes = [
    Route(f"{ROOT}/servings", list_servings),
    Route(_SERVING, show_serving),
    Route(f"{_SERVING}/ask", ask_serving, methods=["POST"]),
]

"""Renders the console's pages in the reader's language."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse

from airflow_bitahub.emulator.console.access import ROOT
from airflow_bitahub.emulator.console.texts import TEXTS
from airflow_bitahub.emulator.faults.faults import Faults
from airflow_bitahub.emulator.mounts.shared_storage import SharedStorage
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.state.state import State
from airflow_bitahub.pages.language import language_of
from airflow_bitahub.pages.rendering import Renderer

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ConsoleContext:
    """The parts of an emulator that its pages show."""

    state: State
    runner: Runner
    faults: Faults
    storage: SharedStorage


def context_of(request: Request) -> ConsoleContext:
    """Return the emulator's parts."""
    context: ConsoleContext = request.app.state.context
    return context


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page in the reader's language.

    :param values: what the template shows; it escapes all of it
    """
    language = language_of(request.headers.get("accept-language", ""))
    content = _renderer().render(
        template,
        language,
        root=ROOT,
        path=request.url.path,
        address=f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path,
        is_signed_in=request.state.is_signed_in,
        now=context_of(request).state.now(),
        **values,
    )
    return HTMLResponse(content, status, headers={"Vary": "Accept-Language, Cookie", "Content-Language": language})


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form without files."""
    body = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(body, keep_blank_values=True))


@cache
def _renderer() -> Renderer:
    return Renderer(FOLDER / "templates", TEXTS)

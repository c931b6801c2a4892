"""Renders the pages of the Airflow UI in the reader's language."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from airflow.settings import TIMEZONE
from starlette.requests import Request
from starlette.responses import HTMLResponse

from airflow_bitahub.pages.language import language_of, translator
from airflow_bitahub.pages.rendering import Renderer
from airflow_bitahub.ui.texts import TEXTS

FOLDER = Path(__file__).parent


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page in the reader's language.

    :param values: what the template shows; it escapes all of it
    """
    language = _language(request)
    content = _renderer().render(template, language, zone=str(TIMEZONE), **values)
    return HTMLResponse(content, status, headers={"Vary": "Accept-Language, Cookie", "Content-Language": language})


def text(request: Request, key: str) -> str:
    """Return a text in the reader's language."""
    return translator(TEXTS, _language(request))(key)


def _language(request: Request) -> str:
    return language_of(request.headers.get("accept-language", ""))


@cache
def _renderer() -> Renderer:
    return Renderer(FOLDER / "templates", TEXTS, TIMEZONE)

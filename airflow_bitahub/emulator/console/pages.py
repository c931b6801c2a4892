"""Renders pages: the templates, the reader's language, and how times, durations and sizes are written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from airflow_bitahub.emulator.console.access import ROOT
from airflow_bitahub.emulator.console.texts import DEFAULT_LANGUAGE, LANGUAGES, translate
from airflow_bitahub.emulator.faults.faults import Faults
from airflow_bitahub.emulator.mounts.shared_storage import SharedStorage
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.state.state import State

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
    text = _templates().get_template(template)
    content = text.render(
        t=partial(translate, language),
        language=language,
        root=ROOT,
        path=request.url.path,
        address=f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path,
        is_signed_in=request.state.is_signed_in,
        now=context_of(request).state.now(),
        **values,
    )
    # What a program wrote may hold half of a surrogate pair, which cannot be encoded.
    return HTMLResponse(
        content.encode("utf-8", "replace"),
        status,
        headers={"Vary": "Accept-Language, Cookie", "Content-Language": language},
    )


def language_of(accepted: str) -> str:
    """Return the reader's language, one of `LANGUAGES`, from the header Accept-Language."""
    best, best_quality = DEFAULT_LANGUAGE, 0.0
    for part in accepted[:1000].split(","):
        name, _, parameter = part.strip().partition(";")
        language = name.partition("-")[0].strip().lower()
        try:
            quality = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if language in LANGUAGES and quality > best_quality:
            best, best_quality = language, quality
    return best


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form without files."""
    body = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(body, keep_blank_values=True))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(moment=_moment, iso=_iso, duration=duration, bytesize=_size)
    return environment


def _moment(milliseconds: int) -> str:
    """Write a time in this machine's time zone; "" for 0, which means not yet."""
    return f"{datetime.fromtimestamp(milliseconds / 1000):%Y-%m-%d %H:%M:%S}" if milliseconds else ""


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="seconds")


def duration(milliseconds: float) -> str:
    """Write a duration with at most two units, such as ``3 min 12 s``."""
    seconds = max(0.0, milliseconds / 1000)
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

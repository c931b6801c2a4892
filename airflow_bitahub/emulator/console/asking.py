"""Sends a form with pictures to a serving, and reads its answer."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

import httpx

from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.pages.hiding import HIDDEN

_PATH = "/image"  # where the programs of the platform's document take pictures
_SECONDS = 60
_MAX_BYTES = 1 << 20
_MAX_PREDICTIONS = 16
_MAX_CLASSES = 20


class Prediction(NamedTuple):
    """What a serving says about one picture: the class, and the most probable classes with their probabilities."""

    label: str
    probabilities: list[tuple[str, float]]


class Answer(NamedTuple):
    """What a serving answered.

    :param status: the HTTP status; 0: there was no answer
    :param message: what went wrong, in the serving's own words or in httpx's
    :param text: the whole answer, if it is text
    """

    status: int
    milliseconds: float
    message: str
    predictions: list[Prediction]
    text: str


async def ask(serving: StoredServing, form: bytes, media_type: str) -> Answer:
    """Send a form to a serving as it is, with its access token, and return the answer."""
    headers = {"Content-Type": media_type, "Authorization": f"Bearer {serving.token}"}
    began = time.monotonic()

    def answer(status: int, message: str = "", text: str = "", predictions: list[Prediction] | None = None) -> Answer:
        return Answer(status, (time.monotonic() - began) * 1000, message, predictions or [], text)

    if not serving.url:
        return answer(0, "the serving has no address yet")
    content = b""
    try:
        async with (
            httpx.AsyncClient(timeout=_SECONDS, trust_env=False, verify=False) as client,  # noqa: S501  no TLS here
            client.stream("POST", serving.url + _PATH, content=form, headers=headers) as response,
        ):
            async for part in response.aiter_bytes():
                content += part
                if len(content) > _MAX_BYTES:
                    return answer(response.status_code, f"the answer is longer than {_MAX_BYTES} bytes")
    except httpx.HTTPError as error:
        return answer(0, str(error) or type(error).__name__)
    text = content.decode("utf-8", "replace").replace(serving.token, HIDDEN)  # a program may repeat its request
    try:
        value = json.loads(text)
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return answer(response.status_code, "" if response.is_success else text[:500], text)
    return answer(
        response.status_code,
        _refusal(value),
        text,
        _predictions(value),
    )


def _refusal(value: Any) -> str:
    """Return why a program refused, in the platform's envelope; "" if it did not."""
    status = value.get("status") if isinstance(value, dict) else None
    return str(status.get("msg", "")) if isinstance(status, dict) and status.get("code") else ""


def _predictions(value: Any) -> list[Prediction]:
    data = value.get("data", value) if isinstance(value, dict) else None
    if not isinstance(data, dict):
        return []
    labels, rows = data.get("predictions"), data.get("probabilities")
    if not isinstance(labels, list):
        return []
    rows = rows if isinstance(rows, list) else []
    return [
        Prediction(str(label)[:100], _probabilities(rows[index] if index < len(rows) else None))
        for index, label in enumerate(labels[:_MAX_PREDICTIONS])
    ]


def _probabilities(row: Any) -> list[tuple[str, float]]:
    """Return the classes with their probabilities: all of them in order, or the most probable ones of many."""
    pairs = list(row.items()) if isinstance(row, dict) else list(enumerate(row)) if isinstance(row, list) else []
    known = [
        (str(name)[:100], float(number))
        for name, number in pairs
        if isinstance(number, int | float) and 0 <= number <= 1
    ]
    return known if len(known) <= _MAX_CLASSES else sorted(known, key=lambda pair: -pair[1])[:_MAX_CLASSES]

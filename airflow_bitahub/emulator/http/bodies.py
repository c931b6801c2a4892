"""Reads the bodies of requests strictly, and describes what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from airflow_bitahub.emulator.state.errors import InvalidRequest

_MAX_DEPTH = 32  # levels of lists and objects; the bodies in the platform's document have 5

ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """Return a request's body; to be used with ``fastapi.Depends``."""
    return await request.body()


def parse_body(model: type[ModelT], body: bytes) -> ModelT:
    """Parse a body exactly as the document spells it: no other field names, no numbers as text.

    :raises InvalidRequest: the message names each wrong field
    """
    try:
        parsed = model.model_validate_json(body, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidRequest(validation_message(error.errors())) from None
    level, depth = [json.loads(body)], 0
    while level := [child for value in level for child in _children(value)]:
        depth += 1
        if depth > _MAX_DEPTH:
            raise InvalidRequest(f"body: lists and objects are nested more than {_MAX_DEPTH} deep")
    return parsed


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def validation_message(errors: Iterable[Any]) -> str:
    """Return pydantic's errors as one sentence."""
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg'].removeprefix('Value error, ')}"
        for error in errors
    )

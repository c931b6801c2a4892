"""Reads the bodies of requests strictly, and describes what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from airflow_bitahub.emulator.state.errors import InvalidRequest

ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """Return a request's body; to be used with ``fastapi.Depends``."""
    return await request.body()


def parse_body(model: type[ModelT], body: bytes) -> ModelT:
    """Parse a body exactly as the document spells it: no other field names, no numbers as text.

    :raises InvalidRequest: the message names each wrong field
    """
    try:
        return model.model_validate_json(body, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidRequest(validation_message(error.errors())) from None


def validation_message(errors: Iterable[Any]) -> str:
    """Return pydantic's errors as one sentence."""
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg'].removeprefix('Value error, ')}"
        for error in errors
    )

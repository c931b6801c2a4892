"""What jobs and servings share on the wire: strict request models, accelerators, times, lists, logs and a header."""

from __future__ import annotations

from datetime import datetime, timezone, tzinfo
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from airflow_bitahub.exceptions import UnexpectedResponseError

# Our own: the page of the Airflow task that submits a job or serving. A platform that does not know it ignores it.
TASK_URL_HEADER = "X-Airflow-Task-URL"
TASK_URL_LIMIT = 2000  # characters
_LATEST = 253_402_300_800.0  # the year 10,000 in seconds since the epoch


class StrictModel(BaseModel):
    """A part of a request. Unknown fields are refused, so that a misspelling cannot cost GPU hours."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,  # an error may reach a log, and environment values may be secret
    )

    def body(self) -> dict[str, Any]:
        """Return the JSON body in the spelling of the platform's document. Fields that are None are left out."""
        return self.model_dump(by_alias=True, exclude_none=True)


class Accelerator(StrictModel):
    """The accelerators of one replica.

    :param device_type: the platform's name for it, such as ``gtx-1080-ti`` (seed); sent unchanged
    :param requests: the number of accelerators
    :param kind: ``gpu`` (seed); the platform may know other kinds
    """

    kind: str = "gpu"
    requests: Annotated[int, Field(ge=1)] = 1
    device_type: Annotated[str, StringConstraints(min_length=1)]


def task_url_header(url: str) -> dict[str, str]:
    """Return the header with the page of an Airflow task; none for "" and for an address that is too long."""
    text = quote(url, safe="%/:?#[]@!$&'()*+,;=~")  # a task may have a Chinese name, and a header is ASCII
    return {TASK_URL_HEADER: text} if 0 < len(text) <= TASK_URL_LIMIT else {}


def items_of(data: Any) -> list[Any]:
    """Return the entries of a list answer, in any of the known shapes.

    :raises UnexpectedResponseError: the answer has none of these shapes
    """
    if isinstance(data, dict):
        for key in ("items", "list", "jobs", "servings"):
            if isinstance(data.get(key), list) or (key in data and data[key] is None):  # null: Go's empty list
                data = data[key]
                break
    if data is None:
        return []
    if not isinstance(data, list):
        raise UnexpectedResponseError("The platform's answer to a list request contains no list.")
    return data


def to_epoch(value: Any, zone: tzinfo = timezone.utc) -> float | None:
    """Return a time in seconds since the epoch; None where it is not set or cannot be read.

    Known forms are seconds or milliseconds since the epoch, as a number or as text, and RFC 3339. 0 means *not set*.

    :param zone: of a time without an offset
    """
    try:
        if isinstance(value, str) and not value.lstrip("-").isdigit():
            time = datetime.fromisoformat(value.replace("Z", "+00:00"))
            seconds = (time if time.tzinfo else time.replace(tzinfo=zone)).timestamp()
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            number = float(value)
            seconds = number / 1000 if number > 1e11 else number
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < _LATEST else None

"""Faults: which requests the emulator fails on purpose, and how. Data and counting only; `injector.py` applies them.

What goes wrong with platforms and networks, each as one `Effect`:

    refuses for a while     before=Answer(status=429, headers={"Retry-After": "1"})
    a token expires         before=Answer(status=401, body={"kind": "Status", ...})
    connection lost         before="close", or after="close": the same to the client, but the request took effect
    gateway timeout         after=Answer(status=504, body="<html>...")
    truncated JSON          after=Answer(headers={"Content-Type": "application/json"}, body='{"status": {"co')
    slow                    delay=2 or body_seconds=2
    a record appears late   records=Records(hide_for=3)
    a record vanishes       records=Records(hide_for=1e9), with Match(skip=...)
    a record is wrong       records=Records(where={"state": "WAITING"}, patch={"state": "RUNNING"})
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import count
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from airflow_bitahub.emulator.state.errors import NotFound


def _sendable(value: JsonValue) -> JsonValue:
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


Json: TypeAlias = Annotated[JsonValue, AfterValidator(_sendable)]
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*")
_FRAMING = {"content-length", "transfer-encoding"}  # the server computes these
_BODILESS = (204, 205, 304)


class _FaultModel(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Match(_FaultModel):
    """Which requests a fault strikes.

    :param method: ``*``: any
    :param path: a shell-style pattern for the whole path, without the query; ``*`` matches slashes too
    :param skip: how many matching requests to let through first
    :param times: how many requests to strike at most; None: no limit
    :param probability: of striking each of them; more than 0, at most 1
    :param seed: with the same seed, the same ones of the matching requests are struck again
    """

    method: Literal["*", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = "*"
    path: str = "*"
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=1)] | None = None
    probability: Annotated[float, Field(gt=0, le=1)] = 1
    seed: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Return whether method and path of a request match; nothing is counted."""
        return self.method in ("*", method) and fnmatchcase(path, self.path)


class Answer(_FaultModel):
    """An answer that does not come from the platform.

    :param body: text is sent unchanged, as ``text/plain`` unless the headers say otherwise; anything else as JSON
    """

    status: Annotated[int, Field(ge=200, le=599)] = 200
    headers: dict[str, str] = Field(default_factory=dict)
    body: Json = ""

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(f"{name}:{value}"):
                raise ValueError(f"{name!r}: {value!r} is not a header")
            if name.lower() in _FRAMING:
                raise ValueError(f"{name!r} is set by the server itself")
        return headers

    @field_validator("body")
    @classmethod
    def _check_body(cls, body: JsonValue, others: ValidationInfo) -> JsonValue:
        if others.data.get("status") in _BODILESS and body != "":
            raise ValueError(f"an answer with status {others.data['status']} has none")
        return body


class Records(_FaultModel):
    """What a query of jobs or servings shows instead of the real records.

    :param where: affects only records with these values, such as ``{"name": "m", "state": "RUNNING"}``
    :param hide_for: a record is hidden for so many seconds after its creation
    :param patch: changes to each record, as a JSON merge patch (RFC 7396); null removes a field
    """

    where: Mapping[str, Json] = Field(default_factory=dict)
    hide_for: NonNegativeFloat = 0
    patch: Mapping[str, Json] = Field(default_factory=dict)

    def show(self, record: dict[str, Any], age: float) -> dict[str, Any] | None:
        """Return a record as the client shall see it; None: it is hidden. `age` is seconds since its creation."""
        if not _contains(record, self.where):
            return record
        if age < self.hide_for:
            return None
        shown: dict[str, Any] = _merge(record, self.patch)
        return shown


Replacement: TypeAlias = Literal["close"] | Answer


class Effect(_FaultModel):
    """What happens to a struck request, in the order of the parameters. Times are by the emulator's clock.

    ``close`` closes the connection without sending a byte. At most one of `before`, `after` and `records` is allowed.

    :param delay: seconds before the request takes effect; it does so even if the client has gone by then
    :param before: answered instead of performing the request
    :param after: answered instead of the real answer, after the request took effect
    :param records: what a query shows
    :param body_seconds: seconds over which the answer's body is sent, in ten pieces
    """

    delay: NonNegativeFloat = 0
    before: Replacement | None = None
    after: Replacement | None = None
    records: Records | None = None
    body_seconds: NonNegativeFloat = 0

    @model_validator(mode="after")
    def _check_combination(self) -> Effect:
        if not self.model_fields_set:
            raise ValueError("it has no effect")
        if sum(part is not None for part in (self.before, self.after, self.records)) > 1:
            raise ValueError("only one of before, after and records is possible")
        return self


class Fault(_FaultModel):
    """One way in which the emulator fails. For example, this one loses the answer to the next submission:

    Fault(match=Match(method="POST", path="*/jobs/*", times=1), effect=Effect(after="close"))
    """

    match: Match = Match()
    effect: Effect


class ArmedFault:
    """An active fault. `seen` counts the requests that matched, `applied` those of them that were struck."""

    def __init__(self, fault_id: str, fault: Fault) -> None:
        self.id = fault_id
        self.fault = fault
        self.seen = 0
        self.applied = 0
        self.is_removed = False
        self._dice = random.Random(fault.match.seed)  # noqa: S311  not used for secrets
        self._lock = threading.Lock()

    def strikes(self, method: str, path: str) -> bool:
        """Count a request, and return whether the fault strikes it."""
        match = self.fault.match
        with self._lock:
            if self.is_removed or not match.matches(method, path):
                return False
            self.seen += 1
            if self.seen <= match.skip or self.applied == match.times or self._dice.random() >= match.probability:
                return False
            self.applied += 1
            return True

    def view(self) -> dict[str, Any]:
        """Return the fault as JSON, with its id and its counts."""
        fault = self.fault.model_dump(by_alias=True, exclude_unset=True)
        return {"id": self.id, **fault, "seen": self.seen, "applied": self.applied}


class Faults:
    """The active faults, in the order they were added; safe to use from any thread.

    A request passes them one after another. If a fault replaces the request before it takes effect, the later faults
    do not see it. Faults strike only requests to the platform's API: not ``/emulator/...`` and ``/healthz``, and not
    the requests to servings.
    """

    def __init__(self) -> None:
        self._armed: dict[str, ArmedFault] = {}
        self._lock = threading.Lock()
        self._ids = count(1)

    def __iter__(self) -> Iterator[ArmedFault]:
        with self._lock:
            return iter(list(self._armed.values()))

    def add(self, fault: Fault) -> ArmedFault:
        """Activate a fault."""
        with self._lock:
            armed = ArmedFault(str(next(self._ids)), fault)
            self._armed[armed.id] = armed
            return armed

    def remove(self, fault_id: str) -> None:
        """Remove a fault; requests that it delays go on immediately. Raises NotFound when there is none."""
        with self._lock:
            if fault_id not in self._armed:
                raise NotFound(f"there is no fault {fault_id!r}")
            self._armed.pop(fault_id).is_removed = True

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            for armed in self._armed.values():
                armed.is_removed = True
            self._armed.clear()

    def striking(self, method: str, path: str) -> Iterator[ArmedFault]:
        """Yield the faults that strike a request. A fault counts the request only when the iteration reaches it."""
        return (armed for armed in self if armed.strikes(method, path))


def _contains(value: Any, part: Any) -> bool:
    if not isinstance(part, dict):
        return bool(value == part)
    return isinstance(value, dict) and all(name in value and _contains(value[name], part[name]) for name in part)


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged

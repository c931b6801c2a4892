"""Faults: on which requests the emulator misbehaves, and how. Data and counting; `injector.py` makes it happen.

What platforms and networks do, each as one `Effect`:

    refuses for a while     before=Answer(status=429, headers={"Retry-After": "1"})
    a token expires         before=Answer(status=401, body={"kind": "Status", ...})
    connection lost         before="close", or after="close": the same to the client, but the request took effect
    gateway timeout         after=Answer(status=504, body="<html>...")
    truncated JSON          after=Answer(headers={"Content-Type": "application/json"}, body='{"status": {"co')
    slow                    delay=2 or body_seconds=2
    a record appears late   records=Records(hide_for=3)
    a record vanishes       records=Records(hide_for=1e9), with Match(skip=...)
    any untruth about it    records=Records(where={"state": "WAITING"}, patch={"state": "RUNNING"})
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
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from airflow_bitahub.emulator.state.errors import Unknown


def _sendable(value: JsonValue) -> JsonValue:
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


Json: TypeAlias = Annotated[JsonValue, AfterValidator(_sendable)]
Seconds = Annotated[float, Field(ge=0)]
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*")
_FRAMING = {"content-length", "transfer-encoding"}  # without which the server could not send it
_BODILESS = (204, 205, 304)


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Match(_Part):
    """Which requests a fault strikes.

    :param method: ``*``: any
    :param path: a shell-style pattern for the whole path, without the query; its ``*`` stands for slashes too
    :param skip: so many matching requests are spared first
    :param times: so many are struck, and no more; None: no limit
    :param probability: for each of them to be struck; more than 0, at most 1
    :param seed: the same seed chooses the same ones of the matching requests again
    """

    method: Literal["*", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = "*"
    path: str = "*"
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=1)] | None = None
    probability: Annotated[float, Field(gt=0, le=1)] = 1
    seed: int = 0

    def covers(self, method: str, path: str) -> bool:
        """Tell whether a request is one of those meant, however often it comes."""
        return self.method in ("*", method) and fnmatchcase(path, self.path)


class Answer(_Part):
    """An answer that is not the platform's own.

    :param body: a text is sent as it is, as ``text/plain`` unless the headers say otherwise; anything else as JSON
    """

    status: Annotated[int, Field(ge=200, le=599)] = 200
    headers: dict[str, str] = Field(default_factory=dict)
    body: Json = ""

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(f"{name}:{value}"):
                raise ValueError(f"{name!r}: {value!r} is not a header")
            if name.lower() in _FRAMING:
                raise ValueError(f"{name!r} is set by the server itself")
        return headers

    @field_validator("body")
    @classmethod
    def _may_be_there(cls, body: JsonValue, others: ValidationInfo) -> JsonValue:
        if others.data.get("status") in _BODILESS and body != "":
            raise ValueError(f"an answer with status {others.data['status']} has none")
        return body


class Records(_Part):
    """What a query of jobs or servings, of one or of many, shows in their stead.

    :param where: only records that have these fields with these values, such as ``{"name": "m", "state": "RUNNING"}``
    :param hide_for: seconds since its creation for which a record is denied
    :param patch: changes to each record, as a JSON merge patch (RFC 7396); null removes a field
    """

    where: Mapping[str, Json] = Field(default_factory=dict)
    hide_for: Seconds = 0
    patch: Mapping[str, Json] = Field(default_factory=dict)

    def show(self, record: dict[str, Any], age: float) -> dict[str, Any] | None:
        """Give a record as it is to be seen; None: not at all. `age` is seconds since its creation."""
        if not _has(record, self.where):
            return record
        if age < self.hide_for:
            return None
        shown: dict[str, Any] = _merge(record, self.patch)
        return shown


Outcome: TypeAlias = Literal["close"] | Answer


class Effect(_Part):
    """What a struck request meets. All that is given happens, in this order. Times are by the emulator's clock.

    ``close`` closes the connection without a byte of an answer. Only one of `before`, `after` and `records` is
    possible.

    :param delay: seconds until the request takes effect, which it does even if the client has gone by then
    :param before: instead of the request, which never takes effect
    :param after: instead of the answer; the request took effect
    :param records: what a query shows
    :param body_seconds: the answer's body comes in ten pieces, over this time
    """

    delay: Seconds = 0
    before: Outcome | None = None
    after: Outcome | None = None
    records: Records | None = None
    body_seconds: Seconds = 0

    @model_validator(mode="after")
    def _is_one_thing(self) -> Effect:
        if not self.model_fields_set:
            raise ValueError("it has no effect")
        if sum(part is not None for part in (self.before, self.after, self.records)) > 1:
            raise ValueError("only one of before, after and records is possible")
        return self


class Fault(_Part):
    """One way in which the emulator misbehaves, such as to lose the answer to the next submission:

    Fault(match=Match(method="POST", path="*/jobs/*", times=1), effect=Effect(after="close"))
    """

    match: Match = Match()
    effect: Effect


class ArmedFault:
    """A fault in force. `seen` counts the requests that matched, `applied` those of them that were struck."""

    def __init__(self, fault_id: str, fault: Fault) -> None:
        self.id = fault_id
        self.fault = fault
        self.seen = 0
        self.applied = 0
        self.is_removed = False
        self._dice = random.Random(fault.match.seed)  # noqa: S311  nothing is kept secret with it
        self._lock = threading.Lock()

    def strikes(self, method: str, path: str) -> bool:
        """Count a request; tell whether it is struck."""
        match = self.fault.match
        with self._lock:
            if self.is_removed or not match.covers(method, path):
                return False
            self.seen += 1
            if self.seen <= match.skip or self.applied == match.times or self._dice.random() >= match.probability:
                return False
            self.applied += 1
            return True

    def view(self) -> dict[str, Any]:
        """Give it as JSON: what was ordered, and how often it came to pass."""
        ordered = self.fault.model_dump(by_alias=True, exclude_unset=True)
        return {"id": self.id, **ordered, "seen": self.seen, "applied": self.applied}


class Faults:
    """The faults in force, in the order they were added; safe to use from any thread.

    A request passes them one after the other. One that is answered or closed before it takes effect does not reach the
    faults behind. Only what goes to the platform itself is struck: neither ``/emulator/...`` and ``/healthz``, nor the
    programs that are served.
    """

    def __init__(self) -> None:
        self._armed: dict[str, ArmedFault] = {}
        self._lock = threading.Lock()
        self._ids = count(1)

    def __iter__(self) -> Iterator[ArmedFault]:
        with self._lock:
            return iter(list(self._armed.values()))

    def add(self, fault: Fault) -> ArmedFault:
        """Put a fault in force."""
        with self._lock:
            armed = ArmedFault(str(next(self._ids)), fault)
            self._armed[armed.id] = armed
            return armed

    def remove(self, fault_id: str) -> None:
        """Take a fault out of force; requests it delays go on at once. Raises Unknown when there is none."""
        with self._lock:
            if fault_id not in self._armed:
                raise Unknown(f"there is no fault {fault_id!r}")
            self._armed.pop(fault_id).is_removed = True

    def clear(self) -> None:
        """Take all faults out of force."""
        with self._lock:
            for armed in self._armed.values():
                armed.is_removed = True
            self._armed.clear()

    def striking(self, method: str, path: str) -> Iterator[ArmedFault]:
        """Give the faults that strike a request. Each counts it only when it is asked for."""
        return (armed for armed in self if armed.strikes(method, path))


def _has(value: Any, part: Any) -> bool:
    if not isinstance(part, dict):
        return bool(value == part)
    return isinstance(value, dict) and all(name in value and _has(value[name], part[name]) for name in part)


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

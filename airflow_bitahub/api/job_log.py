"""The call that follows a job's log, and the shapes in which a platform answers with a log.

No source shows the platform's own log call (assumed). Clients and relatives answer with one text, with a list of lines,
or with an entry for each replica. A few let the caller begin at an offset in bytes (client: ``start``), and tell where
the text ends. Where an answer tells no offsets, its lines are joined to those of the last answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow_bitahub.api.envelope import unwrap
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Call, Request, Response
from airflow_bitahub.exceptions import UnexpectedResponseError

_TIMEOUT = 5.0  # seconds
_BODY_LIMIT = 4 * 2**20  # bytes of an answer
_TEXT_KEYS = ("log", "content", "text")
_PART_KEYS = ("taskLogs", "items", "list")
_ROLE_KEYS = ("taskRoleName", "role", "podName", "name")
_INDEX_KEYS = ("taskIndex", "index")


class LogPart(NamedTuple):
    """The part of a job's log that one replica has printed.

    :param label: the replica, such as ``worker-0``; "" where the log is in one piece
    :param start: the offset of the text in the log, in bytes; None: the platform does not tell
    :param end: the offset after the text
    :param left_out: the number of lines between the offset that was asked for and the text; None: unknown
    """

    label: str
    text: str
    start: int | None = None
    end: int | None = None
    left_out: int | None = None


def follow_job_log(name: str, tail_lines: int, offsets: Mapping[str, int]) -> Call[list[LogPart]]:
    """Read what a job has printed since the last look: at most its last lines (assumed).

    :param offsets: where to begin, in bytes, by the replicas' labels. A platform that knows no offsets ignores them
    """
    query = {"tailLines": str(tail_lines)}
    if offsets:
        whole = offsets.get("")
        query["offset"] = str(whole) if whole is not None else ",".join(f"{key}:{at}" for key, at in offsets.items())
    action = f"read the log of job {name!r}"
    request = Request(action, "read_job_log", {"name": name}, query, timeout=_TIMEOUT, body_limit=_BODY_LIMIT)

    def read(response: Response, platform: Platform) -> list[LogPart]:
        parts = read_log_parts(unwrap(response, request, platform))
        if parts is None:
            raise UnexpectedResponseError(f"Could not {action}: the answer contains no log.")
        return parts

    return Call(request, read, is_optional=True)


def read_log_parts(data: Any) -> list[LogPart] | None:
    """Return the parts of a log, in any of the known shapes; None where it has none of them."""
    if (entries := _entries(data)) is not None:
        return [_part(entry, str(number)) for number, entry in enumerate(entries)]
    if data is None or data == {} or (isinstance(data, Mapping) and any(key in data for key in _TEXT_KEYS)):
        return [_part(data or {}, "")]
    text = _text(data)
    return None if text is None else [LogPart("", text)]


def last_lines(data: Any, tail_lines: int) -> str:
    """Return the last lines of a log, in any of the known shapes; those of several replicas follow one another.

    They are not cut: half of a secret could not be masked any more.

    :raises UnexpectedResponseError: it has none of the shapes
    """
    parts = read_log_parts(data)
    if parts is None:
        raise UnexpectedResponseError("The platform's answer to a request for a log contains no log.")
    lines = [line for part in parts for line in part.text.rstrip("\n").split("\n")]
    return "\n".join(lines[-tail_lines:])  # a platform may ignore the number of lines


def _entries(data: Any) -> list[Mapping[str, Any]] | None:
    if isinstance(data, Mapping):
        data = next((data[key] for key in _PART_KEYS if data.get(key)), None)
    is_of_parts = isinstance(data, list) and data and all(isinstance(entry, Mapping) for entry in data)
    return data if is_of_parts else None


def _part(entry: Mapping[str, Any], default: str) -> LogPart:
    role = next((entry[key] for key in _ROLE_KEYS if isinstance(entry.get(key), str) and entry[key]), "")
    index = next((number for key in _INDEX_KEYS if (number := _number(entry.get(key))) is not None), None)
    label = "-".join(part for part in (role, "" if index is None else str(index)) if part) or default
    text = next((text for key in _TEXT_KEYS if (text := _text(entry.get(key))) is not None), "")
    start, end = _number(entry.get("offset")), _number(entry.get("nextOffset"))
    if start is None or end is None or end < start:
        start = end = None
    return LogPart(label, text, start, end, _number(entry.get("skippedLines")))


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(line if line.endswith("\n") else line + "\n" for line in value)
    return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

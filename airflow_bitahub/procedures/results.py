"""Reading what a job that has finished has left behind: it may become visible some seconds later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from airflow_bitahub.api.jobs import read_job_log
from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, FileNotReadyError
from airflow_bitahub.procedures import retry
from airflow_bitahub.texts import parse_json

T = TypeVar("T")

_LOG_TAIL = 500  # lines at the end of a log that are searched
_LONGEST_LINE = 2**16  # characters of metrics


def read_when_visible(read: Callable[[], T], clock: Callable[[], float] = time.time) -> Procedure[T]:
    """Return what `read` returns. While it raises FileNotReadyError, call it again, for `RESULT_GRACE_PERIOD`."""
    deadline = clock() + retry.RESULT_GRACE_PERIOD
    while True:
        try:
            return read()
        except FileNotReadyError:
            if clock() >= deadline:
                raise
        yield Sleep(retry.RESULT_PAUSE)


def read_metrics_in_log(name: str, clock: Callable[[], float] = time.time) -> Procedure[dict[str, Any]]:
    """Return the last line of a job's log that is a JSON object. The end of the log may become visible late.

    So the log is read until two looks show the same: an earlier line may have the metrics of an earlier epoch.

    :raises FileNotReadyError: there is no such line among the last ones, or the log cannot be read
    """
    deadline = clock() + retry.RESULT_GRACE_PERIOD
    before: str | None = None
    while True:
        try:
            log = yield from read_job_log(name, _LOG_TAIL)
            problem = f"none of the last {_LOG_TAIL} lines of its log is a JSON object"
        except ConfigurationError:
            raise
        except BitaHubError as error:
            log, problem = "", str(error)
        is_last_look = clock() >= deadline
        if (metrics := _last_object(log)) is not None and (log == before or is_last_look):
            return metrics
        if is_last_look:
            raise FileNotReadyError(
                f"metrics_from: job {name!r} has finished, but {problem}. Let it print its metrics as one line such as "
                f'{{"accuracy": 0.9}}, or let it write them to a file and set metrics_from="storage".'
            )
        before = log
        yield Sleep(retry.RESULT_PAUSE)


def _last_object(log: str) -> dict[str, Any] | None:
    for line in reversed(log.split("\n")):
        text = line.strip()
        if text.startswith("{") and len(text) <= _LONGEST_LINE:
            try:
                value = parse_json(text.encode("utf-8", "replace"))
            except ValueError:
                continue
            if isinstance(value, dict):
                return value
    return None

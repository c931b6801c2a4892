"""What a finished job has left behind is waited for, but not for long."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_bitahub.exceptions import ConfigurationError, FileNotReadyError, StorageError
from airflow_bitahub.procedures.results import read_metrics_in_log, read_when_visible
from airflow_bitahub.procedures.retry import RESULT_GRACE_PERIOD, RESULT_PAUSE
from tests.procedures.stage import BROKEN, FOREIGN, MISSING, Script, Stage


class File:
    """A file that becomes visible at its second look, or is wrong."""

    def __init__(self, *looks: Exception | str) -> None:
        self._looks = list(looks)

    def read(self) -> str:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(look, Exception):
            raise look
        return look


MISSING_FILE = FileNotReadyError("result_file: /x does not exist")


def test_a_file_that_is_late_is_read_as_soon_as_it_shows() -> None:
    stage = Stage()
    file = File(MISSING_FILE, FileNotReadyError("is not JSON"), "content")
    assert stage.run(read_when_visible(file.read, stage.clock)) == "content"
    assert stage.done == [RESULT_PAUSE, RESULT_PAUSE]


def test_a_file_that_never_shows_is_waited_for_a_bounded_time() -> None:
    stage = Stage()
    with pytest.raises(FileNotReadyError, match="does not exist"):
        stage.run(read_when_visible(File(MISSING_FILE).read, stage.clock))
    assert stage.now == 1000 + RESULT_GRACE_PERIOD


def test_a_file_that_cannot_be_read_at_all_is_not_waited_for() -> None:
    stage = Stage()
    with pytest.raises(StorageError, match="is a link"):
        stage.run(read_when_visible(File(StorageError("is a link"), "content").read, stage.clock))
    assert stage.done == []


@pytest.mark.parametrize(
    ("log", "metrics"),
    [
        ('{"accuracy": 0.1}\nepoch 2\n{"accuracy": 0.9, "loss": NaN}\nbye\n', {"accuracy": 0.9, "loss": None}),
        ('  {"a": {"b": [1]}}  \r\n{broken}\n[1]\n7\n"{}"', {"a": {"b": [1]}}),
        ("{}", {}),
    ],
)
def test_the_last_line_that_is_an_object_has_the_metrics(log: str, metrics: Any) -> None:
    stage = Script(log)
    assert stage.run(read_metrics_in_log("mnist", stage.clock)) == metrics
    assert stage.done == ["read_job_log", RESULT_PAUSE, "read_job_log"]


@pytest.mark.parametrize("before", [[""], ["epoch 1\n"], [MISSING], [BROKEN, FOREIGN], ['{"a": 0}', '{"a": 0}\n{"b":']])
def test_a_log_that_is_late_is_read_again(before: list[Any]) -> None:
    stage = Script(*before, '{"a": 1}')
    assert stage.run(read_metrics_in_log("mnist", stage.clock)) == {"a": 1}
    assert stage.calls == ["read_job_log"] * (len(before) + 2)


@pytest.mark.parametrize(("answer", "says"), [("no", "none of the last 500 lines"), (MISSING, "NotFoundError")])
def test_a_log_without_metrics_is_told_after_a_bounded_time(answer: Any, says: str) -> None:
    stage = Script(answer)
    with pytest.raises(StorageError, match=f'^metrics_from: job .mnist. has finished, but {says}.*="storage"'):
        stage.run(read_metrics_in_log("mnist", stage.clock))
    assert stage.now == 1000 + RESULT_GRACE_PERIOD


def test_a_log_is_not_asked_for_again_where_the_connection_is_wrong() -> None:
    with pytest.raises(ConfigurationError):
        Script(ConfigurationError("no host")).run(read_metrics_in_log("mnist"))

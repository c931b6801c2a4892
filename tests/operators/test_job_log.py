"""The job's own lines in the task's log: live on the worker, and its last ones at the end, each of them once."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from airflow.sdk._shared.secrets_masker import _secrets_masker
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.log import mask_secret

from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match, Records
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import JobFailedError
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.masking import AirflowMask
from airflow_bitahub.procedures.job_log import CURSOR_KEY, LAST_LINES
from airflow_bitahub.secret_digests import SecretMask
from tests.conftest import Submitted, TaskRun, events_of, restored

pytestmark = pytest.mark.usefixtures("connection")

LOGS = Match(method="GET", path="*/log")
AGAIN = "The last lines of the job's log, some of which may have been logged before:"


def job(command: str, **arguments: Any) -> BitaHubJobOperator:
    defaults = {"task_id": "task", "project": "demo", "poll_interval": 0.02, "log_interval": 0.05, "defer_after": 0}
    return BitaHubJobOperator(command=command, **{**defaults, **arguments})


class TaskLog:
    """What was logged since the last look."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self._capsys.readouterr().out)

    def lines(self) -> list[str]:
        """The job's lines, and those about them."""
        found = re.findall(
            r"\] ((?:\[job|Lines of the job's|The last lines of).*?) *(?:\[airflow|$)", self.text(), re.MULTILINE
        )
        return [line.removeprefix("[job] ") for line in found]


@pytest.fixture
def task_log(capsys: pytest.CaptureFixture[str]) -> TaskLog:
    return TaskLog(capsys)


def execute(operator: BitaHubJobOperator, run: TaskRun) -> Any:
    return operator.execute(run.context())


@pytest.mark.parametrize("log_interval", [0.05, 0], ids=["live", "only the end"])
def test_lines_of_a_job_are_logged_once_on_the_worker(
    log_interval: float, task_run: TaskRun, task_log: TaskLog
) -> None:
    command = (
        r"for n in 1 2 3 4; do echo line $n 训练; sleep 0.15; done; printf '10%%\r\033[32m100%%\033[0m\nlast word'"
    )
    execute(job(command, log_interval=log_interval), task_run)
    assert task_log.lines() == [*(f"line {n} 训练" for n in (1, 2, 3, 4)), "100%", "last word"]


def test_failures_traceback_is_logged_once_and_its_last_line_is_the_error(task_run: TaskRun, task_log: TaskLog) -> None:
    command = "echo Traceback; echo '  File x'; echo 'ValueError: no data'; exit 3"
    with pytest.raises(JobFailedError, match=r"exit code 3.*Its last line: ValueError: no data$") as failed:
        execute(job(command, log_interval=0), task_run)
    assert "Traceback" not in str(failed.value)
    assert task_log.text().count("Traceback") == 1


@pytest.mark.parametrize("map_index", [-1, 1], ids=["not mapped", "mapped"])
@pytest.mark.parametrize("printed", [3, 300])
def test_resumed_task_logs_the_last_lines_again(
    printed: int, map_index: int, task_run: TaskRun, task_log: TaskLog
) -> None:
    task_run.map_index = map_index
    command = f"sleep 1; seq 1 {printed}"
    with pytest.raises(TaskDeferred) as deferred:
        execute(job(command, deferrable=True), task_run)
    trigger: Any = restored(deferred.value.trigger)
    assert trigger.log_interval == 0.05
    [event] = events_of(trigger)
    task_log.lines()
    lines = [str(number + 1) for number in range(printed)]
    known = {"job": trigger.job_name, "streams": {"": {"offset": len("\n".join(lines)) + 1}}}
    task_run.xcom_push(CURSOR_KEY, known)  # the trigger has logged them all
    job(command, deferrable=True).execute_complete(task_run.context(), event)
    assert task_log.lines()[-LAST_LINES - 1 :] == [AGAIN, *lines[-LAST_LINES:]]


def test_resumed_task_logs_what_the_trigger_has_not(task_run: TaskRun, task_log: TaskLog) -> None:
    command = "sleep 1; seq 1 100"
    with pytest.raises(TaskDeferred) as deferred:
        execute(job(command, deferrable=True), task_run)
    [event] = events_of(restored(deferred.value.trigger))
    task_log.lines()
    task_run.xcom_push(CURSOR_KEY, {"job": "another", "streams": {"": {"offset": 20}}})
    job(command, deferrable=True).execute_complete(task_run.context(), event)
    assert task_log.lines() == [str(number) for number in range(1, 101)]


@pytest.mark.parametrize(
    "effect",
    [
        Effect(before=Answer(status=404, body="404 page not found")),
        Effect(before=Answer(status=403, body={"status": {"code": 403, "msg": "no"}})),
        Effect(before=Answer(status=200, body={"status": {"code": 0}, "data": {"something": "else"}})),
        Effect(before="close"),
    ],
)
def test_platform_without_a_log_is_asked_rarely_and_silently(
    effect: Effect, task_run: TaskRun, task_log: TaskLog, platform: Emulator
) -> None:
    fault = platform.faults.add(Fault(match=LOGS, effect=effect))
    assert execute(job("echo lost; sleep 0.6"), task_run)["status"] == "SUCCEEDED"
    platform.faults.clear()
    assert 1 <= fault.applied <= 2, "once while it ran, and once at the end"
    text = task_log.text()
    assert "SUCCEEDED" in text
    assert not re.search("lost|WARNING|warning|error|the log of job", text)


def test_trigger_is_told_digests_of_the_secrets_that_the_job_was_given(task_run: TaskRun) -> None:
    mask_secret(["sesame-of-the-job", "sesame-of-another"])
    with pytest.raises(TaskDeferred) as deferred:
        execute(job("TOKEN=sesame-of-the-job sleep 0.1", deferrable=True), task_run)
    trigger: Any = restored(deferred.value.trigger)
    assert "sesame" not in json.dumps(trigger.serialize())
    assert SecretMask(trigger.log_masks).hide("a sesame-of-the-job b sesame-of-another") == "a *** b sesame-of-another"


@pytest.mark.parametrize("log_interval", [0.05, 0])
def test_trigger_masks_secrets_in_what_the_platform_says_of_the_job(
    log_interval: float, task_run: TaskRun, task_log: TaskLog, platform: Emulator
) -> None:
    mask_secret("sesame-of-the-job")
    operator = job("TOKEN=sesame-of-the-job sleep 0.1", deferrable=True, log_interval=log_interval)
    with pytest.raises(TaskDeferred) as deferred:
        execute(operator, task_run)
    platform.faults.add(Fault(effect=Effect(records=Records(patch={"message": "KeyError: sesame-of-the-job!"}))))
    with pytest.MonkeyPatch.context() as triggerer:  # which knows no secrets of workers
        triggerer.setattr(_secrets_masker(), "patterns", set())
        triggerer.setattr(_secrets_masker(), "replacer", None)
        task_log.text()
        events_of(restored(deferred.value.trigger))
    text = task_log.text()
    assert "KeyError: ***!" in text
    assert "sesame" not in text


KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("secret", "printed"),
    [
        (KEY, KEY),
        (json.dumps(KEY)[1:-1], KEY),
        (json.dumps({"type": "account", "private_key": KEY}, indent=1), json.dumps({"private_key": KEY})),
        (json.dumps({"private_key": KEY, "client_secret": "sesame-of-json"}), f"use sesame-of-json and\n{KEY}"),
    ],
    ids=["lines", "lines as in JSON", "file of JSON", "JSON in a line"],
)
def test_lines_of_a_secret_are_masked_on_the_worker_and_in_the_triggerer(
    secret: str, printed: str, task_run: TaskRun
) -> None:
    operator = job(f"SERVICE_KEY='{secret}' sleep 0.1", deferrable=True)
    operator.render_template_fields(task_run.context())
    with pytest.raises(TaskDeferred) as deferred:
        execute(operator, task_run)
    trigger: Any = restored(deferred.value.trigger)
    for mask in (AirflowMask(), SecretMask(trigger.log_masks)):
        shown = [mask.hide(line) for line in f"at 12:00 {printed}".splitlines()]
        assert not re.search("MIIE|hkiG|sesame", "\n".join(shown)), mask
        assert "at 12:00" in shown[0]


def test_lines_that_look_like_others_stay_the_jobs(task_run: TaskRun, task_log: TaskLog) -> None:
    execute(
        job(r"printf 'a\x1b[1A\x08\x9b2Jb\n::group::hidden\n[job] forged\x0b[2026] ERROR\n'", log_interval=0), task_run
    )
    assert task_log.lines()[0].startswith("a")
    shown = task_log.text()
    assert "\x1b" not in shown
    assert "::group::" not in shown


def test_kept_cursor_lets_the_trigger_go_on(task_run: TaskRun, submitted: Submitted, task_log: TaskLog) -> None:
    with pytest.raises(TaskDeferred):
        execute(job("echo one; sleep 30", deferrable=True, defer_after=2), task_run)
    assert task_log.lines() == ["one"]
    assert task_run.xcoms[CURSOR_KEY]["job"] == submitted.only.key.name
    assert task_run.xcoms[CURSOR_KEY]["streams"][""]["offset"] == len("one\n")


def test_store_that_fails_costs_neither_the_job_nor_its_result(task_run: TaskRun, task_log: TaskLog) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no XComs for now")

    def context() -> Any:
        context = task_run.context()
        push = context["ti"].xcom_push
        context["ti"].xcom_pull = fail
        context["ti"].xcom_push = lambda key, value: fail() if key == CURSOR_KEY else push(key=key, value=value)
        return context

    with pytest.raises(TaskDeferred) as deferred:
        job("sleep 1; echo one", deferrable=True).execute(context())
    [event] = events_of(restored(deferred.value.trigger))
    assert job("sleep 1; echo one", deferrable=True).execute_complete(context(), event)["status"] == "SUCCEEDED"
    assert "one" in task_log.lines()

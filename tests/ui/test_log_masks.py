"""The page of a job masks the secrets that the job was given in its log, although they are stored nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk._shared.secrets_masker import _secrets_masker

from airflow_bitahub.emulator.faults.faults import Effect, Fault, Records
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.hooks.mask_keys import MASK_KEY
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.records import SUBMISSIONS_KEY, Submission, read_submissions
from airflow_bitahub.ui.platform import Log, Look, look_at_job
from tests.conftest import TaskRun

pytestmark = pytest.mark.usefixtures("connection")
COMMAND = """export API_TOKEN="sesame-1\nsesame of two lines"; echo "a secret: $API_TOKEN"; echo plain"""


def submitted(run: TaskRun, command: str) -> Submission:
    operator = BitaHubJobOperator(task_id="task", project="demo", command=command, poll_interval=0.02)
    operator.render_template_fields(run.context())
    operator.execute(run.context())
    [submission] = read_submissions(run.store[SUBMISSIONS_KEY])
    return submission


def shown(submission: Submission, **changes: Any) -> Log | None:
    return look(submission, **changes).log


def look(submission: Submission, **changes: Any) -> Look:
    masks = {**submission.masks, **changes}
    with pytest.MonkeyPatch.context() as server:  # which knows no secrets of workers
        server.setattr(_secrets_masker(), "patterns", set())
        server.setattr(_secrets_masker(), "replacer", None)
        return look_at_job("bitahub_default", submission.job_name, masks, with_log=True)


def test_secrets_are_masked_by_digests_whose_key_is_elsewhere(task_run: TaskRun, variables: dict[str, str]) -> None:
    submission = submitted(task_run, COMMAND)
    assert shown(submission) == Log("a secret: ***\n***\nplain")
    [name] = [key for key in variables if key.startswith(MASK_KEY)]
    stored = json.dumps(task_run.store)
    assert "sesame" not in stored
    assert variables[name] not in stored
    for odd in ({"salt": 5}, {"words": 5}, {"key": None}, {"key": "another"}):
        assert shown(submission, **odd) == Log(is_withheld=True), odd
    again = submitted(TaskRun(), COMMAND)
    assert again.masks["key"] == submission.masks["key"]
    assert again.masks["words"] != submission.masks["words"]
    del variables[name]
    assert shown(submission) == Log(is_withheld=True)


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("before", [240, 990])  # characters, where one or another reader cuts a line
def test_no_part_of_a_secret_is_left_where_a_long_line_is_cut(task_run: TaskRun, before: int) -> None:
    printing = f"printf '%{before}s%s%{1800 - before}s%s%2000s' x $API_TOKEN y $API_TOKEN z"
    log = shown(submitted(task_run, f"API_TOKEN=sesame-for-nobody; {printing}"))
    assert log is not None
    assert "left out" in log.text
    assert "ses" not in log.text


def test_a_log_is_not_shown_if_its_secrets_could_not_be_kept(
    task_run: TaskRun, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(submitted(task_run, "echo plain")) == Log("plain")
    assert not [key for key in variables if key.startswith(MASK_KEY)]

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no Variables for now")

    monkeypatch.setattr("airflow.sdk.Variable.set", staticmethod(fail))
    assert shown(submitted(TaskRun(), COMMAND)) == Log(is_withheld=True)


@pytest.mark.usefixtures("variables")
def test_secrets_are_masked_in_what_the_platform_says_of_the_job_too(task_run: TaskRun, platform: Emulator) -> None:
    submission = submitted(task_run, COMMAND)
    platform.faults.add(Fault(effect=Effect(records=Records(patch={"message": "KeyError: sesame-1 and more"}))))
    for changes, message in (({}, "KeyError: *** and more"), ({"key": "another"}, "***")):
        job = look(submission, **changes).job
        assert job is not None
        assert job.message == message

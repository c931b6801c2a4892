"""A Python function runs as a job, and what it returns is the task's result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.sdk import DAG, task
from airflow.sdk._shared.secrets_masker import _secrets_masker, redact
from airflow.sdk.exceptions import AirflowFailException, TaskDeferralTimeout, TaskDeferred
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_bitahub.api.jobs import read_job_log
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.decorators.bitahub import BitaHubFunctionOperator, bitahub_task
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError, JobFailedError
from airflow_bitahub.operators.failures import RETRY_POLICY
from tests.conftest import Submitted, TaskRun, WorkerDied, events_of

pytestmark = pytest.mark.usefixtures("connection")

JOB: dict[str, Any] = {"project": "demo", "poll_interval": 0.02, "retries": 2}
PARAMS = {"rate": 0.1, "token": "s3cr3t-by-name"}


def operator_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> BitaHubFunctionOperator:
    """The operator that a decorated function makes, as a fresh worker has it."""
    arguments = kwargs.pop("job", {})
    decorated: Any = bitahub_task(**{**JOB, "task_id": "task", **arguments})(function)
    operator = decorated(*args, **kwargs).operator
    assert isinstance(operator, BitaHubFunctionOperator)
    return operator


def render(operator: Any, context: Any) -> Any:
    """Render an operator as a worker does, and give the one that runs."""
    context["dag_run"].conf = {}
    context |= {"dag": operator.dag, "task": operator, "params": PARAMS}
    context["ti"].task = operator
    operator.render_template_fields(context, operator.dag.get_template_env())
    return context["task"]


def add(first: float, *others: float, power: int = 1, day: str = "") -> dict[str, Any]:
    import os
    from pathlib import Path

    total = first + sum(others)
    Path("written.txt").write_text("kept")
    os.write(1, f"adding {day}\n".encode())
    return {"total": total**power, "day": day, "nothing": None}


def test_function_gets_its_arguments_and_returns_its_value(
    task_run: TaskRun, submitted: Submitted, platform: Emulator, client: BitaHubClient
) -> None:
    operator = operator_of(add, 1, 2.5, 3, power=2, day="Monday")
    assert operator.execute(task_run.context()) == {"total": 42.25, "day": "Monday", "nothing": None}
    job = submitted.only
    output = task_run.xcoms["bitahub_output_path"]
    assert (platform.storage / output.lstrip("/") / "written.txt").read_text() == "kept"
    assert task_run.xcoms["bitahub_job_name"] == job.key.name
    assert task_run.xcoms["bitahub_status"] == "SUCCEEDED"
    assert "adding Monday" in client.send(read_job_log(job.key.name))
    assert job.spec.code is None


def test_error_of_the_function_is_in_the_jobs_log_with_the_lines_of_the_dag(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient
) -> None:
    def fail(reason: str) -> None:
        raise ValueError(reason)

    with pytest.raises(JobFailedError, match="ValueError: too cold"):
        operator_of(fail, "too cold").execute(task_run.context())
    assert submitted.only.exit_code == 1
    line = fail.__code__.co_firstlineno + 1
    assert f'function.py", line {line}, in fail' in client.send(read_job_log(submitted.only.key.name))


def wait_for(file: str) -> None:
    import time
    from pathlib import Path

    while not Path(file).exists():
        time.sleep(0.05)


def test_deferred_function_that_returns_nothing_resumes_even_where_nobody_watched_it(
    task_run: TaskRun, tmp_path: Path
) -> None:
    operator = operator_of(wait_for, f"{tmp_path}/go", job={"deferrable": True, "defer_after": 0})
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(task_run.context())
    (tmp_path / "go").touch()
    [event] = events_of(deferred.value.trigger)
    fresh = operator_of(wait_for, "", job={"deferrable": True})
    assert fresh.resume_execution("execute_complete", {"event": event}, task_run.context()) is None
    assert "bitahub_job_name" in task_run.xcoms
    fresh = operator_of(wait_for, "", job={"deferrable": True})
    assert fresh.on_deferral_failure(task_run.context(), TaskDeferralTimeout()) is None


def test_retry_finds_the_job_with_what_it_was_sent(task_run: TaskRun, submitted: Submitted, tmp_path: Path) -> None:
    context = task_run.context()

    def die(key: str, value: Any) -> None:
        raise WorkerDied(key, value)

    context["ti"].xcom_push = die
    with pytest.raises(WorkerDied):
        operator_of(wait_for, f"{tmp_path}/go").execute(context)
    (tmp_path / "go").touch()
    task_run.retry()
    assert operator_of(wait_for, object()).execute(task_run.context()) is None, "its arguments are not needed any more"
    assert submitted.requests("POST") == [submitted.only.key.name]


def test_code_folder_can_be_imported_and_nothing_else_is_on_the_path(task_run: TaskRun, platform: Emulator) -> None:
    code = platform.storage / FOLDERS.code("functions").lstrip("/")
    code.mkdir(parents=True, exist_ok=True)
    (code / "function.py").write_text("answer = 42")

    def use_code() -> Any:
        from importlib import import_module

        return import_module("function").answer

    operator = operator_of(use_code, job={"project": "functions", "code_path": "/projects/{user_id}/{project}/code"})
    assert operator.execute(task_run.context()) == 42


# Arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (datetime(2026, 1, 1, tzinfo=timezone.utc), "Object of type datetime is not JSON serializable.*isoformat"),
        (Path("data"), "Object of type PosixPath"),
        ([np.array([1, 2])], "Object of type ndarray"),
        (float("nan"), "a value that JSON does not have"),
        ({1: "one"}, "a key of a mapping must be text"),
    ],
)
def test_argument_that_is_not_json_is_named_before_anything_is_submitted(
    argument: Any, says: str, task_run: TaskRun, submitted: Submitted
) -> None:
    with pytest.raises(AirflowFailException, match=rf"Argument 'day' of add\(\) cannot be sent as JSON: {says}"):
        operator_of(add, 1, day=argument).execute(task_run.context())
    assert submitted() == []
    assert task_run.store == {}


def test_parameter_named_after_a_variable_of_the_context_receives_it(task_run: TaskRun, submitted: Submitted) -> None:
    def day_of(ds: str | None = None, logical_date: Any = None) -> Any:
        return [ds, logical_date]

    def today(ds: str) -> str:
        return ds

    context = task_run.context()
    assert operator_of(day_of).execute(context | {"ds": "2026-01-01"}) == ["2026-01-01", None]
    with pytest.raises(AirflowFailException, match=r"today\(\) cannot be called: missing a required argument: 'ds'"):
        operator_of(today).execute(TaskRun().context())
    date = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(AirflowFailException, match="Argument 'logical_date' of day_of"):
        operator_of(day_of).execute(TaskRun().context() | {"logical_date": date})
    assert len(submitted()) == 1


@pytest.fixture
def _masker() -> Iterator[None]:
    masker = _secrets_masker()
    before = masker.patterns.copy(), masker.replacer
    yield
    masker.patterns, masker.replacer = before


@pytest.mark.usefixtures("_masker")
def test_templates_in_arguments_are_rendered_and_secrets_hidden(task_run: TaskRun) -> None:
    def login(api_token: str, user: str, db_password: str) -> None: ...

    with DAG("d", params=PARAMS):
        operator = operator_of(login, "{{ params.token }}", user="u{{ params.rate }}", db_password="s3cr3t-by-key")
    rendered = render(operator, task_run.context())
    assert rendered.op_args == ["s3cr3t-by-name"]
    assert rendered.op_kwargs == {"user": "u0.1", "db_password": "s3cr3t-by-key"}
    shown = json.dumps(_serialize_rendered_fields(rendered))
    assert "u0.1" in shown
    for text in (shown, str(redact("got s3cr3t-by-name s3cr3t-by-key"))):
        assert "s3cr3t" not in text


def test_mapped_and_partial_and_overridden_function(submitted: Submitted) -> None:
    defaults = {"project": "demo", "wait_for_completion": False, "output_version": "1"}
    with DAG("d", params=PARAMS, default_args=defaults) as dag:
        decorated = task.bitahub(poll_interval=0.02, cpu=1)(add)
        decorated.override(task_id="both", cpu=3).partial(power=2).expand(first=[1, 2])
        decorated.override(task_id="kwargs").expand_kwargs([{"first": 5, "day": "{{ params.rate }}"}])
    for number, (name, expected, cpu) in enumerate([("both", 4, 3), ("kwargs", 5, 1)]):
        run = TaskRun(map_index=1 - number)
        context = run.context()
        operator = render(dag.get_task(name), context)
        assert operator.multiple_outputs is True, "as the function is annotated"
        assert operator.retry_policy is RETRY_POLICY
        assert operator.execute(context)["total"] == expected
        assert submitted()[-1].spec.task_roles[0].cpu == cpu
        assert run.xcoms["bitahub_output_path"].startswith(f"{FOLDERS.outputs('demo')}/20260101-")


# The result ----------------------------------------------------------------------------------------------------


def returns_a_path() -> Any:
    from pathlib import Path

    return {"model": Path("model.pt")}


def returns_a_reserved_key() -> Any:
    return {"__id__": 1}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (returns_a_path, r"returns_a_path\(\) returned a value of type PosixPath at \['model'\], which JSON"),
        (returns_a_reserved_key, "cannot become a result in Airflow: it has the key '__id__'"),
    ],
)
def test_value_that_is_no_result_costs_no_second_job(
    function: Any, says: str, task_run: TaskRun, submitted: Submitted
) -> None:
    with pytest.raises(AirflowFailException, match=rf"{says}.* Job 'demo-.*' succeeded, .* files .* are in /projects/"):
        operator_of(function).execute(task_run.context())
    assert submitted.only.status.value == "SUCCEEDED"


# What is wrong from the start ----------------------------------------------------------------------------------


def test_function_is_refused_when_it_is_decorated() -> None:
    def uses_json() -> str:
        return json.dumps({})

    for decorate in (bitahub_task, bitahub_task(project="demo")):
        with pytest.raises(ConfigurationError, match="it uses json"):
            decorate(uses_json)


def test_type_checkers_know_the_functions_parameters() -> None:
    @task.bitahub(project="demo")
    def half(number: float) -> float:
        return number / 2

    with DAG("d"):
        half("text")  # type: ignore[arg-type]  # mypy reports this comment where there is no such error
        half(half(3))  # type: ignore[arg-type]  # Airflow has no type for the output of a task


@pytest.mark.parametrize("argument", ["command", "task_roles", "output_version", "wait_for_completion"])
def test_argument_that_a_function_decides_itself_is_refused(argument: str) -> None:
    arguments: dict[str, Any] = {argument: None}
    with pytest.raises(TypeError, match=f"takes no {argument}"):
        bitahub_task(project="demo", **arguments)
    with pytest.raises(TypeError, match=f"takes no {argument}"):
        bitahub_task(project="demo")(add).override(**arguments)(1)


def test_wrong_argument_of_the_job_is_refused_when_the_dag_is_parsed_also_of_a_mapped_function() -> None:
    with pytest.raises(ConfigurationError, match="cpu must be a whole number"):
        bitahub_task(project="demo", cpu="many")
    with pytest.raises(TypeError, match=r"^@task\.bitahub got an unexpected keyword argument 'acelerator'"):
        bitahub_task(project="demo", acelerator="gtx-1080-ti")
    with pytest.raises(ConfigurationError, match="cpu must be a whole number"):
        bitahub_task(project="demo")(add).override(cpu="many")(1)


def test_without_storage_nothing_is_submitted(
    task_run: TaskRun, submitted: Submitted, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del connection["extra"]["storage_uri"]
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match="extra 'storage_uri' is not set"):
        operator_of(add, 1).execute(task_run.context())
    assert submitted() == []

"""What operators and sensors take as arguments, when it is checked, and how they complain. Nothing here is sent."""

from __future__ import annotations

import math
from ast import literal_eval
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator

from airflow_bitahub.api.jobs import TaskRole
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators import arguments, model
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.sensors.job import BitaHubJobSensor
from airflow_bitahub.sensors.serving import BitaHubServingSensor

JOB, SERVING, INVOKE = BitaHubJobOperator, BitaHubDeployServingOperator, BitaHubInvokeServingOperator
NEEDED: Mapping[type[BaseOperator], Mapping[str, Any]] = {
    JOB: {"project": "demo", "command": "true"},
    BitaHubInferOperator: {"project": "demo", "command": "true", "model": "m"},
    BitaHubEvaluateOperator: {"project": "demo", "command": "true", "predictions": "/projects/u/p/outputs/1"},
    BitaHubSaveModelOperator: {"model": "m", "source": "/projects/u/p/outputs/1", "source_folder": "net"},
    SERVING: {"serving_name": "s", "model": "m", "commands": "serve"},
    INVOKE: {"serving_name": "s"},
    BitaHubJobSensor: {"job_name": "j"},
    BitaHubServingSensor: {"serving_name": "s"},
}
SECRET = "hush-hush-hush"


def make(kind: type[BaseOperator], **given: Any) -> Any:
    return kind(**{"task_id": "task", **NEEDED[kind], **given})


def rendered(kind: type[BaseOperator], **values: Any) -> Any:
    """Give an operator whose templates became these values."""
    operator = make(kind)
    for name, value in values.items():
        setattr(operator, name, value)
    return operator


WRONG = [
    # names
    (JOB, {"project": None}, "project is None, and cannot be left out. Did an upstream task return no value"),
    (JOB, {"project": "my project"}, "project 'my project' cannot be part of a path"),
    (JOB, {"job_name": "My_Job"}, r"job_name must have lower-case letters.* 'My_Job' has 6"),
    (JOB, {"job_name": "x" * 59}, "job_name must .*at most 58 characters"),
    (JOB, {"output_version": "../up"}, "output_version '../up' cannot be part of a path"),
    (JOB, {"command": ""}, "command is ''"),
    (JOB, {"command": "None"}, "command is 'None'"),
    (JOB, {"command": ["true"]}, "command must be text, not a list"),
    (JOB, {"command": "\ud800"}, "command contains half of a character"),
    (SERVING, {"serving_name": "x" * 45}, "serving_name must .*at most 44 characters"),
    (SERVING, {"serving_name": "My_Service"}, "serving_name must have lower-case"),
    (BitaHubJobSensor, {"job_name": None}, "job_name is None"),
    (BitaHubServingSensor, {"version": []}, "version must be text, not a list"),
    # counts
    (JOB, {"cpu": "many"}, "cpu must be a whole number of at least 1, not 'many'"),
    (JOB, {"cpu": 0}, "cpu must be a whole number of at least 1, not 0"),
    (JOB, {"cpu": 2.5}, "cpu must be a whole number of at least 1, not 2.5"),
    (JOB, {"cpu": True}, "cpu must be a whole number of at least 1, not True"),
    (JOB, {"memory_mb": math.inf}, "memory_mb must be a whole number"),
    (JOB, {"memory_mb": "9" * 5000}, "memory_mb must be a whole number"),
    (JOB, {"accelerator": "gtx-1080-ti", "accelerator_count": 0}, "accelerator_count must be a whole number"),
    (SERVING, {"port": 65536}, "port must be a whole number of at least 1 and at most 65535, not 65536"),
    (SERVING, {"replicas": "a few"}, "replicas must be a whole number"),
    # folders
    (JOB, {"datasets": "MNIST"}, "datasets must be a list, not text"),
    (JOB, {"datasets": [None]}, r"datasets\[0\] is None"),
    (JOB, {"datasets": ["MNIST", "../MNIST"]}, r"datasets\[1\]: dataset '../MNIST' cannot be part of a path"),
    (JOB, {"datasets": [{"path": "/datasets/x"}]}, r"datasets\[0\] must .*'path' and 'mount_path'. It has \['path'\]"),
    (JOB, {"datasets": [{"path": "x", "mount_path": "/x"}]}, r"datasets\[0\]\['path'\] must be an absolute path"),
    (JOB, {"models": ["/models/u"]}, r"models\[0\]: '/models/u' is not a model"),
    (JOB, {"code_path": "code"}, "code_path must be an absolute path without '..', not 'code'"),
    (BitaHubInferOperator, {"model": None}, "model is None"),
    (BitaHubEvaluateOperator, {"predictions": "outputs/1"}, "predictions must be an absolute path"),
    (BitaHubSaveModelOperator, {"source_folder": "a/b"}, "source_folder 'a/b' cannot be part of a path"),
    # structures
    (JOB, {"task_roles": "worker"}, "task_roles must be a list, not text"),
    (JOB, {"task_roles": ["worker"]}, r"task_roles\[0\] must be a mapping, not text"),
    (JOB, {"task_roles": [{"cpus": 3}]}, r"task_roles\[0\] has no field cpus. Its fields are task_role_name"),
    (JOB, {"task_roles": [{}, {"shm_mb": "x"}]}, r"task_roles\[1\].shm_mb must be a whole number"),
    (JOB, {"task_roles": [{"task_role_name": "Worker"}]}, r"task_roles\[0\].task_role_name must have lower-case"),
    (JOB, {"extra_body": "{}"}, "extra_body must be a mapping, not text"),
    (JOB, {"extra_body": {"jobName": "x"}}, "extra_body must be without jobName"),
    (JOB, {"extra_body": {"x": {1}}}, "extra_body cannot be sent as JSON: Object of type set"),
    (JOB, {"extra_body": {"x": math.nan}}, "extra_body cannot be sent as JSON"),
    (SERVING, {"commands": []}, "commands must have at least one shell line"),
    (SERVING, {"commands": ["a", None]}, r"commands\[1\] is None"),
    (SERVING, {"envs": [("A", "b")]}, "envs must be a mapping, not a list"),
    (SERVING, {"envs": {"A": None}}, r"envs\['A'\] is None"),
    (SERVING, {"envs": {"A": ["b"]}}, r"envs\['A'\] must be text, not a list"),
    (SERVING, {"if_exists": "ask"}, "if_exists must be 'replace' or 'fail', not 'ask'"),
    (INVOKE, {"image_url": []}, "image_url must have at least one entry"),
    (INVOKE, {"image_file": ["f", None]}, r"image_file\[1\] is None"),
    (INVOKE, {"image_base64": "seven!"}, "image_base64 is not base64"),
    (INVOKE, {"json": "seven"}, "json is text that is not JSON"),
    (INVOKE, {"json": '"seven"'}, "json must be a mapping, a list, a number or a boolean, not text"),
    (INVOKE, {"json": {"x": {1}}}, "json cannot be sent as JSON: Object of type set"),
    (JOB, {"defer_after": -1}, "defer_after must be 0 seconds or more"),
    (SERVING, {"defer_after": "20"}, "defer_after must be a timedelta or a number of seconds"),
    # yes or no
    (JOB, {"deferrable": "False"}, "deferrable must be True or False, not 'False'"),
    (JOB, {"cancel_on_kill": None}, "cancel_on_kill must be True or False, not None"),
]


@pytest.mark.parametrize(("kind", "given", "says"), WRONG)
def test_wrong_argument_is_refused_when_the_dag_is_read_and_again_when_a_template_gave_it(
    kind: type[BaseOperator], given: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make(kind, **given)
    with pytest.raises(ConfigurationError, match=says):
        rendered(kind, **given).read_arguments()


LIMITS = [
    (JOB, "poll_interval"),
    (JOB, "queue_timeout"),
    (JOB, "unreachable_timeout"),
    (SERVING, "poll_interval"),
    (SERVING, "launch_timeout"),
    (INVOKE, "request_timeout"),
    (INVOKE, "warmup_timeout"),
]


@pytest.mark.parametrize(("kind", "name"), LIMITS)
def test_limit_of_time_is_a_timedelta_or_a_number_of_seconds_and_nothing_else(
    kind: type[BaseOperator], name: str
) -> None:
    for limit in (3600, 3600.0, timedelta(hours=1)):
        operator = make(kind, **{name: limit})
        operator.read_arguments()
        assert getattr(operator, name) == 3600.0
    for wrong in ("3600", "{{ limit }}", True, [1], {"hours": 1}):
        with pytest.raises(ConfigurationError, match=f"{name} must be a timedelta or a number of seconds, not "):
            rendered(kind, **{name: wrong}).read_arguments()
    for outside in (-1, timedelta(-1), math.nan, math.inf, 1e30):
        with pytest.raises(ConfigurationError, match=f"{name} must be .*0 seconds.* and at most ten years, not "):
            make(kind, **{name: outside})
    if name not in ("unreachable_timeout", "warmup_timeout"):
        with pytest.raises(ConfigurationError, match=f"{name} must be more than 0 seconds"):
            make(kind, **{name: 0})


@pytest.mark.parametrize("template", ["{{ params.x }}", "{% if x %}a b{% endif %}", ["{{ x }}"]])
def test_what_a_template_will_fill_in_is_not_checked_when_the_dag_is_read(template: Any) -> None:
    with DAG("d"):
        upstream = make(JOB, task_id="upstream").output
        make(JOB, project=template, cpu=template, datasets=template, job_name=upstream, extra_body={"a": upstream})


def test_default_args_are_checked_too() -> None:
    with DAG("d", default_args={"queue_timeout": "soon"}), pytest.raises(ConfigurationError, match="queue_timeout"):
        make(JOB)


def test_mapped_task_is_checked_when_it_runs() -> None:
    with DAG("d"):
        mapped = JOB.partial(task_id="task", project="demo", command="true").expand(cpu=[1, "many"])
    operator: Any = mapped.unmap({"cpu": "many"})  # its job's record is not loaded yet
    with pytest.raises(ConfigurationError, match="cpu must be a whole number"):
        operator.read_arguments()


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        # what a template or native rendering makes of them
        (JOB, {"project": 2024}, {"project": "2024"}),
        (JOB, {"cpu": "3", "memory_mb": "8192.0", "shm_mb": 64.0}, {"cpu": 3, "memory_mb": 8192, "shm_mb": 64}),
        (JOB, {"datasets": None, "models": ("m",)}, {"datasets": [], "models": ["m"]}),
        (JOB, {"datasets": [7]}, {"datasets": ["7"]}),
        *(
            (JOB, dict.fromkeys(names, none), dict.fromkeys(names))
            for none in (None, "None", "")
            for names in [["image", "accelerator", "job_name", "output_version", "code_path", "task_roles"]]
        ),
        (JOB, {"extra_body": "None", "shm_mb": "None", "models": "None"}, dict.fromkeys(["extra_body", "shm_mb"])),
        (JOB, {"task_roles": [{"cpu": "3"}]}, {"task_roles": [{"cpu": 3}]}),
        (SERVING, {"commands": "serve"}, {"commands": ["serve"]}),
        (SERVING, {"envs": None, "image": "None"}, {"envs": {}, "image": None}),
        (
            SERVING,
            {"envs": {"PORT": 8080, "DEBUG": True, "RATE": 0.5, "EMPTY": "", "WORD": "None"}},
            {"envs": {"PORT": "8080", "DEBUG": "True", "RATE": "0.5", "EMPTY": "", "WORD": "None"}},
        ),
        (INVOKE, {"image_url": "None", "field": "", "json": "None"}, dict.fromkeys(["image_url", "field", "json"])),
        (INVOKE, {"image_url": "u", "image_file": ("f", "g")}, {"image_url": ["u"], "image_file": ["f", "g"]}),
        (INVOKE, {"image_base64": "c2V2\nZW4="}, {"image_base64": ["c2V2ZW4="]}),
        (
            INVOKE,
            {"json": '{"x": [1]}', "expected_prediction": ("7",)},
            {"json": {"x": [1]}, "expected_prediction": ["7"]},
        ),
        (INVOKE, {"json": {"x": (1,)}, "expected_prediction": ""}, {"json": {"x": [1]}, "expected_prediction": None}),
    ],
)
def test_argument_is_read_as_what_it_means(
    kind: type[BaseOperator], given: dict[str, Any], read: dict[str, Any]
) -> None:
    for operator in (rendered(kind, **given), make(kind, **given)):
        for _ in range(2):  # a resumed task may read them twice
            operator.read_arguments()
            assert {name: getattr(operator, name) for name in read} == read


@pytest.mark.parametrize("name", ["two words", "a+b", "me@home", "sub/folder"])
def test_name_that_cannot_be_mounted_by_name_is_refused_with_a_form_that_works(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be part of a path") as caught:
        make(JOB, datasets=[name])
    form = str(caught.value).rpartition("give the folder itself: ")[2].rstrip(".")
    folder: dict[str, str] = literal_eval(form)
    assert folder["path"] == f"/datasets/{{user_id}}/{name}"
    make(JOB, datasets=[folder])
    with pytest.raises(ConfigurationError, match="cannot be part of a path") as caught:
        make(SERVING, model=name)
    path: str = literal_eval(str(caught.value).rpartition("give its path: ")[2].rstrip("."))
    make(SERVING, model=path)
    make(BitaHubInferOperator, model=path)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (SERVING, {"envs": SECRET}),
        (SERVING, {"envs": {"A": [SECRET]}}),
        (SERVING, {"envs": [SECRET]}),
        (SERVING, {"secret_envs": SECRET}),
        (SERVING, {"commands": [{"run": SECRET}]}),
        (JOB, {"command": [SECRET]}),
        (JOB, {"task_roles": SECRET}),
        (JOB, {"task_roles": [SECRET]}),
        (JOB, {"task_roles": [{"command": [SECRET]}]}),
        (JOB, {"extra_body": SECRET}),
        (JOB, {"extra_body": {"x": SECRET.encode()}}),
        (INVOKE, {"json": SECRET}),
        (INVOKE, {"json": {"x": SECRET.encode()}}),
    ],
)
def test_error_shows_no_value_that_may_be_secret(kind: type[BaseOperator], given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(kind, **given)
    assert SECRET not in str(caught.value)


def test_fields_of_a_task_role_are_those_that_are_sent() -> None:
    assert set(arguments._ROLE_CHECKS) == set(TaskRole.model_fields)


def test_every_argument_is_checked() -> None:
    """An argument of our own that has no check could raise a bare TypeError in the middle of a run."""
    free = {"multiple_outputs", "retry_policy", "self", "kwargs"}
    for kind in NEEDED:
        checked = {*kind.argument_checks, *(model._NOT_TAKEN if kind is BitaHubSaveModelOperator else ())}  # type: ignore[attr-defined]
        for ours in (each for each in kind.__mro__ if each.__module__.startswith("airflow_bitahub")):
            if "__init__" in vars(ours):
                names = set(ours.__init__.__wrapped__.__annotations__) - {"return"}  # type: ignore[misc]
                assert names - free <= checked, kind

"""Deploying a model as a service that answers, and asking it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from airflow.sdk import Variable
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_bitahub.api.servings import (
    delete_serving,
    stop_serving,
)
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.exceptions import (
    BitaHubError,
    ServingFailedError,
    ServingTimeoutError,
    TransportError,
)
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.triggers.events import serving_subject
from airflow_bitahub.triggers.serving import BitaHubServingTrigger
from tests.conftest import IMAGE, Asked, Gateway, TaskRun, WorkerDied, events_of, restored, until
from tests.operators.served_program import START, ask, foreign_serving, model_path, no_serving_ready, put_models

_numbers = count(1)


@pytest.fixture(scope="module", autouse=True)
def _models(platform: Emulator) -> None:
    put_models(platform)


@pytest.fixture
def name(client: BitaHubClient) -> Iterator[str]:
    """A serving's name of the test's own; the serving is gone afterwards."""
    name = f"serving-{next(_numbers)}"
    yield name
    with suppress(BitaHubError):
        client.send(delete_serving(name))


@pytest.fixture
def record(platform: Emulator, name: str) -> Callable[[], StoredServing]:
    """What the platform has of that serving."""
    return lambda: platform.state.serving(ServingKey("inference", name, "v1"))


def deploy(name: str, **arguments: Any) -> BitaHubDeployServingOperator:
    return BitaHubDeployServingOperator(
        **{
            "task_id": "task",
            "serving_name": name,
            "model": model_path("v1"),
            "commands": START,
            "poll_interval": 0.05,
            "launch_timeout": 30,
            "retries": 2,
            **arguments,
        }
    )


def defer(operator: BitaHubDeployServingOperator, run: TaskRun) -> BitaHubServingTrigger:
    with pytest.raises(TaskDeferred) as deferred, no_serving_ready():
        operator.execute(run.context())
    assert deferred.value.method_name == "execute_complete"
    trigger = deferred.value.trigger
    assert isinstance(trigger, BitaHubServingTrigger)
    assert not deferred.value.kwargs, "dag.test() would drop them"
    assert deferred.value.timeout is not None, "the scheduler's, for the case that there is no triggerer"
    assert deferred.value.timeout.total_seconds() > (trigger.deadline or 0) - time.time() + 60
    return trigger


NOT_THERE = 404, {"status": {"code": 404, "msg": "there is no such serving"}, "data": None}


# Deploying -----------------------------------------------------------------------------------------------------

deploying = pytest.mark.usefixtures("connection", "variables")


@deploying
def test_deployed_model_answers_when_the_task_is_done(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    result = deploy(name).execute(task_run.context())
    assert result == {
        "serving_name": name,
        "version": "v1",
        "status": "RUNNING",
        "url": record().url,
        "model_path": model_path("v1"),
    }
    assert ask(result["url"]) == "v1"
    assert task_run.xcoms["bitahub_serving_url"].endswith(f"/namespaces/inference/serving/{name}")


def test_every_entry_of_the_result_is_pushed_under_its_own_name_unless_told_otherwise() -> None:
    assert deploy("x").multiple_outputs is True
    assert deploy("x", multiple_outputs=False).multiple_outputs is False
    assert deploy("x").operator_extra_links == (BitaHubServingLink(),)


def test_nothing_that_airflow_keeps_holds_a_token(
    name: str, task_run: TaskRun, connection: dict[str, Any], variables: dict[str, str], platform: Emulator,
    record: Callable[[], StoredServing],
) -> None:  # fmt: skip
    trigger = defer(deploy(name, deferrable=True), task_run)
    [event] = events_of(trigger)
    result = deploy(name).execute_complete(task_run.context(), event)
    kept = json.dumps([result, event, trigger.serialize(), task_run.xcoms, task_run.store, variables])
    assert name in kept
    assert record().token not in kept
    assert connection["password"] == platform.token
    assert platform.token not in kept


@deploying
def test_placeholders_are_filled_in_and_numbers_may_be_text(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    deploy(
        name,
        model="/models/{user_id}/served/v1",
        envs={"MODEL_PATH": "/model/{user_name}/served", "WORKERS": 2},
        secret_envs={"LICENCE": "hush-hush"},
        commands=["echo {user_id}", START],
        port="8080",
        cpu="1",
        memory_mb="512",
        replicas="1",
    ).execute(task_run.context())
    spec = record().spec
    assert (spec.model.path, spec.model.mount_path) == (model_path("v1"), f"/model/{FOLDERS.user_name}/served")
    served = {"MODEL_PATH": f"/model/{FOLDERS.user_name}/served", "WORKERS": "2"}
    assert spec.envs == {**served, "LICENCE": "hush-hush"}
    assert spec.commands == [f"echo {FOLDERS.user_id}", START.replace("{user_name}", FOLDERS.user_name)]
    assert (spec.protocols[0].port, spec.resource.cpu, spec.resource.memory_mb) == (8080, 1, 512)
    assert (spec.image, spec.resource.acc_device) == (IMAGE, None)


@deploying
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"port": 0}, "port must be a whole number"),
        ({"model": "a b"}, "model 'a b' cannot be part of a path"),
        ({"model": "never-saved"}, "model .*never-saved' does not exist"),
    ],
)
def test_wrong_argument_fails_at_once_and_creates_nothing(
    arguments: dict[str, Any], says: str, name: str, task_run: TaskRun, platform: Emulator
) -> None:
    before = len(platform.state.servings())
    operator = deploy(name)
    for argument, value in arguments.items():  # as templates may render them
        setattr(operator, argument, value)
    with pytest.raises(AirflowFailException, match=says):
        operator.execute(task_run.context())
    assert len(platform.state.servings()) == before


@deploying
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_same_specification_again_leaves_the_serving_untouched(
    if_exists: str, name: str, record: Callable[[], StoredServing]
) -> None:
    first = deploy(name).execute(TaskRun().context())
    untouched = record()
    assert deploy(name, if_exists=if_exists).execute(TaskRun().context()) == first
    assert record() == untouched


@deploying
def test_another_model_replaces_our_serving(name: str, record: Callable[[], StoredServing]) -> None:
    deploy(name).execute(TaskRun().context())
    old = record()
    result = deploy(name, model=model_path("v2")).execute(TaskRun().context())
    assert ask(result["url"]) == "v2"
    assert result["model_path"] == model_path("v2")
    assert record().created > old.created


@deploying
def test_another_model_is_refused_where_that_is_wished_for(name: str, record: Callable[[], StoredServing]) -> None:
    deploy(name).execute(TaskRun().context())
    untouched = record()
    with pytest.raises(AirflowFailException, match="another specification, and if_exists='fail'"):
        deploy(name, model=model_path("v2"), if_exists="fail").execute(TaskRun().context())
    assert record() == untouched


@deploying
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_somebody_elses_serving_is_refused_and_left_alone(
    if_exists: str, name: str, client: BitaHubClient, record: Callable[[], StoredServing]
) -> None:
    foreign_serving(client, name)
    until(lambda: record().status.value, lambda status: status == "RUNNING")
    untouched = record()
    for model in ("v1", "v2"):
        with pytest.raises(AirflowFailException, match="this Airflow did not create"):
            deploy(name, model=model_path(model), if_exists=if_exists).execute(TaskRun().context())
    assert record() == untouched


@deploying
def test_serving_that_somebody_made_anew_under_our_name_is_somebody_elses(
    name: str, client: BitaHubClient, record: Callable[[], StoredServing]
) -> None:
    deploy(name).execute(TaskRun().context())
    client.send(delete_serving(name))
    foreign_serving(client, name)
    with pytest.raises(AirflowFailException, match="this Airflow did not create"):
        deploy(name).execute(TaskRun().context())
    assert not record().status.is_terminal


@deploying
def test_serving_that_somebody_stopped_is_made_anew(
    name: str, client: BitaHubClient, record: Callable[[], StoredServing]
) -> None:
    deploy(name).execute(TaskRun().context())
    old = record()
    client.send(stop_serving(name))
    until(lambda: record().status.value, lambda status: status == "STOPPED")
    deploy(name).execute(TaskRun().context())
    assert record().created > old.created


@pytest.mark.usefixtures("connection", "shown_at_once")
@pytest.mark.parametrize("dies_at", [1, 2])
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_worker_killed_around_the_creation_leaves_one_serving(
    dies_at: int, if_exists: str, name: str, task_run: TaskRun, variables: dict[str, str], platform: Emulator,
    monkeypatch: pytest.MonkeyPatch, record: Callable[[], StoredServing],
) -> None:  # fmt: skip
    die_at_record(monkeypatch, dies_at)
    with pytest.raises(WorkerDied):
        deploy(name, if_exists=if_exists).execute(task_run.context())
    [_] = variables.values()
    created = [found.created for found in platform.state.servings() if found.key.name == name]
    assert len(created) == dies_at - 1
    task_run.retry()
    result = deploy(name, if_exists=if_exists).execute(task_run.context())
    assert ask(result["url"]) == "v1"
    assert created in ([], [record().created]), "what was created is adopted"


@pytest.mark.usefixtures("connection", "shown_at_once")
@pytest.mark.parametrize("dies_at", [1, 2])
def test_worker_killed_around_a_replacement_leaves_the_new_model(
    dies_at: int, name: str, task_run: TaskRun, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(name).execute(TaskRun().context())
    with monkeypatch.context() as patch:
        die_at_record(patch, dies_at)
        with pytest.raises(WorkerDied):
            deploy(name, model=model_path("v2")).execute(task_run.context())
    assert len(variables) == 1
    task_run.retry()
    result = deploy(name, model=model_path("v2")).execute(task_run.context())
    assert ask(result["url"]) == "v2"


def die_at_record(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Let the worker be killed just after its first note is stored, or just before its second one is."""
    store, calls = Variable.set, count(1)

    def set_(*args: Any, **kwargs: Any) -> None:
        call = next(calls)
        if call == nth == 2:
            raise WorkerDied
        store(*args, **kwargs)
        if call == nth:
            raise WorkerDied

    monkeypatch.setattr(Variable, "set", staticmethod(set_))


@deploying
def test_program_that_ends_fails_the_task_clearly_and_a_retry_makes_the_serving_anew(
    name: str, task_run: TaskRun, platform: Emulator, record: Callable[[], StoredServing]
) -> None:
    mended = platform.storage / model_path("v1").lstrip("/") / f"mended-{name}"
    commands = f"[ -e /model/{{user_name}}/served/mended-{name} ] || exit 3; {START}"
    with pytest.raises(ServingFailedError, match=f"serving '{name}' is FAILED.* Its log on the platform shows why"):
        deploy(name, commands=commands).execute(task_run.context())
    old = record()
    mended.touch()
    task_run.retry()
    assert deploy(name, commands=commands).execute(task_run.context())["status"] == "RUNNING"
    assert record().created > old.created


@deploying
@pytest.mark.parametrize("launch_timeout", [timedelta(seconds=0.5), 0.5], ids=["timedelta", "seconds"])
def test_serving_that_is_never_ready_is_stopped(
    launch_timeout: timedelta | float, name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    told = r"was not ready in time .*answering at '/sick'.* limit is launch_timeout=0:00:00.50* from .*was stopped"
    with pytest.raises(ServingTimeoutError, match=told):
        deploy(name, readiness_path="/sick", launch_timeout=launch_timeout).execute(task_run.context())
    until(lambda: record().status.value, lambda status: status == "STOPPED")


@deploying
def test_execution_timeout_stops_the_serving(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing], time_runs_out: Callable[..., object]
) -> None:
    context = task_run.context()
    context["ti"].xcom_push = time_runs_out  # which is called between creating and waiting
    with pytest.raises(ServingTimeoutError, match=r"execution_timeout=0:00:20 from the start of the try"):
        deploy(name, readiness_path="/sick", execution_timeout=timedelta(seconds=20)).execute(context)
    until(lambda: record().status.value, lambda status: status == "STOPPED")


@pytest.mark.usefixtures("variables")
def test_execution_timeout_before_it_is_known_whose_the_serving_is_stops_nothing(
    name: str, task_run: TaskRun, gateway: Gateway, time_runs_out: Callable[..., object]
) -> None:
    def answer(_: Asked) -> tuple[int, Any]:
        time_runs_out()
        return 503, {}

    gateway.answer = answer
    with pytest.raises(ServingTimeoutError):
        deploy(name).execute(task_run.context())
    assert {asked.method for asked in gateway.asked} == {"GET"}


# Deploying, deferred -------------------------------------------------------------------------------------------


@deploying
def test_deferred_deployment_gives_the_same_result(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    context = task_run.context()
    with pytest.raises(TaskDeferred) as deferred, no_serving_ready():
        deploy(name, deferrable=True, launch_timeout=20, readiness_path="/health", cancel_on_kill=False).execute(
            context
        )
    trigger = deferred.value.trigger
    _, arguments = trigger.serialize()
    assert arguments["created_at"] == record().created / 1000
    assert arguments["deadline"] == context["ti"].start_date.timestamp() + 20
    assert (arguments["readiness_path"], arguments["cancel_on_kill"]) == ("/health", False)
    [event] = events_of(restored(trigger))
    result = deploy(name).execute_complete(task_run.context(), json.loads(json.dumps(event)))
    assert (result["serving_name"], result["status"], result["url"]) == (name, "RUNNING", record().url)
    assert result["model_path"] == model_path("v1")


@deploying
def test_deferred_program_that_ends_fails_the_task(name: str, task_run: TaskRun, platform: Emulator) -> None:
    lets_go = platform.storage / model_path("v1").lstrip("/") / f"lets-{name}-go"
    commands = f"until [ -e /model/{{user_name}}/served/{lets_go.name} ]; do sleep 0.02; done; exit 3"
    trigger = defer(deploy(name, commands=commands, deferrable=True), task_run)
    lets_go.touch()
    [event] = events_of(trigger)
    with pytest.raises(ServingFailedError, match=f"serving '{name}' is FAILED"):
        deploy(name).execute_complete(task_run.context(), event)


@deploying
def test_deferred_serving_that_is_never_ready_is_stopped(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    limits: dict[str, Any] = {"launch_timeout": timedelta(seconds=0.5), "execution_timeout": timedelta(hours=1)}
    operator = deploy(name, readiness_path="/sick", deferrable=True, **limits)
    [event] = events_of(defer(operator, task_run))
    assert event["outcome"] == "timeout"
    with pytest.raises(ServingTimeoutError, match=r"was not ready in time .*launch_timeout=0:00:00.50*"):
        deploy(name, **limits).execute_complete(task_run.context(), event)
    until(lambda: record().status.value, lambda status: status == "STOPPED")


@deploying
def test_last_try_that_fails_early_stops_what_an_earlier_one_has_created(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    defer(deploy(name, readiness_path="/sick", deferrable=True), task_run)
    task_run.retry()
    task_run.retry()
    operator = deploy(name)
    operator.replicas = 0  # as a template may render it
    with pytest.raises(AirflowFailException, match="replicas must be a whole number"):
        operator.execute(task_run.context())
    until(lambda: record().status.value, lambda status: status == "STOPPED")


@deploying
def test_report_about_an_earlier_serving_of_the_same_name_is_not_taken_for_ones_own(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    stale = {
        "outcome": "ready",
        "serving": {"name": name, "status": "RUNNING", "url": "http://127.0.0.1:1", "created_at": 1.0},
        "subject": serving_subject(name, "v1", 1.0),
    }
    defer(deploy(name, deferrable=True), task_run)
    result = deploy(name).execute_complete(task_run.context(), stale)  # type: ignore[arg-type]
    assert result["url"] == record().url


@deploying
def test_execution_timeout_counts_while_the_task_is_deferred(name: str, task_run: TaskRun) -> None:
    context = task_run.context()
    limits: dict[str, Any] = {"launch_timeout": 30, "execution_timeout": timedelta(seconds=10)}
    with pytest.raises(TaskDeferred) as deferred:
        deploy(name, readiness_path="/sick", deferrable=True, **limits).execute(context)
    trigger: Any = deferred.value.trigger
    assert trigger.deadline == context["ti"].start_date.timestamp() + 10


@deploying
@pytest.mark.parametrize(
    ("reason", "is_last", "kind"),
    [
        (TriggerFailureReason.TRIGGER_TIMEOUT, False, ServingTimeoutError),
        (TriggerFailureReason.TRIGGER_FAILURE, False, TransportError),
        (TriggerFailureReason.TRIGGER_FAILURE, True, TransportError),
    ],
)
def test_trigger_that_fails_is_trouble_like_any_other(
    reason: TriggerFailureReason, is_last: bool, kind: type[Exception], name: str, record: Callable[[], StoredServing]
) -> None:
    run = TaskRun(try_number=3 if is_last else 1)
    defer(deploy(name, readiness_path="/sick", deferrable=True), run)
    with pytest.raises(kind):
        deploy(name).resume_execution(TRIGGER_FAIL_REPR, {"error": reason}, run.context())
    if kind is ServingTimeoutError:
        until(lambda: record().status.value, lambda status: status == "STOPPED")
    else:
        assert record().status.value == "RUNNING"


@deploying
@pytest.mark.parametrize("deferrable", [False, True])
def test_serving_that_starts_is_not_given_up_for_odd_answers(
    deferrable: bool, name: str, task_run: TaskRun, record: Callable[[], StoredServing], platform: Emulator
) -> None:
    odd = [
        Answer(status=403, body={"status": {"code": 403, "msg": "odd"}}),
        Answer(status=403, body="x"),
        Answer(status=401),
        Answer(body={"status": {"code": 4711, "msg": "odd"}}),
    ]
    # The first query finds no serving, and the next one shows the new one.
    skip = 2
    armed = []
    if deferrable:
        trigger = defer(deploy(name, deferrable=True), task_run)
        skip = 0
    for answer in odd:
        match = Match(method="GET", path=f"*/serving/{name}", skip=skip, times=1)
        armed.append(platform.faults.add(Fault(match=match, effect=Effect(before=answer))))
    if deferrable:
        [event] = events_of(trigger)
        assert deploy(name).execute_complete(task_run.context(), event)
    else:
        assert deploy(name).execute(task_run.context())
    assert [fault.applied for fault in armed] == [1, 1, 1, 1]
    assert record().status.value == "RUNNING"


@deploying
@pytest.mark.parametrize("deferrable", [False, True])
def test_serving_that_was_there_before_is_not_stopped_when_it_is_not_ready_in_time(
    deferrable: bool, name: str, record: Callable[[], StoredServing]
) -> None:
    sick = {"readiness_path": "/sick", "launch_timeout": 0.5}
    deploy(name).execute(TaskRun().context())
    run = TaskRun(try_number=3)  # the last one
    if deferrable:
        [event] = events_of(defer(deploy(name, deferrable=True, **sick), run))
        with pytest.raises(ServingTimeoutError):
            deploy(name).execute_complete(run.context(), event)
    else:
        with pytest.raises(ServingTimeoutError):
            deploy(name, **sick).execute(run.context())
    assert record().status.value == "RUNNING"


@deploying
@pytest.mark.parametrize("deferrable", [False, True])
def test_serving_that_took_the_place_of_ours_is_not_stopped(
    deferrable: bool, name: str, record: Callable[[], StoredServing], task_state: Callable[[str | None], None]
) -> None:
    run = TaskRun(try_number=3)
    operator = deploy(name, readiness_path="/sick", deferrable=True)
    trigger = defer(operator, run)
    deploy(name, model=model_path("v2")).execute(TaskRun().context())
    if deferrable:
        [event] = events_of(trigger)
        with pytest.raises(ServingFailedError, match="was replaced by another deployment while it started"):
            deploy(name).execute_complete(run.context(), event)
    else:
        task_state("failed")
        operator.on_kill()
    assert record().status.value == "RUNNING"
    assert ask(record().url) == "v2"


@deploying
def test_serving_an_earlier_try_created_is_stopped_when_it_never_gets_ready(
    name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    defer(deploy(name, readiness_path="/sick", deferrable=True), task_run)
    created = record().created
    task_run.retry()  # whose worker, or triggerer, died while it waited
    with pytest.raises(ServingTimeoutError):
        deploy(name, readiness_path="/sick", launch_timeout=0.5).execute(task_run.context())
    until(lambda: record().status.value, lambda status: status == "STOPPED")
    assert record().created == created


@deploying
def test_ready_serving_is_known_again_although_another_task_has_spoilt_the_note(
    name: str, task_run: TaskRun, variables: dict[str, str], record: Callable[[], StoredServing]
) -> None:
    [event] = events_of(defer(deploy(name, deferrable=True), task_run))
    [key] = variables
    variables[key] = json.dumps({"digest": ""})
    deploy(name).execute_complete(task_run.context(), event)
    created = record().created
    deploy(name).execute(TaskRun().context())
    assert record().created == created


@deploying
def test_serving_that_answers_already_is_not_deferred_for(name: str) -> None:
    first = deploy(name).execute(TaskRun().context())
    assert deploy(name, deferrable=True).execute(TaskRun().context()) == first


@deploying
@pytest.mark.parametrize("event", [{"outcome": "error", "message": "no route"}, None])
def test_trouble_while_waiting_leaves_the_serving_to_the_next_try(
    event: Any, name: str, task_run: TaskRun, record: Callable[[], StoredServing]
) -> None:
    defer(deploy(name, deferrable=True), task_run)
    created = record().created
    with pytest.raises(TransportError, match=f"The state of serving '{name}'"):
        deploy(name).execute_complete(task_run.context(), event)
    task_run.retry()
    deploy(name).execute(task_run.context())
    assert record().created == created


@deploying
@pytest.mark.parametrize("state", ["failed", "restarting", None])
def test_killed_deployment_that_airflow_no_longer_wants_stops_its_serving(
    state: str | None, name: str, task_run: TaskRun, record: Callable[[], StoredServing],
    task_state: Callable[[str | None], None],
) -> None:  # fmt: skip
    operator = deploy(name, deferrable=True)
    defer(operator, task_run)
    task_state(state)
    operator.on_kill()
    until(lambda: record().status.value, lambda status: status == "STOPPED")


@deploying
@pytest.mark.parametrize(
    ("state", "cancel_on_kill"), [("running", True), ("up_for_retry", True), ("no answer", True), ("failed", False)]
)
def test_killed_deployment_leaves_its_serving_where_it_is_still_wanted(
    state: str, cancel_on_kill: bool, name: str, task_run: TaskRun, record: Callable[[], StoredServing],
    task_state: Callable[[str | None], None],
) -> None:  # fmt: skip
    operator = deploy(name, deferrable=True, cancel_on_kill=cancel_on_kill)
    defer(operator, task_run)
    if state != "no answer":
        task_state(state)
    operator.on_kill()
    assert record().status.value in ("WAITING", "RUNNING")


@pytest.mark.usefixtures("variables")
def test_deployment_killed_while_it_creates_stops_what_it_created_and_starts_nothing_new(
    name: str, task_run: TaskRun, gateway: Gateway, task_state: Callable[[str | None], None]
) -> None:
    task_state("failed")
    operator = deploy(name)
    created: list[float] = []

    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.method == "POST":
            created.append(time.time())
            operator.on_kill()
            return 503, {}
        status = "STOPPING" if any(earlier.method == "PUT" for earlier in gateway.asked) else "WAITING"
        serving = {"name": name, "status": status, "createdTime": int(created[0] * 1000)} if created else None
        return (200, {"status": {"code": 0}, "data": serving}) if serving else NOT_THERE

    gateway.answer = answer
    with pytest.raises(AirflowFailException, match="starts nothing new"):
        operator.execute(task_run.context())
    assert [asked.method for asked in gateway.asked if asked.method != "GET"] == ["POST", "PUT"]


@deploying
def test_killed_deployment_that_was_refused_leaves_somebody_elses_serving_alone(
    name: str, client: BitaHubClient, task_run: TaskRun, record: Callable[[], StoredServing],
    task_state: Callable[[str | None], None],
) -> None:  # fmt: skip
    foreign_serving(client, name)
    operator = deploy(name)
    with pytest.raises(AirflowFailException):
        operator.execute(task_run.context())
    task_state("failed")
    operator.on_kill()
    assert record().status.value in ("WAITING", "RUNNING")

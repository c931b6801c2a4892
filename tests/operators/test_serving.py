"""Deploying a model as a service that answers, without losing the one that works."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from airflow.sdk import Variable
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout, TaskDeferred

from airflow_bitahub.api.servings import delete_serving, stop_serving
from airflow_bitahub.assets import BitaHubServing
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import (
    ServingError,
    ServingFailedError,
    ServingTimeoutError,
    StateUnknownError,
    TransportError,
)
from airflow_bitahub.links import BitaHubModelLink, BitaHubServingLink
from airflow_bitahub.operators.records import DEPLOYMENT_FACTS
from airflow_bitahub.procedures.deployments import candidate_name
from tests.conftest import IMAGE, TASK_URL, Asked, Gateway, TaskRun, WorkerDied, events_of, restored, until
from tests.operators.rollouts import Service, defer, deploy, finish, new_service, quick, trigger_of
from tests.operators.served_program import START, ask, foreign_serving, model_path, no_serving_ready, put_models

NOT_THERE = 404, {"status": {"code": 404, "msg": "there is no such serving"}, "data": None}
PICTURE = "iVBORw0KGgo="
RIGHT = {"image_base64": PICTURE, "expected": 7}
WRONG = {"image_base64": PICTURE, "expected": 3}
deploying = pytest.mark.usefixtures("connection", "variables", "shown_at_once", "quick")

__all__ = ["quick"]


@pytest.fixture(scope="module", autouse=True)
def _models(shared_platform: Emulator) -> None:
    put_models(shared_platform)


@pytest.fixture
def service(platform: Emulator, client: BitaHubClient) -> Iterator[Service]:
    with new_service(platform, client) as service:
        yield service


@pytest.fixture
def served(service: Service, request: pytest.FixtureRequest) -> Service:
    """The name, under which the first model serves."""
    for fixture in ("connection", "variables", "shown_at_once", "quick"):
        request.getfixturevalue(fixture)
    deploy(service).execute(TaskRun().context())
    return service


# One version after the other ---------------------------------------------------------------------------------------


@deploying
def test_deployed_model_answers_when_the_task_is_done(service: Service, task_run: TaskRun, platform: Emulator) -> None:
    operator, context = deploy(service, checks=[RIGHT]), task_run.context()
    result = operator.execute(context)
    assert result == {
        "serving_name": service.name,
        "version": "v1",
        "status": "RUNNING",
        "url": service.record.url,
        "model_path": model_path("v1"),
        "previous": None,
        "away_seconds": 0.0,
    }
    assert ask(result["url"]) == "v1"
    assert task_run.xcoms[DEPLOYMENT_FACTS]["outcome"] == "deployed"
    assert task_run.xcoms["bitahub_serving_url"].endswith(f"/console/servings/inference/{service.name}")
    assert task_run.xcoms["bitahub_model_url"].endswith(f"/console/models#{model_path('v1').rpartition('/')[0]}")
    asset = BitaHubServing(service.name).asset
    assert operator.outlets == [asset]
    run = {"dag_id": "tests", "task_id": "task", "run_id": task_run.run_id, "map_index": -1}
    told = {"serving": service.name, "run": run, **{key: result[key] for key in ("url", "version", "model_path")}}
    uri = context["outlet_events"][asset].extra.pop("uri")
    assert context["outlet_events"][asset].extra == {**told, "previous": None}
    assert uri == f"bitahub://{platform.url.partition('://')[2]}/servings/{service.name}"


def test_every_entry_of_the_result_is_pushed_under_its_own_name_unless_told_otherwise(service: Service) -> None:
    assert deploy(service).multiple_outputs is True
    assert deploy(service, multiple_outputs=False).multiple_outputs is False
    assert deploy(service).operator_extra_links == (BitaHubServingLink(), BitaHubModelLink())


@pytest.mark.parametrize("strategy", ["candidate", "in_place", "recreate"])
def test_better_model_takes_over_and_the_log_tells_how(
    strategy: str, served: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    old = served.record
    operator = deploy(served, "v2", strategy=strategy, checks=[RIGHT], bake_seconds=0.2)
    context = TaskRun().context()
    context["ti"].log_url = f"{TASK_URL}-2?try_number=1"
    since = time.time()
    result = operator.execute(context)
    log = capsys.readouterr().out
    tried = "beside it, as" if strategy == "candidate" else "Replacing it by"
    places = [log.index(text) for text in (") serves. ", tried, "-> 7", "no version answered for")]
    assert places == sorted(places), log
    store = context["task_state_store"]
    steps = dict(store["bitahub_rollout"]["steps"])
    tries = ["candidate", "check"] if strategy == "candidate" else []
    assert list(steps) == [*tries, "switch", "verify", "tidy"]
    times = [since, *steps.values(), store["bitahub_rollout"]["ended_at"], time.time()]
    assert times == sorted(times)
    served.until_serves("v2")
    assert (old.task_url, served.record.task_url) == (TASK_URL, f"{TASK_URL}-2")
    assert (result["model_path"], result["previous"]) == (model_path("v2"), model_path("v1"))
    if strategy == "recreate":
        assert result["away_seconds"] > 0
        assert served.record.created > old.created
    else:  # the emulator's connection has the entry update_serving
        assert result["away_seconds"] == 0
        assert (served.record.created, served.record.url) == (old.created, old.url)


@deploying
def test_platform_without_updates_in_place_gets_a_new_serving(
    service: Service, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection["extra"].pop("endpoints")
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    deploy(service).execute(TaskRun().context())
    created = service.record.created
    result = deploy(service, "v2").execute(TaskRun().context())
    service.until_serves("v2")
    assert service.record.created > created
    assert result["away_seconds"] > 0
    with pytest.raises(AirflowFailException, match="needs the entry 'update_serving'"):
        deploy(service, strategy="in_place").execute(TaskRun().context())


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"checks": [WRONG]}, AirflowFailException, "-> 7 .*3 was expected"),
        ({"commands": "echo loading the model; exit 3"}, ServingFailedError, "is FAILED"),
        ({"model": "never-saved", "preflight": False}, AirflowFailException, "never-saved' does not exist"),
        ({"readiness_path": "/sick", "launch_timeout": 0.5}, ServingFailedError, "was not ready in time"),
    ],
)
def test_version_that_fails_as_a_candidate_leaves_the_old_one_untouched(
    arguments: dict[str, Any], kind: type[Exception], says: str, served: Service, task_run: TaskRun
) -> None:
    untouched = served.record
    with pytest.raises(kind, match=says) as caught:
        deploy(served, "v2", **{"commands": ["echo loading the model", START], **arguments}).execute(task_run.context())
    assert served.record == untouched
    served.until_serves("v1")
    if "model" not in arguments:  # which the platform refuses
        assert task_run.xcoms[DEPLOYMENT_FACTS]["outcome"] == "rejected"
        for text in (model_path("v2"), f"({model_path('v1')}) was not touched", "loading the model"):
            assert text in str(caught.value)


@pytest.mark.parametrize("strategy", ["in_place", "recreate"])
@pytest.mark.parametrize(
    "arguments", [{"checks": [WRONG]}, {"commands": "echo dear me; exit 3"}], ids=["wrong", "ends"]
)
def test_version_that_fails_under_the_public_name_gives_it_back(
    arguments: dict[str, Any], strategy: str, served: Service, task_run: TaskRun
) -> None:
    with pytest.raises((ServingFailedError, AirflowFailException), match="serves again; no version answered") as caught:
        deploy(served, "v2", strategy=strategy, **arguments).execute(task_run.context())
    assert task_run.xcoms[DEPLOYMENT_FACTS]["outcome"] == "restored"
    served.until_serves("v1")
    assert model_path("v2") in str(caught.value)
    assert "commands" not in arguments or "dear me" in str(caught.value)
    assert deploy(served).execute(TaskRun().context())["previous"] is None, "the old one is on record"


@deploying
def test_first_version_that_fails_is_removed(service: Service, task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match=r"It was removed\. Nothing serves under this name"):
        deploy(service, checks=[WRONG]).execute(task_run.context())
    assert task_run.xcoms[DEPLOYMENT_FACTS]["outcome"] == "failed"
    assert not service.names
    assert deploy(service, checks=[RIGHT]).execute(TaskRun().context())["previous"] is None


@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_same_specification_again_leaves_the_serving_untouched(if_exists: str, served: Service) -> None:
    untouched = served.record
    result = deploy(served, if_exists=if_exists, deferrable=True, checks=[RIGHT]).execute(TaskRun().context())
    assert (result["url"], result["previous"], result["away_seconds"]) == (untouched.url, None, 0)
    assert served.record == untouched


def test_another_model_is_refused_where_that_is_wished_for(served: Service) -> None:
    untouched = served.record
    with pytest.raises(AirflowFailException, match="another specification, and if_exists='fail'"):
        deploy(served, "v2", if_exists="fail").execute(TaskRun().context())
    assert served.record == untouched


def test_older_run_is_skipped_unless_told_otherwise(served: Service) -> None:
    def older() -> Any:
        context = TaskRun(try_number=3).context()
        context["dag_run"].run_after -= timedelta(days=1)
        return context

    with pytest.raises(AirflowSkipException, match="a newer run, so it is not replaced"):
        deploy(served, "v2").execute(older())
    served.until_serves("v1")
    deploy(served, "v2", only_newer=False).execute(older())
    served.until_serves("v2")


# Arguments and secrets -----------------------------------------------------------------------------------------------


@deploying
def test_placeholders_are_filled_in_and_numbers_may_be_text(service: Service, task_run: TaskRun) -> None:
    deploy(
        service,
        model="/models/{user_id}/served/v1",
        envs={"MODEL_PATH": "/model/{user_name}/served", "WORKERS": 2},
        secret_envs={"LICENCE": "hush-hush"},
        commands=["echo {user_id}", START],
        port="8080",
        cpu="1",
        memory_mb="512",
        replicas="1",
    ).execute(task_run.context())
    spec = service.record.spec
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
        ({"model": "never-saved", "preflight": False}, "model .*never-saved' does not exist"),
        ({"metrics": {"accuracy": {0.9}}}, "metrics cannot be stored as JSON"),
    ],
)
def test_wrong_argument_fails_at_once_and_creates_nothing(
    arguments: dict[str, Any], says: str, service: Service, task_run: TaskRun
) -> None:
    operator = deploy(service)
    for argument, value in arguments.items():  # as templates may render them
        setattr(operator, argument, value)
    with pytest.raises(AirflowFailException, match=says):
        operator.execute(task_run.context())
    assert not service.names


def test_nothing_that_airflow_keeps_holds_a_secret(
    served: Service, task_run: TaskRun, connection: dict[str, Any], variables: dict[str, str], platform: Emulator,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    secret = {"secret_envs": {"LICENCE": "hush-hush"}, "commands": f"echo; API_TOKEN=mum-mum; {START}"}
    operator = deploy(served, "v2", deferrable=True, **secret)
    trigger = defer(operator, task_run)
    [event] = events_of(trigger)
    during = dict(variables)
    result = finish(operator, task_run, trigger)
    log = capsys.readouterr().out
    kept = json.dumps([result, event, trigger.serialize(), task_run.xcoms, task_run.store, during, variables, log])
    assert served.name in kept
    for value in ("hush-hush", "mum-mum", served.record.token, platform.token):
        assert value not in kept
    assert connection["password"] == platform.token
    deploy(served, "v1").execute(TaskRun().context())
    assert "needs the secret values API_TOKEN, LICENCE, which this task does not know" in capsys.readouterr().out


@deploying
def test_metrics_are_kept_as_json_has_them(service: Service, variables: dict[str, str]) -> None:
    deploy(service, metrics={"loss": float("nan"), "recall": (0.5, 1)}).execute(TaskRun().context())
    [record] = [json.loads(value) for key, value in variables.items() if key.startswith("bitahub_serving.")]
    assert record["versions"][0]["metrics"]["recall"] == [0.5, 1]


# Servings of others ------------------------------------------------------------------------------------------------


@deploying
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_somebody_elses_serving_is_refused_and_left_alone(
    if_exists: str, service: Service, client: BitaHubClient, task_state: Callable[[str | None], None]
) -> None:
    foreign_serving(client, service.name)
    until(lambda: service.record.replicas, lambda replicas: all(replica.can_answer for replica in replicas))
    untouched = service.record
    operator = deploy(service, if_exists=if_exists)
    with pytest.raises(AirflowFailException, match="this Airflow did not create"):
        operator.execute(TaskRun().context())
    task_state("failed")
    operator.on_kill()
    assert service.record == untouched


def test_somebody_elses_serving_of_the_candidates_name_is_left_alone(served: Service, client: BitaHubClient) -> None:
    foreign_serving(client, candidate_name(served.name))
    with pytest.raises(AirflowFailException, match=f"named '{served.name}-next' .* so it is left alone"):
        deploy(served, "v2").execute(TaskRun().context())
    assert served.names == {served.name, candidate_name(served.name)}
    assert ask(served.record.url) == "v1"


def test_serving_that_somebody_made_anew_under_our_name_is_somebody_elses(
    served: Service, client: BitaHubClient
) -> None:
    client.send(delete_serving(served.name))
    until(lambda: served.names, lambda names: not names)
    foreign_serving(client, served.name)
    with pytest.raises(AirflowFailException, match="this Airflow did not create"):
        deploy(served).execute(TaskRun().context())
    assert not served.record.status.is_terminal


def test_serving_that_somebody_stopped_is_made_anew(served: Service, client: BitaHubClient) -> None:
    created = served.record.created
    client.send(stop_serving(served.name))
    until(lambda: served.record.status.value, lambda status: status == "STOPPED")
    deploy(served).execute(TaskRun().context())
    served.until_serves("v1")
    assert served.record.created > created


@deploying
@pytest.mark.parametrize("deferrable", [False, True])
def test_serving_that_took_the_place_of_ours_is_left_alone(
    deferrable: bool, service: Service, client: BitaHubClient, task_state: Callable[[str | None], None]
) -> None:
    run = TaskRun(try_number=3)
    operator = deploy(service, deferrable=True)
    trigger = defer(operator, run)
    client.send(delete_serving(service.name))
    until(lambda: service.names, lambda names: not names)
    foreign_serving(client, service.name)
    if deferrable:
        [event] = events_of(trigger)
        with pytest.raises(ServingError, match="was replaced by another deployment while it started"):
            deploy(service).execute_complete(run.context(), event)
    else:
        task_state("failed")
        operator.on_kill()
    assert not service.record.status.is_terminal


# Workers that are killed ---------------------------------------------------------------------------------------------


def die_at_record(monkeypatch: pytest.MonkeyPatch, nth: int, is_stored: bool) -> None:
    """Let the worker be killed when it stores something for the nth time: just before, or just after that."""
    store, calls = Variable.set, count(1)

    def set_(*args: Any, **kwargs: Any) -> None:
        call = next(calls)
        if call != nth or is_stored:
            store(*args, **kwargs)
        if call == nth:
            raise WorkerDied

    monkeypatch.setattr(Variable, "set", staticmethod(set_))


@deploying
@pytest.mark.parametrize(
    ("is_first", "is_stored"),
    [(True, True), *(pytest.param(*case, marks=pytest.mark.long) for case in ((True, False), (False, True)))],
)
def test_worker_may_be_killed_whenever_it_stores_something(
    is_first: bool, is_stored: bool, platform: Emulator, client: BitaHubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nth in count(1):
        with new_service(platform, client) as service:
            if not is_first:
                deploy(service).execute(TaskRun().context())
            run = TaskRun()
            with monkeypatch.context() as patch:
                die_at_record(patch, nth, is_stored)
                try:
                    deploy(service, "v2").execute(run.context())
                    break
                except WorkerDied:
                    assert is_first or ask(service.record.url) in ("v1", "v2")
            run.retry()
            deploy(service, "v2").execute(run.context())
            service.until_serves("v2")
    assert nth > 4


@deploying
def test_program_that_ends_fails_the_task_clearly_and_a_retry_makes_the_serving_anew(
    service: Service, task_run: TaskRun, platform: Emulator
) -> None:
    mended = platform.storage / model_path("v1").lstrip("/") / f"mended-{service.name}"
    commands = f"[ -e /model/{{user_name}}/served/mended-{service.name} ] || exit 3; {START}"
    with pytest.raises(ServingFailedError, match=f"serving '{service.name}' is FAILED"):
        deploy(service, commands=commands).execute(task_run.context())
    mended.touch()
    task_run.retry()
    assert deploy(service, commands=commands).execute(task_run.context())["status"] == "RUNNING"


@deploying
@pytest.mark.parametrize("is_first", [True, False])
def test_last_try_that_fails_early_ends_what_an_earlier_one_has_begun(
    is_first: bool, service: Service, task_run: TaskRun
) -> None:
    if not is_first:
        deploy(service).execute(TaskRun().context())
    defer(deploy(service, "v2", deferrable=True), task_run)
    task_run.retry()
    task_run.retry()
    operator = deploy(service)
    operator.replicas = 0  # as a template may render it
    with pytest.raises(AirflowFailException, match="replicas must be a whole number"):
        operator.execute(task_run.context())
    if is_first:
        assert not service.names
    else:
        service.until_serves("v1")


# Limits of time ------------------------------------------------------------------------------------------------------


@deploying
@pytest.mark.parametrize("launch_timeout", [timedelta(seconds=0.5), 0.5], ids=["timedelta", "seconds"])
def test_first_version_that_is_never_ready_is_removed(launch_timeout: timedelta | float, service: Service) -> None:
    with pytest.raises(ServingFailedError, match=r"was not ready in time .*answering at '/sick'(.|\n)*It was removed"):
        deploy(service, readiness_path="/sick", launch_timeout=launch_timeout).execute(TaskRun().context())
    assert not service.names


@pytest.mark.parametrize("strategy", ["candidate", "recreate"])
def test_execution_timeout_ends_the_deployment(
    strategy: str, served: Service, task_run: TaskRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(*_: object, **__: object) -> None:
        raise AirflowTaskTimeout

    with no_serving_ready():
        monkeypatch.setattr("airflow_bitahub.procedures.plan.wait_for_serving", strike)
        with pytest.raises(ServingTimeoutError, match="execution_timeout=0:00:20 from the start of the try"):
            deploy(served, "v2", strategy=strategy, execution_timeout=timedelta(seconds=20)).execute(task_run.context())
    served.until_serves("v1")


@pytest.mark.usefixtures("variables")
def test_execution_timeout_before_anything_is_known_changes_nothing(
    service: Service, task_run: TaskRun, gateway: Gateway, time_runs_out: Callable[..., object]
) -> None:
    def answer(_: Asked) -> tuple[int, Any]:
        time_runs_out()
        return 503, {}

    gateway.answer = answer
    with pytest.raises(ServingTimeoutError):
        deploy(service, execution_timeout=timedelta(seconds=20)).execute(task_run.context())
    assert {asked.method for asked in gateway.asked} == {"GET"}


@pytest.mark.parametrize("deferrable", [False, True])
def test_serving_that_was_there_before_is_kept_when_it_is_not_ready_in_time(deferrable: bool, served: Service) -> None:
    sick: dict[str, Any] = {"readiness_path": "/sick", "launch_timeout": 0.5, "deferrable": deferrable}
    run = TaskRun(try_number=3)  # the last one
    context = run.context()
    operator = deploy(served, **sick)
    with pytest.raises((ServingTimeoutError, TaskDeferred)) as caught:
        operator.execute(context)
    if deferrable:
        assert isinstance(caught.value, TaskDeferred)
        [event] = events_of(trigger_of(caught.value))
        with pytest.raises(ServingTimeoutError, match=r"launch_timeout=0:00:00.50*.* this task has changed nothing"):
            operator.execute_complete(context, event)
    served.until_serves("v1")


# Deferral ----------------------------------------------------------------------------------------------------------


def test_deferred_task_goes_on_from_step_to_step(served: Service, task_run: TaskRun) -> None:
    operator = deploy(
        served, "v2", deferrable=True, readiness_path="/health", cancel_on_kill=False, checks=[RIGHT], bake_seconds=0.5
    )
    trigger = restored(defer(operator, task_run))
    _, arguments = trigger.serialize()
    assert (arguments["serving_name"], arguments["deployed_name"]) == (candidate_name(served.name), served.name)
    assert (arguments["readiness_path"], arguments["cancel_on_kill"]) == ("/health", False)
    result = finish(operator, task_run, trigger)
    served.until_serves("v2")
    assert (result["model_path"], result["previous"]) == (model_path("v2"), model_path("v1"))


@deploying
def test_serving_that_is_ready_soon_is_not_deferred_for(served: Service, task_run: TaskRun) -> None:
    operator = deploy(served, "v2", deferrable=True, defer_after=60, checks=[RIGHT], bake_seconds=0.5)
    assert operator.execute(task_run.context())["model_path"] == model_path("v2")
    with pytest.raises(TaskDeferred):
        deploy(served, "v1", deferrable=True, defer_after=60, bake_seconds=3600).execute(TaskRun().context())


@pytest.mark.parametrize("is_first", [True, False])
@deploying
def test_deferred_program_that_ends_fails_the_task(is_first: bool, service: Service, task_run: TaskRun) -> None:
    if not is_first:
        deploy(service).execute(TaskRun().context())
    commands = START.replace("exec python", "exit 3; exec python")
    operator = deploy(service, "v2", commands=commands, deferrable=True)
    with pytest.raises(ServingFailedError, match="is FAILED"):
        finish(operator, task_run, defer(operator, task_run))
    if is_first:
        assert not service.names
    else:
        service.until_serves("v1")


@pytest.mark.parametrize("outcome", ["ready", "failed", "timeout"])
def test_event_is_only_a_reason_to_look(outcome: Any, served: Service, task_run: TaskRun) -> None:
    operator = deploy(served, "v2", deferrable=True)
    defer(operator, task_run)
    event = {"outcome": outcome, "message": "it is about another serving", "subject": "serving x"}
    with no_serving_ready(), pytest.raises(TaskDeferred) as deferred:
        operator.execute_complete(task_run.context(), event)  # type: ignore[arg-type]
    finish(operator, task_run, trigger_of(deferred.value))
    served.until_serves("v2")


def test_deferred_version_that_is_never_ready_is_given_up(served: Service, task_run: TaskRun) -> None:
    operator = deploy(served, "v2", readiness_path="/sick", deferrable=True, launch_timeout=0.5)
    with pytest.raises(ServingFailedError, match="was not ready in time"):
        finish(operator, task_run, defer(operator, task_run))
    served.until_serves("v1")


def test_execution_timeout_counts_while_the_task_is_deferred(served: Service, task_run: TaskRun) -> None:
    context = task_run.context()
    operator = deploy(served, "v2", deferrable=True, execution_timeout=timedelta(seconds=10))
    with pytest.raises(TaskDeferred) as deferred, no_serving_ready():
        operator.execute(context)
    trigger = trigger_of(deferred.value)
    assert trigger.deadline == context["ti"].start_date.timestamp() + 10
    context["ti"].start_date -= timedelta(seconds=20)
    with pytest.raises(ServingTimeoutError, match="execution_timeout=0:00:10 from the start of the try"):
        operator.execute_complete(context, {"outcome": "timeout", "message": ""})
    served.until_serves("v1")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (TriggerFailureReason.TRIGGER_TIMEOUT, ServingTimeoutError),
        (TriggerFailureReason.TRIGGER_FAILURE, TransportError),
    ],
)
def test_trigger_that_fails_is_trouble_like_any_other(
    reason: TriggerFailureReason, kind: type[Exception], served: Service
) -> None:
    run = TaskRun(try_number=3)
    operator = deploy(served, "v2", deferrable=True)
    defer(operator, run)
    with pytest.raises(kind):
        operator.resume_execution(TRIGGER_FAIL_REPR, {"error": reason}, run.context())
    if kind is ServingTimeoutError:
        served.until_serves("v1")
    else:  # it is not known how it is, so it is left alone
        assert served.names == {served.name, candidate_name(served.name)}


@pytest.mark.parametrize("event", [{"outcome": "error", "message": "no route"}, None])
def test_trouble_while_waiting_leaves_the_deployment_to_the_next_try(
    event: Any, served: Service, task_run: TaskRun
) -> None:
    operator = deploy(served, "v2", deferrable=True)
    defer(operator, task_run)
    with pytest.raises(TransportError, match=f"The state of serving '{served.name}'"):
        operator.execute_complete(task_run.context(), event)
    task_run.retry()
    deploy(served, "v2").execute(task_run.context())
    served.until_serves("v2")


@deploying
@pytest.mark.parametrize("deferrable", [False, True])
def test_serving_that_starts_is_not_given_up_for_odd_answers(
    deferrable: bool, service: Service, task_run: TaskRun, platform: Emulator
) -> None:
    odd = [
        Answer(status=403, body={"status": {"code": 403, "msg": "odd"}}),
        Answer(status=403, body="x"),
        Answer(status=401),
        Answer(body={"status": {"code": 4711, "msg": "odd"}}),
    ]
    operator = deploy(service, deferrable=deferrable)
    armed = []
    trigger = defer(operator, task_run) if deferrable else None
    # The first queries find no serving, and the next one shows the new one.
    skip = 0 if deferrable else 3
    for answer in odd:
        match = Match(method="GET", path=f"*/serving/{service.name}", skip=skip, times=1)
        armed.append(platform.faults.add(Fault(match=match, effect=Effect(before=answer))))
    if trigger is not None:
        finish(operator, task_run, trigger)
    else:
        operator.execute(task_run.context())
    assert [fault.applied for fault in armed] == [1, 1, 1, 1]
    service.until_serves("v1")


def test_record_that_airflow_fails_to_give_is_no_reason_to_refuse(
    served: Service, task_run: TaskRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow says of a Variable that it could not query that there is none."""
    with monkeypatch.context() as patch:
        patch.setattr(Variable, "get", staticmethod(lambda *_, **__: None))
        with pytest.raises(StateUnknownError, match=r"has the Variable 'bitahub_serving.*did not return its value"):
            deploy(served, "v2").execute(task_run.context())
    task_run.retry()
    deploy(served, "v2").execute(task_run.context())
    served.until_serves("v2")


# Tasks that are marked, cleared or deleted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "strategy"),
    [("restarting", "candidate"), (None, "candidate"), ("failed", "in_place"), ("failed", "recreate")],
)
def test_killed_deployment_that_airflow_no_longer_wants_is_ended(
    state: str | None, strategy: str, served: Service, task_run: TaskRun, task_state: Callable[[str | None], None]
) -> None:
    operator = deploy(served, "v2", deferrable=True, strategy=strategy)
    defer(operator, task_run)
    task_state(state)
    operator.on_kill()
    # There is no time to create the old version again. The next deployment has it.
    served.until_serves("v2" if strategy == "recreate" else "v1")
    deploy(served, "v2").execute(TaskRun().context())
    served.until_serves("v2")


@pytest.mark.parametrize(
    ("state", "cancel_on_kill"), [("running", True), ("up_for_retry", True), ("no answer", True), ("failed", False)]
)
def test_killed_deployment_goes_on_where_it_is_still_wanted(
    state: str, cancel_on_kill: bool, served: Service, task_run: TaskRun, task_state: Callable[[str | None], None]
) -> None:
    operator = deploy(served, "v2", deferrable=True, cancel_on_kill=cancel_on_kill)
    trigger = defer(operator, task_run)
    if state != "no answer":
        task_state(state)
    operator.on_kill()
    assert served.names == {served.name, candidate_name(served.name)}
    finish(deploy(served, "v2"), task_run, trigger)
    served.until_serves("v2")


def test_signal_handler_asks_airflow_for_nothing_itself(
    served: Service, task_run: TaskRun, task_state: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that it interrupts may hold the lock of the channel to Airflow."""
    operator = deploy(served, "v2", deferrable=True)
    defer(operator, task_run)
    task_state("failed")
    threads: set[int] = set()
    get = Variable.get

    def get_(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.get_ident())
        return get(*args, **kwargs)

    monkeypatch.setattr(Variable, "get", staticmethod(get_))
    operator.on_kill()
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.usefixtures("variables", "shown_at_once", "quick")
def test_deployment_killed_while_it_creates_removes_what_it_created_and_starts_nothing_new(
    service: Service, task_run: TaskRun, gateway: Gateway, task_state: Callable[[str | None], None]
) -> None:
    task_state("failed")
    operator = deploy(service)
    created: list[float] = []

    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.method == "POST":
            created.append(time.time())
            operator.on_kill()
            return 503, {}
        if any(earlier.method == "DELETE" for earlier in gateway.asked) or not created:
            return NOT_THERE
        if not asked.path.endswith(service.name):
            return NOT_THERE
        serving = {"name": service.name, "status": "WAITING", "createdTime": int(created[0] * 1000)}
        return 200, {"status": {"code": 0}, "data": serving}

    gateway.answer = answer
    with pytest.raises(AirflowFailException, match="starts nothing new"):
        operator.execute(task_run.context())
    assert [asked.method for asked in gateway.asked if asked.method != "GET"] == ["POST", "DELETE"]

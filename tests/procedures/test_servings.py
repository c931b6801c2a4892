"""Waiting for a serving, stopping and removing one, stepped by hand: there is no server, loop or clock here."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_bitahub.api.protocol import Call
from airflow_bitahub.api.servings import Serving
from airflow_bitahub.exceptions import (
    BitaHubError,
    PermissionDeniedError,
    ServingAliveError,
    ServingFailedError,
    ServingTimeoutError,
    StateUnknownError,
)
from airflow_bitahub.procedures.retry import CONFIRM_ABSENCE, GRACE_PERIOD, UNREACHABLE_TIMEOUT
from airflow_bitahub.procedures.servings import end_serving, stop_own_serving, wait_for_serving
from tests.procedures.stage import (
    BROKEN,
    MISSING,
    ODD_REFUSALS,
    RESET,
    SAYS_NOTHING,
    TIMEOUT,
    Script,
    Stage,
    refusal,
    serving,
)


def wait_serving(stage: Stage, **options: Any) -> Serving:
    return stage.run(wait_for_serving("mnist", "v1", clock=stage.clock, **{"poll_interval": 10, **options}))


def test_a_serving_is_ready_when_it_runs_and_answers() -> None:
    stage = Script(serving("WAITING"), serving("RUNNING"), RESET, serving("RUNNING"), False, serving("RUNNING"), True)
    assert wait_serving(stage) == serving("RUNNING")
    assert stage.calls == ["get_serving", "get_serving", "GET", "get_serving", "GET", "get_serving", "GET"]


@pytest.mark.parametrize("word", ["WAITING", "STOPPING", "HIBERNATING", ""])
def test_a_program_is_not_asked_while_the_platform_does_not_say_running(word: str) -> None:
    stage = Script(serving(word), serving("RUNNING"), True)
    wait_serving(stage)
    assert stage.calls == ["get_serving", "get_serving", "GET"]


def test_a_program_whose_address_is_not_told_yet_is_not_asked() -> None:
    stage = Script(serving("RUNNING", url=""), serving("RUNNING"), True)
    wait_serving(stage)
    assert stage.calls == ["get_serving", "get_serving", "GET"]


def test_the_program_is_asked_where_it_wants_to_be() -> None:
    steps = wait_for_serving("mnist", "v2", poll_interval=10, readiness_path="/health")
    look = next(steps)
    assert isinstance(look, Call)
    assert look.request.query == {"version": "v2"}
    probe = steps.send(serving("RUNNING"))
    assert isinstance(probe, Call)
    assert probe.request.operation == "GET http://mnist.example.com/health"


@pytest.mark.parametrize("word", ["FAILED", "STOPPED", "Completed"])
def test_a_serving_that_will_never_be_ready(word: str) -> None:
    with pytest.raises(ServingFailedError, match=f"serving 'mnist' is {word}") as caught:
        wait_serving(Script(serving("WAITING"), serving(word)))
    assert caught.value.serving_name == "mnist"


def test_a_servings_change_is_told_once() -> None:
    seen: list[str] = []
    stage = Script(serving("WAITING"), serving("WAITING"), serving("RUNNING"), False, serving("RUNNING"), True)
    wait_serving(stage, on_change=lambda serving: seen.append(serving.raw_state))
    assert seen == ["WAITING", "RUNNING"]


@pytest.mark.parametrize("error", [*SAYS_NOTHING, *ODD_REFUSALS], ids=str)
def test_a_failed_look_says_nothing_about_a_serving_that_exists(error: BitaHubError) -> None:
    wait_serving(Script(serving("WAITING"), *[error] * 50, serving("RUNNING"), True))
    wait_serving(Script(*[error] * 50, serving("RUNNING"), True), is_known=True)
    stage = Script(serving("WAITING"), error)
    with pytest.raises(StateUnknownError, match="for 900 s"):
        wait_serving(stage)
    assert stage.now == 1000 + 0.5 + UNREACHABLE_TIMEOUT


@pytest.mark.parametrize("error", ODD_REFUSALS, ids=str)
def test_being_refused_a_serving_that_was_never_seen_ends_the_waiting_at_once(error: BitaHubError) -> None:
    with pytest.raises(type(error)):
        wait_serving(Script(error))


def test_a_serving_denied_for_longer_than_the_grace_period() -> None:
    stage = Script(MISSING)
    with pytest.raises(ServingFailedError, match="not on the platform"):
        wait_serving(stage)
    assert stage.now == 1000 + GRACE_PERIOD
    wait_serving(Script(*[MISSING] * 500, serving("RUNNING"), True), grace=None)
    wait_serving(Script(*[BROKEN] * 20, MISSING, serving("RUNNING"), True))


def test_a_serving_that_is_not_ready_by_the_deadline() -> None:
    stage = Script(*[serving("RUNNING"), False] * 50)
    with pytest.raises(ServingTimeoutError, match=r"answering at '/ready'.*last seen: serving 'mnist' is RUNNING"):
        wait_serving(stage, deadline=1025, readiness_path="/ready")
    assert stage.now == pytest.approx(1025)


def test_a_serving_that_is_ready_just_in_time() -> None:
    assert wait_serving(Script(serving("WAITING"), serving("RUNNING"), True), deadline=1010).raw_state == "RUNNING"


def test_a_serving_that_was_replaced_meanwhile_is_not_taken_for_the_one_that_is_meant() -> None:
    stage = Script(serving("WAITING", created_at=7.0), serving("RUNNING", created_at=8.0), True)
    with pytest.raises(ServingFailedError, match="replaced by another deployment while it started"):
        wait_serving(stage, created_at=7.0)


WELL = serving("RUNNING"), True
MUTE = serving("RUNNING"), False


def test_one_slow_answer_of_a_program_that_is_watched_is_no_silence() -> None:
    wait_serving(Script(*WELL, *[BROKEN] * 8, *MUTE, *WELL * 90), until=1090)
    wait_serving(Script(*WELL * 60, *MUTE, *WELL * 90), until=9000, poll_interval=120)


def test_program_that_stays_silent_is_told_of_also_where_queries_fail_in_between() -> None:
    stage = Script(*WELL, *MUTE, *[BROKEN] * 7, *MUTE)
    with pytest.raises(ServingFailedError, match="has not answered at '/' for 7"):
        wait_serving(stage, until=1500)


def test_failed_queries_do_not_say_that_a_serving_still_waits_for_a_place() -> None:
    stage = Script(serving("WAITING"), *[BROKEN] * 5, serving("RUNNING"), True)
    assert wait_serving(stage, pending_deadline=1020).raw_state == "RUNNING"
    with pytest.raises(ServingTimeoutError, match="waits for a place for too long"):
        wait_serving(Script(serving("WAITING"), *[BROKEN] * 5, serving("WAITING")), pending_deadline=1020)


def stop_own(stage: Stage, **options: Any) -> list[str]:
    stage.run(stop_own_serving("mnist", "v1", lambda created_at: created_at == 7, clock=stage.clock, **options))
    return stage.calls


def test_our_serving_is_stopped() -> None:
    assert stop_own(Script(serving("RUNNING", created_at=7), None)) == ["get_serving", "stop_serving"]


def test_one_that_took_its_place_is_left_alone() -> None:
    assert stop_own(Script(serving("RUNNING", created_at=8))) == ["get_serving"]


@pytest.mark.parametrize("word", ["STOPPING", "STOPPED", "FAILED"])
def test_one_that_serves_no_more_needs_no_stop(word: str) -> None:
    assert stop_own(Script(serving(word, created_at=7))) == ["get_serving"]


def test_one_that_is_not_there_needs_no_stop() -> None:
    stage = Script(MISSING)
    assert set(stop_own(stage)) == {"get_serving"}
    assert stage.now == 1000 + CONFIRM_ABSENCE


def test_one_that_was_denied_once_is_stopped() -> None:
    assert stop_own(Script(MISSING, serving("RUNNING", created_at=7), None))[-1] == "stop_serving"
    # After an outage, "not found" has to be confirmed again.
    answers = [MISSING, *[BROKEN] * 10, MISSING, serving("RUNNING", created_at=7), None]
    assert stop_own(Script(*answers))[-1] == "stop_serving"


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=str)
def test_a_failed_look_or_stop_of_ours_is_settled_by_looking(error: BitaHubError) -> None:
    ours = serving("RUNNING", created_at=7)
    assert stop_own(Script(error, ours, error, ours, None)).count("stop_serving") == 2
    assert stop_own(Script(ours, error, serving("STOPPING", created_at=7))).count("stop_serving") == 1
    with pytest.raises(ServingAliveError, match="could not be stopped"):
        stop_own(Script(ours, error), timeout=20)


def test_who_may_not_stop_a_serving_is_told_at_once() -> None:
    with pytest.raises(PermissionDeniedError):
        stop_own(Script(serving("RUNNING", created_at=7), refusal(PermissionDeniedError, request="stop_serving")))


def remove(stage: Stage, **options: Any) -> None:
    stage.run(end_serving(serving("RUNNING"), "v1", clock=stage.clock, **options))


def test_a_serving_that_is_not_there_is_not_removed() -> None:
    stage = Script(MISSING)
    remove(stage)
    assert set(stage.calls) == {"get_serving"}
    assert stage.now == 1000 + CONFIRM_ABSENCE


def test_a_serving_that_was_denied_once_is_removed() -> None:
    stage = Script(MISSING, serving("RUNNING"), None, MISSING)
    remove(stage)
    assert stage.calls == ["get_serving", "get_serving", "delete_serving", "get_serving"]
    stage = Script(serving("RUNNING"), TIMEOUT, MISSING, serving("RUNNING"), None, MISSING)
    remove(stage)
    assert stage.calls.count("delete_serving") == 2


def test_a_serving_is_looked_at_removed_and_watched_until_it_is_gone() -> None:
    stage = Script(serving("RUNNING"), None, serving("STOPPING"), serving("STOPPING"), MISSING)
    remove(stage)
    assert stage.calls == ["get_serving", "delete_serving", "get_serving", "get_serving", "get_serving"]


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=str)
def test_a_removal_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    stage = Script(serving("RUNNING"), error, MISSING)
    remove(stage)
    assert stage.calls[:3] == ["get_serving", "delete_serving", "get_serving"]
    assert stage.calls.count("delete_serving") == 1


def test_a_serving_that_took_the_place_of_the_removed_one_is_left_alone() -> None:
    stage = Script(serving("RUNNING"), None, serving("WAITING", created_at=2.0))
    remove(stage)
    assert stage.calls == ["get_serving", "delete_serving", "get_serving"]


def test_a_serving_that_goes_between_look_and_removal() -> None:
    remove(Script(serving("RUNNING"), MISSING))


def test_a_serving_that_will_not_go() -> None:
    with pytest.raises(ServingAliveError, match="still there 60 s after its removal"):
        remove(Script(serving("RUNNING"), None, serving("STOPPING")), timeout=60)
    with pytest.raises(ServingAliveError, match="could not be removed: no answer in time"):
        remove(Script(TIMEOUT), timeout=60)

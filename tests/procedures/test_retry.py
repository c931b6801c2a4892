"""Repeating calls, stepped by hand: there is no server, loop or clock here."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_bitahub.api.protocol import Call
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConflictError,
    ConnectFailedError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from airflow_bitahub.procedures.retry import LONGEST_PAUSE, RATE_LIMIT_PAUSE, is_final, rate_limit_pause, retrying
from tests.procedures.stage import (
    BROKEN,
    BUSY,
    FOREIGN,
    LOOK,
    NOT_CONNECTED,
    RESET,
    STEADY,
    STOP,
    SUBMIT,
    TIMEOUT,
    Script,
    gateway,
    refusal,
)


def no_jitter() -> float:
    return 0.0


@pytest.mark.parametrize("error", [NOT_CONNECTED, BUSY], ids=repr)
@pytest.mark.parametrize("call", [LOOK, SUBMIT, STOP], ids=["look", "submit", "stop"])
def test_what_had_no_effect_is_sent_again(call: Call[Any], error: BitaHubError) -> None:
    stage = Script(error, error, "answer")
    assert stage.run(retrying(call, STEADY, no_jitter)) == "answer"
    operation = call.request.operation
    assert stage.done == [operation, 1, operation, 2, operation]


@pytest.mark.parametrize("error", [TIMEOUT, RESET, FOREIGN, BROKEN], ids=repr)
def test_a_look_of_unknown_outcome_is_sent_again(error: BitaHubError) -> None:
    stage = Script(error, "answer")
    assert stage.run(retrying(LOOK, STEADY, no_jitter)) == "answer"
    assert stage.done == ["get_job", 1, "get_job"]


@pytest.mark.parametrize("error", [TIMEOUT, RESET, FOREIGN, BROKEN, gateway(RateLimitError)], ids=repr)
@pytest.mark.parametrize("call", [SUBMIT, STOP], ids=["submit", "stop"])
def test_a_change_of_unknown_outcome_is_never_sent_again(call: Call[Any], error: BitaHubError) -> None:
    stage = Script(error)
    with pytest.raises(type(error)):
        stage.run(retrying(call, STEADY, no_jitter))
    assert stage.done == [call.request.operation]


@pytest.mark.parametrize(
    "kind", [AuthenticationError, PermissionDeniedError, NotFoundError, ConflictError, InvalidRequestError, APIError]
)
def test_a_clear_no_is_taken_for_an_answer(kind: type[APIError]) -> None:
    stage = Script(refusal(kind))
    with pytest.raises(kind):
        stage.run(retrying(LOOK, STEADY, no_jitter))
    assert stage.done == ["get_job"]


def test_what_needs_a_sign_in_that_was_denied_is_not_sent_again_since_that_may_lock_the_account() -> None:
    stage = Script(ConnectFailedError("denied", "sign-in-denied"))
    with pytest.raises(ConnectFailedError):
        stage.run(retrying(LOOK, STEADY, no_jitter))
    assert stage.done == ["get_job"]


def test_retrying_ends() -> None:
    stage = Script(BROKEN)
    with pytest.raises(ServerError):
        stage.run(retrying(LOOK, STEADY, no_jitter))
    assert stage.pauses == [1, 2, 3]
    assert len(stage.calls) == STEADY.attempts


@pytest.mark.parametrize(("asked", "slept"), [(2.5, 2.5), (0, 0), (3600, STEADY.longest_pause)])
def test_retry_after_is_obeyed_within_reason(asked: float, slept: float) -> None:
    stage = Script(refusal(RateLimitError, asked), "answer")
    stage.run(retrying(SUBMIT, STEADY, no_jitter))
    assert stage.pauses == [slept]


@pytest.mark.parametrize("kind", [PermissionDeniedError, NotFoundError, ConflictError, InvalidRequestError])
def test_only_the_platforms_own_refusal_of_a_submission_is_final(kind: type[APIError]) -> None:
    assert is_final(refusal(kind, request="submit_job"))
    assert is_final(refusal(kind, request="create_serving"))
    assert not is_final(refusal(kind, request="get_job"))
    assert not is_final(gateway(kind, request="submit_job"))


def test_what_we_find_wrong_ourselves_is_final() -> None:
    assert is_final(ConfigurationError("no cluster"))
    assert not is_final(ValueError("a bug"))


def test_jitter_takes_off_up_to_half() -> None:
    for jitter, expected in ((0.0, [1, 2, 3]), (0.5, [0.75, 1.5, 2.25]), (1.0, [0.5, 1, 1.5])):
        stage = Script(BROKEN, BROKEN, BROKEN, "answer")
        stage.run(retrying(LOOK, STEADY, lambda jitter=jitter: jitter))  # type: ignore[misc]
        assert stage.pauses == expected


@pytest.mark.parametrize(
    ("asked", "paused"), [(None, RATE_LIMIT_PAUSE), (0, 0), (2.5, 2.5), (LONGEST_PAUSE + 1, LONGEST_PAUSE)]
)
def test_rate_limit_pauses_for_as_long_as_the_platform_asks_within_reason(asked: float | None, paused: float) -> None:
    assert rate_limit_pause(refusal(RateLimitError, asked)) == paused

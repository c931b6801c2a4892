"""From an answer to a value or an exception."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_bitahub.api.envelope import accept, unwrap
from airflow_bitahub.api.platform import ERROR_CODES, Platform
from airflow_bitahub.api.protocol import Request, Response
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)

PLATFORM = Platform()
REQUEST = Request("get job 'mnist-1'", "get_job", {"name": "mnist-1"})


def response(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    """Give an answer; `body` is sent as JSON, unless it is bytes."""
    return Response(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def refusal(code: Any, message: str = "no") -> dict[str, Any]:
    return {"status": {"code": code, "msg": message}, "data": None}


def kubernetes_status(code: int, reason: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"jobs is {reason}",
        "reason": reason,
        "code": code,
    }


def error_of(answer: Response) -> APIError:
    with pytest.raises(APIError) as caught:
        unwrap(answer, REQUEST, PLATFORM)
    return caught.value


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    ("body", "data"),
    [
        ({"status": {"code": 0, "msg": "success"}, "data": {"name": "x"}}, {"name": "x"}),
        ({"data": [1], "status": {"msg": "success", "code": 0}}, [1]),
        ({"status": {"code": "0", "msg": "sucess"}, "data": None}, None),
        ({"status": {"code": 0}}, None),
        ({"message": {"status": 200, "code": 0, "message": "ok"}, "data": {"id": 7}}, {"id": 7}),
        ({"code": "S000", "msg": "success", "payload": {"job": {}}}, {"job": {}}),
        ({"code": "OPERATION_SUCCEEDED", "msg": "sucess", "payload": None}, None),
        ({"code": 0, "data": 1, "payload": 2}, 1),
        ({"code": 200, "data": "x"}, "x"),
    ],
)
def test_success_in_every_known_envelope(status: int, body: dict[str, Any], data: Any) -> None:
    assert unwrap(response(status, body), REQUEST, PLATFORM) == data


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (refusal(404), NotFoundError),
        (refusal(409), ConflictError),
        (refusal(401), AuthenticationError),
        (refusal(403), PermissionDeniedError),
        (refusal(400), InvalidRequestError),
        (refusal(429), RateLimitError),
        (refusal(500), ServerError),
        (refusal(1404), ServerError),
        ({"message": {"status": 200, "code": -1, "message": "登录超时"}}, AuthenticationError),
        ({"message": {"status": 200, "code": 20003, "message": "later"}}, RateLimitError),
        ({"code": "S202", "msg": "bad", "payload": None}, InvalidRequestError),
        ({"code": "S400", "msg": "none"}, NotFoundError),
        ({"code": "S402", "msg": "forbidden"}, PermissionDeniedError),
        ({"code": "S409", "msg": "exists"}, ConflictError),
        ({"code": "S505", "msg": "oops"}, ServerError),
        ({"code": "OPERATION_TARGET_NOT_FOUND", "msg": "none"}, NotFoundError),
        ({"code": "LACK_OF_PARAM", "msg": "which?"}, InvalidRequestError),
        ({"code": "ConflictJobError", "message": "exists"}, ConflictError),
    ],
)
def test_an_error_inside_http_200_is_an_error(body: dict[str, Any], expected: type[APIError]) -> None:
    assert type(error_of(response(200, body))) is expected


def test_an_unknown_code_inside_http_200_is_a_plain_api_error() -> None:
    error = error_of(response(200, refusal(4711, "余额不足")))
    assert type(error) is APIError
    assert (error.status, error.code) == (200, "4711")
    assert "余额不足 (code 4711, HTTP 200)" in str(error)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (408, ServerError),
        (422, InvalidRequestError),
        (425, ServerError),
        (429, RateLimitError),
        (499, ServerError),
        (500, ServerError),
        (503, ServerError),
    ],
)
def test_an_http_status_decides_where_the_code_is_unknown(status: int, expected: type[APIError]) -> None:
    assert type(error_of(response(status, refusal(4711)))) is expected


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(400, "S409", ConflictError), (400, "20003", RateLimitError), (422, "S400", NotFoundError)],
)
def test_a_known_code_is_more_exact_than_a_client_error_status(
    status: int, code: str, expected: type[APIError]
) -> None:
    assert type(error_of(response(status, {"code": code, "msg": "no"}))) is expected


@pytest.mark.parametrize("code", [401, 403, 404, 409])
def test_a_server_error_stays_one_whatever_its_body_says(code: int) -> None:
    assert type(error_of(response(502, refusal(code)))) is ServerError


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (401, "Unauthorized", AuthenticationError),
        (403, "Forbidden", PermissionDeniedError),
        (429, "TooManyRequests", RateLimitError),
        (500, "InternalError", ServerError),
    ],
)
def test_the_gateways_kubernetes_status_objects(status: int, reason: str, expected: type[APIError]) -> None:
    error = error_of(response(status, kubernetes_status(status, reason)))
    assert type(error) is expected
    assert not error.is_from_platform
    assert f"jobs is {reason} (HTTP {status})" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"404 page not found\n",
        b"cluster host not found",
        b"<html><body>404 Not Found</body></html>",
        b"",
        b"{}",
        b"[]",
        b"null",
        json.dumps(kubernetes_status(404, "NotFound")).encode(),
        b'{"error": "no route"}',
    ],
)
def test_a_404_that_is_not_the_platforms_own_means_a_wrong_address(body: bytes) -> None:
    with pytest.raises(UnexpectedResponseError, match="no such address") as caught:
        unwrap(response(404, body), REQUEST, PLATFORM)
    assert not isinstance(caught.value, NotFoundError)
    assert "Check the host" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html><title>Sign in</title>",
        b"",
        b"success",
        b"\xff\xfe",
        b"7",
        json.dumps(kubernetes_status(200, "Success")).encode(),
    ],
)
def test_what_is_no_answer_of_an_api_is_not_the_platforms(body: bytes) -> None:
    with pytest.raises(UnexpectedResponseError, match="HTTP 200") as caught:
        unwrap(response(200, body), REQUEST, PLATFORM)
    assert isinstance(caught.value, TransportError)
    assert "Check the host" in str(caught.value)


@pytest.mark.parametrize("data", [{"name": "x", "status": {"state": {"phase": "Running"}}}, [{"name": "x"}], {}])
def test_an_answer_without_an_envelope_is_the_data(data: Any) -> None:
    assert unwrap(response(200, data), REQUEST, PLATFORM) == data


@pytest.mark.parametrize("body", [b"", b"<a href='/login'>Sign in</a>", b'{"status": {"code": 0}, "data": 1}'])
def test_a_redirection_is_no_answer_and_shows_where_it_leads(body: bytes) -> None:
    with pytest.raises(UnexpectedResponseError, match=r"HTTP 302.*redirects to /login.*Check the host"):
        unwrap(Response(302, {"location": "/login"}, body), REQUEST, PLATFORM)


@pytest.mark.parametrize("status", [400, 405, 408, 409, 413, 421, 422, 423, 425, 499])
@pytest.mark.parametrize("body", [b"", b"x", b"<html>no</html>", json.dumps(kubernetes_status(4, "No")).encode()])
def test_a_refusal_without_an_envelope_is_not_the_platforms(status: int, body: bytes) -> None:
    with pytest.raises(UnexpectedResponseError, match=f"HTTP {status}.*does not come from the platform"):
        unwrap(response(status, body), REQUEST, PLATFORM)


@pytest.mark.parametrize(("operation", "is_said"), [("submit_job", True), ("create_serving", True), ("get_job", False)])
def test_nothing_was_started_is_only_said_of_a_submission_that_the_platform_refused(
    operation: str, is_said: bool
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        unwrap(response(400, refusal(400)), Request("do it", operation), PLATFORM)
    assert ("nothing was started" in str(caught.value)) is is_said


@pytest.mark.parametrize(("status", "expected"), [(401, AuthenticationError), (500, ServerError), (502, ServerError)])
def test_plain_text_errors_are_quoted(status: int, expected: type[APIError]) -> None:
    error = error_of(response(status, b"cluster  host\nis not ready"))
    assert type(error) is expected
    assert "'cluster host is not ready'" in str(error)


def test_a_long_answer_is_quoted_in_part() -> None:
    error = error_of(response(500, b"<html>" + b"x" * 10_000))
    assert len(str(error)) < 500


@pytest.mark.parametrize("kind", sorted(set(ERROR_CODES.values())))
def test_a_message_says_what_was_attempted_what_was_said_and_what_to_do(kind: str) -> None:
    code = next(code for code, meaning in ERROR_CODES.items() if meaning == kind)
    error = error_of(response(200, refusal(code, "in its own words")))
    attempted, said, advice = str(error).partition(f"The platform said: in its own words (code {code}, HTTP 200). ")
    assert attempted == "Could not get job 'mnist-1'. "
    assert said
    assert advice.endswith(".")
    assert (error.message, error.request) == (str(error), "get_job")


def test_an_error_without_words_says_so() -> None:
    assert "no message (code 5, HTTP 200)" in str(error_of(response(200, {"status": {"code": 5, "msg": None}})))


def test_the_meaning_of_a_code_can_be_overridden() -> None:
    platform = replace(PLATFORM, error_codes={**ERROR_CODES, "1206": "conflict"})
    with pytest.raises(ConflictError):
        unwrap(response(200, refusal(1206)), REQUEST, platform)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("nan", 0.0),
        ("", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 90.0),
        ("Wed, 21 Oct 2026 07:26:00 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:00", None),  # without a zone
        ("Wed, 99 Oct 99999999 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_kept(header: str, seconds: float | None) -> None:
    headers = {"retry-after": header, "date": "Wed, 21 Oct 2026 07:26:30 GMT"}
    assert error_of(response(429, refusal(1), headers)).retry_after == seconds


def test_a_date_to_retry_after_means_nothing_where_the_answer_has_no_date_itself() -> None:
    assert error_of(response(429, b"", {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"})).retry_after is None


def test_an_answer_without_retry_after_asks_for_none() -> None:
    assert error_of(response(503, b"")).retry_after is None


@pytest.mark.parametrize("body", [b"", b" \n", json.dumps({"status": {"code": 0}, "data": {"jobName": "x"}}).encode()])
@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_change_is_accepted_by_success_or_no_words_at_all(status: int, body: bytes) -> None:
    accept(response(status, body), REQUEST, PLATFORM)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, refusal(400), InvalidRequestError),
        (200, b"<html>Sign in</html>", UnexpectedResponseError),
        (302, b"", UnexpectedResponseError),
        (404, b"", UnexpectedResponseError),
        (409, refusal(409), ConflictError),
        (500, b"", ServerError),
    ],
)
def test_a_change_that_was_not_accepted_is_an_error(status: int, body: Any, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        accept(response(status, body), REQUEST, PLATFORM)

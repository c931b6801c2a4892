"""Finding out how an installation differs, stepped by hand: it is a function from a trial to its answer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from airflow_bitahub.api import candidates
from airflow_bitahub.api.jobs import stop_job
from airflow_bitahub.api.platform import ENDPOINTS
from airflow_bitahub.exceptions import (
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    SignInRefusedError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures.access import Access, find_access
from airflow_bitahub.procedures.probing import Trial, find_endpoint

MISSING = NotFoundError(404, "404", "no such job", "get_job")
NO_PATH = UnexpectedResponseError("no such address", 404, "404 page not found")
NO_METHOD = UnexpectedResponseError("not allowed", 405)
PAGE = UnexpectedResponseError("a page", 200, "<html>")
LOGIN_PAGE = UnexpectedResponseError("a redirection", 302, "/login")
NO_JOB = UnexpectedResponseError("the answer contains no job")
WHO = AuthenticationError(401, None, "who?", "get_job")
NOBODY = PermissionDeniedError(403, None, 'User "system:anonymous" cannot get', "get_job")
DENIED = PermissionDeniedError(403, None, "ann may not", "get_job")
NO_SIGN_IN = ConnectFailedError("no sign-in here", "sign-in")
WRONG_PASSWORD = SignInRefusedError(400, None, "wrong", "sign_in")
WRONG_CLIENT = SignInRefusedError(401, None, "wrong", "sign_in", None, "client")

Installation = Callable[[dict[str, Any], str], BitaHubError]


class Stage:
    """Performs a procedure against an installation, and notes what was tried."""

    def __init__(self, installation: Callable[[dict[str, Any], str], Any]) -> None:
        self._installation = installation
        self.tried: list[tuple[dict[str, Any], str]] = []

    def run(self, procedure: Generator[Any, Any, Any]) -> Any:
        try:
            step = next(procedure)
            while True:
                assert isinstance(step, Trial)
                extras, operation = dict(step.extras), step.request.operation
                self.tried.append((extras, operation))
                answer = self._installation(extras, operation)
                step = procedure.throw(answer) if isinstance(answer, BitaHubError) else procedure.send(answer)
        except StopIteration as end:
            return end.value

    def find(self, *, password: bool = True, login: bool = True, **stated: str) -> Access:
        found = self.run(find_access(stated, "x", has_password=password, has_login=login))
        assert isinstance(found, Access)
        return found

    def auths(self) -> list[str]:
        """Give the ways of signing in, in the order of their first request."""
        return list(dict.fromkeys(extras["auth"] for extras, _ in self.tried))

    def passwords(self) -> int:
        """Give the number of requests that sent the password to be checked."""
        return sum(extras["auth"] in candidates.PASSWORD_AUTHS for extras, _ in self.tried)


def at(prefix: str, answer: BitaHubError, extras: dict[str, Any], elsewhere: BitaHubError = NO_PATH) -> BitaHubError:
    return answer if extras["prefix"] == prefix else elsewhere


def kubesphere(extras: dict[str, Any], _: str) -> BitaHubError:
    """Sees who asks before it looks at the path."""
    refusals = {"none": NOBODY, "bearer": WHO, "header": NOBODY}
    return refusals.get(extras["auth"]) or at("kapis", MISSING, extras)


@pytest.mark.parametrize(
    ("installation", "auth", "prefix"),
    [
        (kubesphere, "kubesphere", "kapis"),
        (lambda _extras, _: MISSING, "none", "lapis"),
        (lambda extras, _: at("apis", MISSING, extras), "none", "apis"),
        (lambda extras, op: at("kapis", MISSING if op == "stop_job" else NO_JOB, extras), "none", "kapis"),
        (lambda extras, _: MISSING if extras["prefix"] == "kapis" else LOGIN_PAGE, "none", "kapis"),
        (lambda e, _: WHO if e["auth"] == "none" else at("kapis", MISSING, e, DENIED), "bearer", "kapis"),
        (lambda e, _: MISSING if e["auth"] == "kubesphere" else DENIED, "kubesphere", "lapis"),
        # Everybody may look.
        (lambda e, op: WHO if op == "stop_job" and e["auth"] != "header" else at("api", MISSING, e), "header", "api"),
        # Nothing can be said without a change, and there is no DELETE: only a sign-in shows that the password is right.
        (lambda _, op: NO_PATH if op == "stop_job" else MISSING, "kubesphere", "lapis"),
        (
            lambda e, op: NO_SIGN_IN if "k" in e["auth"] else NO_METHOD if op == "stop_job" else MISSING,
            "bearer",
            "lapis",
        ),
        (lambda e, _: {"basic": MISSING, "kubesphere": NO_SIGN_IN}.get(e["auth"], WHO), "basic", "lapis"),
    ],
)
def test_how_an_installation_is_reached(installation: Installation, auth: str, prefix: str) -> None:
    stage = Stage(installation)
    access = stage.find()
    assert access.works
    assert (access.extras["auth"], access.extras["prefix"]) == (auth, prefix)


def test_addresses_without_a_cluster() -> None:
    access = Stage(lambda extras, _: MISSING if "endpoints" in extras else NO_PATH).find()
    assert access.extras["endpoints"] == candidates.WITHOUT_CLUSTER
    assert set(candidates.WITHOUT_CLUSTER) == {"submit_job", "get_job", "list_jobs", "stop_job", "read_job_log"}
    assert "cluster" not in str(candidates.WITHOUT_CLUSTER)


def test_what_the_connection_says_comes_first_and_a_prefix_is_searched_once() -> None:
    stage = Stage(lambda extras, op: at("mine", MISSING if op == "get_job" else WHO, extras))
    stage.find(auth="header", prefix="mine")
    assert stage.auths()[0] == "header"
    assert {extras["prefix"] for extras, _ in stage.tried} == {"mine"}
    stage = Stage(lambda extras, op: at("kapis", MISSING if op == "get_job" else WHO, extras))
    stage.find()
    found = [extras["prefix"] for extras, _ in stage.tried].index("kapis")
    assert {extras["prefix"] for extras, _ in stage.tried[found:]} == {"kapis"}


def test_a_connection_without_password_or_login_sends_none() -> None:
    stage = Stage(lambda _extras, _: WHO)
    assert not stage.find(password=False).works
    assert stage.auths() == ["none"]
    stage = Stage(lambda _extras, _: WHO)
    assert not stage.find(login=False).works
    assert stage.auths() == ["none", "bearer", "header"]


@pytest.mark.parametrize("stated", ["", "bearer", "basic", "kubesphere"])
@pytest.mark.parametrize("refusal", [WRONG_PASSWORD, WHO])
def test_a_wrong_password_is_sent_once(stated: str, refusal: BitaHubError) -> None:
    stage = Stage(lambda extras, _: refusal if extras["auth"] in candidates.PASSWORD_AUTHS else WHO)
    access = stage.find(auth=stated)
    assert not access.works
    assert stage.passwords() == 1
    assert access.refusal is refusal
    assert access.extras["auth"] == (stated if stated in candidates.PASSWORD_AUTHS else "kubesphere")


def test_another_name_of_the_client_is_tried_with_the_same_password() -> None:
    def installation(extras: dict[str, Any], _: str) -> BitaHubError:
        if extras["auth"] != "kubesphere":
            return WHO
        return MISSING if extras["client_id"] == "default" else WRONG_CLIENT

    access = Stage(installation).find()
    assert access.extras == {"auth": "kubesphere", "client_id": "default", "prefix": "lapis"}


def test_a_user_who_is_known_and_denied() -> None:
    access = Stage(lambda extras, _: DENIED if extras["auth"] == "bearer" else WHO).find()
    assert (access.works, access.extras["auth"], access.denial) == (True, "bearer", DENIED)


@pytest.mark.parametrize("answer", [NO_PATH, PAGE, LOGIN_PAGE])
def test_an_address_that_has_nothing_of_the_platform(answer: BitaHubError) -> None:
    stage = Stage(lambda _extras, _: answer)
    access = stage.find()
    assert (access.works, access.refusal) == (False, answer)
    assert stage.passwords() == 0, "none is sent to a server that is not the platform"
    assert {extras["prefix"] for extras, _ in stage.tried} == set(candidates.PREFIXES)


def test_a_sign_in_that_is_denied_is_tried_once() -> None:
    denied = ConnectFailedError("a firewall denies it", "sign-in-denied")
    stage = Stage(lambda extras, _: denied if extras["auth"] in candidates.PASSWORD_AUTHS else WHO)
    access = stage.find()
    assert (access.works, access.refusal) == (False, denied)
    assert stage.passwords() == 1


def test_what_cannot_be_sent_is_not_the_end() -> None:
    impossible = ConfigurationError("a blank in a token")
    stage = Stage(lambda extras, _: {"none": WHO, "kubesphere": MISSING}.get(extras["auth"], impossible))
    assert stage.find().extras["auth"] == "kubesphere"


def test_a_platform_that_fails_is_not_judged() -> None:
    broken = ServerError(500, "500", "broken", "get_job")
    with pytest.raises(ServerError):
        Stage(lambda _extras, _: broken).find()


@pytest.mark.parametrize("no_such", [NO_PATH, NO_METHOD, InvalidRequestError(405, "405", "not allowed", "stop_job")])
def test_another_address_of_an_operation(no_such: BitaHubError) -> None:
    other = candidates.ENDPOINT_CANDIDATES["stop_job"][1]

    def installation(extras: dict[str, Any], _: str) -> Any:
        return "stopped" if extras == {"endpoints": {"stop_job": other}} else no_such

    found = Stage(installation).run(find_endpoint(stop_job("x"), ENDPOINTS))
    assert (found.extras, found.answer) == ({"endpoints": {"stop_job": other}}, "stopped")


def test_a_refusal_of_the_platform_ends_the_search_for_an_address() -> None:
    stage = Stage(lambda _extras, _: MISSING)
    found = stage.run(find_endpoint(stop_job("x"), ENDPOINTS))
    assert (found.extras, found.error, len(stage.tried)) == ({}, MISSING, 1)
    stage = Stage(lambda _extras, _: NO_PATH)
    found = stage.run(find_endpoint(stop_job("x"), {**ENDPOINTS, **candidates.WITHOUT_CLUSTER}))
    assert found.error is NO_PATH
    assert len(stage.tried) == 1 + len(candidates.ENDPOINT_CANDIDATES["stop_job"])
    assert "cluster" not in str(stage.tried)

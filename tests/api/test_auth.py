"""The flows that sign calls, stepped without a network: on the other side are the emulator's own users and tokens."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_bitahub.api.auth import Auth, BasicAuth, BearerToken, HeaderToken, NoAuth, PasswordGrant
from airflow_bitahub.api.jobs import list_jobs
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Blocking, Call, Flow, Response, Sleep
from airflow_bitahub.emulator.http.signin import SignIn, SignInError
from airflow_bitahub.exceptions import (
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    SignInRefusedError,
)
from airflow_bitahub.hooks.sessions import ProcessSessions, VariableSessions

PASSWORD = "correct-horse"
WRONG = "wrong-battery"
LIFE = 100
CLIENT = ("kubesphere", "kubesphere")
CALL = list_jobs(page_size=1)
KEY = "bitahub_token.test"
SESSIONS = pytest.mark.parametrize("single_session", [False, True], ids=["new", "old"])


class Gateway:
    """The platform, as far as it signs users in; and the time."""

    def __init__(self, *, single_session: bool = False) -> None:
        self.now = 1_000_000.0
        self.sign_in = SignIn(
            {"ann": PASSWORD}, expires_in=LIFE, single_session=single_session, client=CLIENT, clock=lambda: self.now
        )
        self.grants: list[str] = []  # the types of the token requests
        self.answers: list[int] = []  # the status of each other answer
        self.fails = 0  # the status of every token request; 0: they are answered
        self.says: Response | None = None  # to every token request; None: what the sign-in says
        self.knows_nobody = False

    def worker(
        self, store: ProcessSessions | None = None, password: str = PASSWORD, skew: float = 0, jitter: float = 0
    ) -> PasswordGrant:
        return PasswordGrant(
            "ann",
            password,
            ProcessSessions() if store is None else store,
            client_id=CLIENT[0],
            client_secret=CLIENT[1],
            clock=lambda: self.now + skew,
            jitter=lambda: jitter,
        )

    def perform(self, call: Call[Any]) -> Any:
        if call.request.operation == "sign_in":
            return call.read_answer(self._grant(dict(call.request.form or {})), Platform())  # type: ignore[arg-type]
        token = call.request.headers["Authorization"].removeprefix("Bearer ")
        status = 200 if self.sign_in.user_of(token) and not self.knows_nobody else 401
        self.answers.append(status)
        return call.read_answer(Response(status, {}, b"[]" if status == 200 else b"Unauthorized"), Platform())

    def _grant(self, form: dict[str, str]) -> Response:
        if self.says is not None:
            return self.says
        self.grants.append(form["grant_type"])
        if self.fails:
            return Response(self.fails, {}, b"")
        try:
            return Response(200, {}, json.dumps(self.sign_in.grant(form)).encode())
        except SignInError as error:
            body = {"error": error.error, "error_description": f"{error} You sent {form}"}
            return Response(error.status, {}, json.dumps(body).encode())

    def send(self, *workers: Auth) -> list[Any]:
        """Let every worker send a call at the same time, one step each by turns; give the results or errors."""
        flows: dict[int, Flow[Any]] = {number: worker.flow(CALL) for number, worker in enumerate(workers)}
        replies: dict[int, Any] = dict.fromkeys(flows)
        results: dict[int, Any] = {}
        while flows:
            for number, flow in [*flows.items()]:
                reply = replies[number]
                try:
                    step = flow.throw(reply) if isinstance(reply, BitaHubError) else flow.send(reply)
                    replies[number] = self._do(step)
                except StopIteration as end:
                    results[number] = end.value
                except BitaHubError as error:
                    results[number] = error
                if number in results:
                    del flows[number]
        return [results[number] for number in sorted(results)]

    def _do(self, step: Call[Any] | Sleep | Blocking[Any]) -> Any:
        if isinstance(step, Sleep):
            self.now += step.seconds
            return None
        try:
            return step.do() if isinstance(step, Blocking) else self.perform(step)
        except BitaHubError as error:
            return error

    def succeed(self, *workers: Auth) -> None:
        for result in self.send(*workers):
            assert not isinstance(result, BitaHubError), result


@pytest.fixture
def shared(variables: dict[str, str]) -> Callable[[], VariableSessions]:  # noqa: ARG001
    """A function that returns what another worker has of the shared session."""
    return lambda: VariableSessions(KEY)


@pytest.mark.parametrize(
    ("auth", "headers"),
    [
        (NoAuth(), {}),
        (BearerToken("s3cret"), {"Authorization": "Bearer s3cret"}),
        (HeaderToken("s3cret"), {"token": "s3cret"}),
        (
            BasicAuth("ann", "s3 crét:"),
            {"Authorization": "Basic " + base64.b64encode("ann:s3 crét:".encode()).decode()},
        ),
    ],
)
def test_fixed_ways_sign_every_call_alike(auth: Auth, headers: dict[str, str]) -> None:
    flow = auth.flow(CALL)
    step = next(flow)
    assert isinstance(step, Call)
    assert (step.request.headers, step.read) == (headers, CALL.read)
    assert "s3" not in repr(auth) + repr(step)
    with pytest.raises(StopIteration) as end:
        flow.send("answer")
    assert end.value.value == "answer"


def test_a_login_that_basic_cannot_send_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="login contains ':'"):
        BasicAuth("a:b", "x")


@SESSIONS
def test_a_token_is_renewed_before_it_expires(single_session: bool) -> None:
    gateway = Gateway(single_session=single_session)
    worker = gateway.worker()
    for _ in range(30):  # three lives
        gateway.succeed(worker)
        gateway.now += LIFE / 10
    assert gateway.grants == ["password", *["refresh_token"] * 3]
    assert set(gateway.answers) == {200}
    gateway.now += 3 * LIFE  # now the refresh token has expired, too
    gateway.succeed(worker)
    assert gateway.grants[-2:] == ["refresh_token", "password"]


@SESSIONS
def test_one_of_many_renews_for_all(single_session: bool, shared: Callable[[], VariableSessions]) -> None:
    gateway = Gateway(single_session=single_session)
    here, there = gateway.worker(shared()), gateway.worker(shared())
    for grants in (1, 2, 3):
        gateway.succeed(*[here, there] * 5)
        assert len(gateway.grants) == grants
        gateway.now += 0.9 * LIFE
    gateway.sign_in._access.clear()  # such as a gateway that has restarted
    gateway.succeed(*[here, there] * 5)
    assert len(gateway.grants) == 4


def test_a_failed_renewal_is_one_for_all_who_waited() -> None:
    gateway = Gateway()
    worker = gateway.worker()
    gateway.fails = 503
    errors = gateway.send(*[worker] * 5)
    assert {type(error) for error in errors} == {ConnectFailedError}  # so that it is known that nothing was sent
    assert gateway.grants == ["password"]
    gateway.fails = 0
    gateway.succeed(worker)
    gateway.now += 0.9 * LIFE
    gateway.fails = 503
    gateway.succeed(worker)  # with the token that is still good
    gateway.now += 0.2 * LIFE
    assert isinstance(gateway.send(worker)[0], ConnectFailedError)


def test_a_gateway_that_refuses_new_tokens_is_not_flooded_with_sign_ins() -> None:
    gateway = Gateway()
    worker = gateway.worker(jitter=1)
    gateway.succeed(worker)
    gateway.knows_nobody = True
    gateway.answers.clear()
    for _ in range(5):
        assert isinstance(gateway.send(worker)[0], AuthenticationError)
    assert gateway.grants == ["password", "password"]
    assert len(gateway.answers) == 2 + 4
    gateway.knows_nobody = False
    gateway.succeed(worker)


@SESSIONS
@pytest.mark.parametrize("skew", [-3600, -15, 15, 3600])
def test_workers_with_clocks_askew_share_one_session(
    single_session: bool, skew: float, shared: Callable[[], VariableSessions]
) -> None:
    gateway = Gateway(single_session=single_session)
    here, there = gateway.worker(shared()), gateway.worker(shared(), skew=skew)
    for _ in range(60):
        gateway.succeed(here)
        gateway.succeed(there)
        gateway.now += LIFE / 20
    assert len(gateway.grants) <= 2 * 4  # each of them at most once in a life
    assert gateway.grants.count("password") <= 4


@SESSIONS
def test_a_wrong_password_is_asked_once_by_all(
    single_session: bool, shared: Callable[[], VariableSessions], variables: dict[str, str]
) -> None:
    gateway = Gateway(single_session=single_session)
    first, second = gateway.worker(shared(), WRONG), gateway.worker(shared(), WRONG)
    for _ in range(3):
        for error in gateway.send(first, second, first, second):
            assert isinstance(error, AuthenticationError)
            assert "login and password" in str(error)
            assert "lock the account" in str(error)
            assert KEY in str(error)
            assert WRONG not in str(error)
    del variables[KEY]
    gateway.send(first)  # the process remembers it
    assert gateway.grants == ["password"]
    assert WRONG not in str(variables)
    gateway.succeed(gateway.worker(shared()))  # with the right one
    gateway.succeed(second)  # with the token of the other
    assert gateway.grants == ["password", "password"]


def test_a_locked_account_is_left_alone_until_it_is_open(shared: Callable[[], VariableSessions]) -> None:
    gateway = Gateway()
    for _ in range(5):
        with pytest.raises(SignInError):
            gateway.sign_in.check_password("ann", WRONG)
    for worker in (gateway.worker(shared()), gateway.worker(shared())):
        for _ in range(2):
            [error] = gateway.send(worker)
            assert isinstance(error, AuthenticationError)
            assert "accepts no password of this account" in str(error)
    assert gateway.grants == ["password"]
    gateway.now += 1800
    gateway.succeed(worker)


@SESSIONS
def test_a_password_that_changes_in_between(single_session: bool, shared: Callable[[], VariableSessions]) -> None:
    gateway = Gateway(single_session=single_session)
    outdated = gateway.worker(shared())
    gateway.succeed(outdated)
    gateway.sign_in._passwords["ann"] = "new-staple"
    gateway.now += 0.9 * LIFE
    gateway.succeed(outdated)  # with its refresh token
    gateway.sign_in._access.clear()
    gateway.sign_in._refresh.clear()
    for _ in range(3):
        assert isinstance(gateway.send(outdated)[0], AuthenticationError)
    assert gateway.grants == ["password", "refresh_token", "password"]
    gateway.succeed(gateway.worker(shared(), "new-staple"))
    gateway.succeed(outdated)
    assert gateway.grants[3:] == ["password"]


@pytest.mark.parametrize("content", ["", "[]", "no JSON", '{"access_token": 7}', '{"access_token": "x"}'])
def test_an_unreadable_variable_means_a_new_sign_in(
    content: str, shared: Callable[[], VariableSessions], variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway()
    variables[KEY] = content
    gateway.succeed(gateway.worker(shared()))
    gateway.succeed(gateway.worker(shared()))
    assert gateway.grants == ["password"]
    assert PASSWORD not in variables[KEY]
    token = json.loads(variables[KEY])["access_token"]
    assert gateway.sign_in.user_of(token) == "ann"
    assert token not in caplog.text


def test_an_airflow_that_allows_no_changes_is_no_obstacle(
    shared: Callable[[], VariableSessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("airflow.sdk.Variable.set", staticmethod(refuse))
    gateway = Gateway()
    worker = gateway.worker(shared())
    gateway.succeed(worker, worker)
    gateway.succeed(worker)
    assert gateway.grants == ["password"]


def interrupt_sign_in(gateway: Gateway, worker: Auth) -> Flow[Any]:
    flow = worker.flow(CALL)
    reply = None
    while not (isinstance(step := flow.send(reply), Call)):
        reply = gateway._do(step)
    assert step.request.operation == "sign_in"
    return flow


def test_nobody_waits_for_a_new_token_while_the_present_one_is_good(shared: Callable[[], VariableSessions]) -> None:
    gateway = Gateway()
    gateway.sign_in._expires_in = 10 * LIFE
    worker, another = gateway.worker(shared()), gateway.worker(shared())
    gateway.succeed(worker)
    gateway.now += 8.5 * LIFE
    interrupt_sign_in(gateway, another).close()
    grants = []
    for _ in range(30):
        before = gateway.now
        gateway.succeed(worker)
        assert gateway.now - before < 1
        grants.append(len(gateway.grants))
        gateway.now += 1
    assert set(gateway.answers) == {200}
    assert grants == [1] * grants.count(1) + [2] * grants.count(2)
    assert 19 <= grants.count(1) <= 22  # the other may yet renew it


def test_a_task_that_is_killed_while_it_renews_a_good_token_goes_on_with_it(
    shared: Callable[[], VariableSessions],
) -> None:
    gateway = Gateway()
    gateway.sign_in._expires_in = 10 * LIFE
    worker = gateway.worker(shared())
    gateway.succeed(worker)
    gateway.now += 8.5 * LIFE
    interrupted = interrupt_sign_in(gateway, worker)
    before = gateway.now
    stopping = worker.flow(CALL)  # which Airflow begins in the same thread
    reply, is_done = None, False
    while not is_done and gateway.now - before < 1:
        try:
            reply = gateway._do(stopping.send(reply))
        except StopIteration:
            is_done = True
    assert is_done
    interrupted.close()


def test_a_claim_of_a_worker_that_died_is_not_waited_for_long(shared: Callable[[], VariableSessions]) -> None:
    gateway = Gateway()
    interrupt_sign_in(gateway, gateway.worker(shared())).close()
    before = gateway.now
    gateway.succeed(gateway.worker(shared()))
    assert gateway.now - before < 30
    assert gateway.grants == ["password"]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (Response(401, {}, b'{"error": "invalid_client"}'), "extras 'client_id' and 'client_secret'"),
        (Response(404, {}, b"<html>correct-horse"), "'auth' and the host.*sign_in"),
        (Response(200, {}, b'{"access_token": "a b"}'), "'auth' and the host"),
        (Response(200, {}, b"correct-horse"), "'auth' and the host"),
        (Response(302, {"location": "/login"}, b""), "HTTP 302"),
    ],
)
def test_what_else_a_sign_in_may_be_answered(response: Response, expected: str) -> None:
    gateway = Gateway()
    gateway.says = response
    [error] = gateway.send(gateway.worker())
    with pytest.raises(AuthenticationError if "client" in expected else ConnectFailedError, match=expected):
        raise error
    assert PASSWORD not in str(error)


@pytest.mark.parametrize(
    "response",
    [
        Response(403, {}, b"<html>Forbidden"),
        Response(403, {}, b'{"kind": "Status", "message": "user system:anonymous cannot create path /oauth/token"}'),
        Response(400, {}, b'{"error": "server_error"}'),
        Response(403, {}, b'{"error": "access_denied"}'),
    ],
    ids=["firewall", "gateway", "failure", "denial"],
)
def test_a_right_password_is_sent_again_after_an_answer_that_is_not_about_it(
    response: Response, shared: Callable[[], VariableSessions]
) -> None:
    gateway = Gateway()
    gateway.says = response
    [error] = gateway.send(gateway.worker(shared()))
    gateway.says = None
    assert isinstance(error, ConnectFailedError)
    assert "This does not mean that the password is wrong" in str(error)
    gateway.succeed(gateway.worker(shared()))


@pytest.mark.parametrize(
    "response",
    [
        Response(400, {}, b'{"error": "invalid_grant"}'),
        Response(401, {}, b"Unauthorized"),
        Response(401, {}, b'{"error": "access_denied"}'),
        Response(403, {}, b'{"error": "invalid_grant"}'),
    ],
)
def test_a_password_is_not_sent_again_after_an_answer_that_may_count_as_a_wrong_one(
    response: Response, shared: Callable[[], VariableSessions]
) -> None:
    gateway = Gateway()
    gateway.says = response
    [error] = gateway.send(gateway.worker(shared()))
    gateway.says = None
    assert isinstance(error, SignInRefusedError)
    assert isinstance(gateway.send(gateway.worker(shared()))[0], SignInRefusedError)
    assert gateway.grants == []

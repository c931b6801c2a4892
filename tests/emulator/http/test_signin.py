"""Signing in as at KubeSphere: a user exchanges a password for a token, and without a token gets no answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, list_jobs, submit_job
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.api.protocol import Call
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.http.signin import SignIn, SignInError
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import AuthenticationError, ConfigurationError, PermissionDeniedError
from airflow_bitahub.procedures.jobs import wait_for_job
from tests.emulator.conftest import IMAGE, JOBS, SERVINGS, Api, assert_refused

USERS = {"you": "s3cret & 秘密", "she": "hers"}
ELSEWHERE = JOBS.replace("bita-user", "kube-system")
HALF_AN_HOUR = 30 * 60
MakeClient = Callable[..., BitaHubClient]


class Clock:
    """A clock that only advances when a test says so."""

    seconds = 1663470891.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def shared(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, SignIn]]:
    """An emulator for all tests, because only its sign-in has a state that matters here."""
    sign_in = SignIn(USERS)
    with Emulator(tmp_path_factory.mktemp("home"), images=images_file, sign_in=sign_in) as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        yield emulator, sign_in


@pytest.fixture
def guarded(shared: tuple[Emulator, SignIn], clock: Clock) -> Iterator[Emulator]:
    """An emulator at which users sign in, and at which none has signed in yet."""
    emulator, sign_in = shared
    vars(sign_in).update(vars(SignIn(USERS, clock=clock)))
    yield emulator
    emulator.clear()
    emulator.faults.clear()


@pytest.fixture
def http(guarded: Emulator) -> Iterator[httpx.Client]:
    """A client that has not signed in."""
    with httpx.Client(base_url=guarded.url, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def own(guarded: Emulator) -> Iterator[Api]:
    """A client with the emulator's own token."""
    api = Api(guarded)
    with api.http:
        yield api


@pytest.fixture
def make_client(guarded: Emulator) -> Iterator[MakeClient]:
    clients = []

    def make(token: str, namespace: str = "bita-user") -> BitaHubClient:
        platform = Platform(job_namespace=namespace)
        clients.append(BitaHubClient(guarded.url, auth=BearerToken(token), platform=platform))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def sign_in(http: httpx.Client, user: str = "you", password: str = USERS["you"], **more: str) -> httpx.Response:
    return http.post("/oauth/token", data={"grant_type": "password", "username": user, "password": password, **more})


def refresh(http: httpx.Client, token: str) -> httpx.Response:
    return http.post("/oauth/token", data={"grant_type": "refresh_token", "refresh_token": token})


def tokens_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    tokens: dict[str, Any] = response.json()
    return tokens


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def spec(name: str) -> JobSpec:
    return JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command="true")])


def assert_oauth_error(response: httpx.Response, status: int, error: str) -> None:
    assert response.status_code == status
    assert response.json().keys() == {"error", "error_description"}
    assert response.json()["error"] == error


def assert_status_object(response: httpx.Response, code: int, reason: str) -> None:
    """Check that an answer is an error in the form of Kubernetes."""
    body = response.json()
    assert response.status_code == code, body
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert (body["code"], body["reason"]) == (code, reason)
    assert body["message"].startswith(f"{reason}: ")


# Getting tokens -------------------------------------------------------------------------------------------------


def test_a_password_becomes_tokens(http: httpx.Client) -> None:
    response = sign_in(http)
    tokens = tokens_of(response)
    assert tokens.keys() == {"access_token", "token_type", "refresh_token", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 7200)
    assert response.headers["cache-control"] == "no-store"
    assert http.get(JOBS, headers=bearer(tokens["access_token"])).status_code == 200


def test_a_clients_own_id_and_secret_may_be_sent(http: httpx.Client) -> None:
    tokens_of(sign_in(http, client_id="kubesphere", client_secret="kubesphere"))


def test_every_token_is_another_one_and_earlier_ones_stay_good(http: httpx.Client) -> None:
    first, second = tokens_of(sign_in(http)), tokens_of(sign_in(http))
    third = tokens_of(refresh(http, first["refresh_token"]))
    every = [tokens[kind] for tokens in (first, second, third) for kind in ("access_token", "refresh_token")]
    assert len(set(every)) == 6
    for tokens in (first, second, third):
        assert http.get(JOBS, headers=bearer(tokens["access_token"])).status_code == 200


def test_in_the_old_behaviour_new_tokens_end_the_users_earlier_ones(clock: Clock) -> None:
    sign_in = SignIn(USERS, single_session=True, clock=clock)

    def grant(user: str) -> dict[str, Any]:
        return sign_in.grant({"grant_type": "password", "username": user, "password": USERS[user]})

    hers, first, second = grant("she"), grant("you"), grant("you")
    third = sign_in.grant({"grant_type": "refresh_token", "refresh_token": second["refresh_token"]})
    users = [sign_in.user_of(tokens["access_token"]) for tokens in (hers, first, second, third)]
    assert users == ["she", None, None, "you"]
    with pytest.raises(SignInError):
        sign_in.grant({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})


def test_a_client_may_need_its_own_secret_and_a_wrong_one_is_no_wrong_password(clock: Clock) -> None:
    sign_in = SignIn(USERS, client=("kubesphere", "its-own"), clock=clock)
    form = {"grant_type": "password", "username": "you", "password": USERS["you"], "client_id": "kubesphere"}
    for wrong in ({}, {"client_secret": "kubesphere"}):
        for _ in range(5):
            with pytest.raises(SignInError) as refused:
                sign_in.grant({**form, **wrong})
            assert (refused.value.error, refused.value.status) == ("invalid_client", 401)
    assert sign_in.grant({**form, "client_secret": "its-own"})["token_type"] == "Bearer"


def test_a_token_may_come_in_its_own_header_and_a_password_with_every_request(http: httpx.Client) -> None:
    token = tokens_of(sign_in(http))["access_token"]
    assert http.get(JOBS, headers={"token": token}).status_code == 200
    assert_status_object(http.get(JOBS, headers={"token": "wrong"}), 401, "Unauthorized")
    assert http.get(JOBS, auth=("she", USERS["she"])).status_code == 200
    for _ in range(5):
        assert_status_object(http.get(JOBS, auth=("she", "wrong")), 401, "Unauthorized")
    assert http.get(JOBS, auth=("she", USERS["she"])).status_code == 401  # locked


@pytest.mark.parametrize(
    ("user", "password"), [("you", "wrong"), ("you", ""), ("you", USERS["she"]), ("nobody", "s3cret"), ("", "")]
)
def test_a_wrong_password_gets_nothing(http: httpx.Client, user: str, password: str) -> None:
    assert_oauth_error(sign_in(http, user, password), 400, "invalid_grant")


@pytest.mark.parametrize("form", [{}, {"grant_type": "client_credentials"}, {"username": "you"}])
def test_no_other_way_to_a_token(http: httpx.Client, form: dict[str, str]) -> None:
    assert_oauth_error(http.post("/oauth/token", data=form), 400, "unsupported_grant_type")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"%ff=%fe", b"&&&=", b"grant_type", b"grant_type=password"])
def test_what_is_no_form_gets_nothing(http: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert http.post("/oauth/token", content=content, headers=headers).status_code == 400


def test_only_forms_get_tokens_and_nothing_else_takes_forms(http: httpx.Client, own: Api) -> None:
    form = {"grant_type": "password", "username": "you", "password": USERS["you"]}
    assert_refused(http.post("/oauth/token", json=form), 415, "application/x-www-form-urlencoded")
    headers = bearer(tokens_of(sign_in(http))["access_token"])
    assert_refused(http.post(f"{JOBS}/x", data=form, headers=headers), 415, "application/json")
    assert own.http.get(f"{JOBS}/x").status_code == 404


def test_a_page_of_another_name_gets_no_token(http: httpx.Client) -> None:
    form = {"grant_type": "password", "username": "you", "password": USERS["you"]}
    assert_refused(http.post("/oauth/token", data=form, headers={"Host": "evil.example"}), 403, "Host")
    response = http.post("/oauth/token", data=form, headers={"Origin": "http://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_where_nobody_may_sign_in_there_is_no_such_address(api: Api) -> None:
    assert api.http.get("/oauth/token").status_code == 404
    assert_refused(sign_in(api.http), 415, "application/json")


# How long they are good -----------------------------------------------------------------------------------------


def test_an_access_token_expires(http: httpx.Client, clock: Clock) -> None:
    headers = bearer(tokens_of(sign_in(http))["access_token"])
    clock.seconds += 7199
    assert http.get(JOBS, headers=headers).status_code == 200
    clock.seconds += 1
    assert_status_object(http.get(JOBS, headers=headers), 401, "Unauthorized")


def test_a_refresh_token_outlives_it_and_gets_new_ones(http: httpx.Client, clock: Clock) -> None:
    tokens = tokens_of(sign_in(http))
    clock.seconds += 2 * 7200 - 1
    new = tokens_of(refresh(http, tokens["refresh_token"]))
    assert http.get(JOBS, headers=bearer(new["access_token"])).status_code == 200
    clock.seconds += 1
    assert_oauth_error(refresh(http, tokens["refresh_token"]), 400, "invalid_grant")
    tokens_of(refresh(http, new["refresh_token"]))


def test_each_token_is_good_for_its_own_purpose(http: httpx.Client) -> None:
    tokens = tokens_of(sign_in(http))
    assert_oauth_error(refresh(http, tokens["access_token"]), 400, "invalid_grant")
    assert_oauth_error(refresh(http, ""), 400, "invalid_grant")
    assert_status_object(http.get(JOBS, headers=bearer(tokens["refresh_token"])), 401, "Unauthorized")


def test_the_life_of_tokens_can_be_chosen(images_file: Path, tmp_path: Path, clock: Clock) -> None:
    sign_in_here = SignIn(USERS, expires_in=60, clock=clock)
    with (
        Emulator(tmp_path, images=images_file, sign_in=sign_in_here) as emulator,
        httpx.Client(base_url=emulator.url, trust_env=False, verify=False) as http,
    ):
        tokens = tokens_of(sign_in(http))
        assert tokens["expires_in"] == 60
        clock.seconds += 60
        assert http.get(JOBS, headers=bearer(tokens["access_token"])).status_code == 401


# Too many wrong passwords ---------------------------------------------------------------------------------------


def test_five_wrong_passwords_keep_a_user_out_for_half_an_hour(http: httpx.Client, clock: Clock) -> None:
    tokens = tokens_of(sign_in(http))
    for _ in range(5):
        assert_oauth_error(sign_in(http, password="wrong"), 400, "invalid_grant")
        clock.seconds += 1
    for password in ("wrong", USERS["you"]):
        assert_oauth_error(sign_in(http, password=password), 429, "invalid_grant")
    tokens_of(sign_in(http, "she", USERS["she"]))
    tokens_of(refresh(http, tokens["refresh_token"]))
    assert http.get(JOBS, headers=bearer(tokens["access_token"])).status_code == 200
    clock.seconds += HALF_AN_HOUR - 2
    assert sign_in(http).status_code == 429
    clock.seconds += 1
    assert sign_in(http, password="wrong").status_code == 400
    tokens_of(sign_in(http))


def test_wrong_passwords_far_apart_keep_nobody_out(http: httpx.Client, clock: Clock) -> None:
    for _ in range(10):
        assert sign_in(http, password="wrong").status_code == 400
        clock.seconds += HALF_AN_HOUR / 4
    tokens_of(sign_in(http))


# What they are good for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        ("GET", JOBS),
        ("GET", f"{JOBS}/x"),
        ("GET", f"{JOBS}/x/log"),
        ("POST", f"{JOBS}/x"),
        ("DELETE", f"{JOBS}/x"),
        ("GET", JOBS.replace("/clusters/host", "")),
        ("GET", ELSEWHERE),
        ("GET", SERVINGS),
        ("GET", f"{SERVINGS}/x"),
        ("POST", SERVINGS),
        ("PUT", f"{SERVINGS}/x/stop"),
        ("DELETE", f"{SERVINGS}/x"),
        ("OPTIONS", JOBS),
        ("GET", "/emulator/ledger"),
        ("GET", "/openapi.json"),
        ("POST", "/"),
        ("GET", "/oauth/token/"),
        ("GET", "/nowhere"),
    ],
)
def test_every_call_needs_a_token(http: httpx.Client, ask: tuple[str, str]) -> None:
    token = tokens_of(sign_in(http))["access_token"]
    assert_status_object(http.request(*ask), 401, "Unauthorized")
    for authorization in ("", "Bearer", "Bearer wrong", f"Basic {token}", token, f"Bearer {token}x", "é"):
        response = http.request(*ask, headers={b"Authorization": authorization.encode()})
        assert_status_object(response, 401, "Unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/healthz"])
def test_whether_it_is_there_is_told_to_anybody(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_another_namespace_is_forbidden(http: httpx.Client, own: Api, method: str) -> None:
    headers = bearer(tokens_of(sign_in(http))["access_token"])
    body = own.job_body(name="x", code=None, datasets=[])
    for root in (ELSEWHERE, ELSEWHERE.replace("/clusters/host", ""), SERVINGS.replace("/inference/", "/other/")):
        response = http.request(method, f"{root}/x", headers=headers, json=body if method == "POST" else None)
        assert_status_object(response, 403, "Forbidden")
        assert "'you'" in response.json()["message"]
    assert own.http.get(f"{ELSEWHERE}/x").status_code == 404


def test_a_collection_of_another_namespace_is_forbidden(http: httpx.Client) -> None:
    headers = bearer(tokens_of(sign_in(http))["access_token"])
    for address in (ELSEWHERE, SERVINGS.replace("/namespaces/inference", "/namespaces/bita-user-2")):
        assert_status_object(http.get(address, headers=headers), 403, "Forbidden")


def test_the_namespaces_can_be_chosen(images_file: Path, tmp_path: Path) -> None:
    sign_in_here = SignIn(USERS, namespaces=["kube-system"])
    with (
        Emulator(tmp_path, images=images_file, sign_in=sign_in_here) as emulator,
        httpx.Client(base_url=emulator.url, trust_env=False, verify=False) as http,
    ):
        headers = bearer(tokens_of(sign_in(http))["access_token"])
        assert http.get(ELSEWHERE, headers=headers).status_code == 200
        assert_status_object(http.get(JOBS, headers=headers), 403, "Forbidden")


def test_the_emulators_own_token_is_good_for_everything(own: Api, clock: Clock) -> None:
    clock.seconds += 365 * 24 * 3600
    for path in (JOBS, ELSEWHERE, SERVINGS, "/emulator/ledger"):
        assert own.http.get(path).status_code == 200
    body = own.job_body(name="own", code=None, datasets=[])
    assert own.http.post(f"{ELSEWHERE}/own", json=body).status_code == 200


def test_who_signed_in_sees_the_token_of_a_serving(http: httpx.Client, own: Api) -> None:
    name = own.serve("sleep 60")
    headers = bearer(tokens_of(sign_in(http))["access_token"])
    assert len(http.get(f"{SERVINGS}/{name}", headers=headers).json()["data"]["token"]) == 32


# The package's client -------------------------------------------------------------------------------------------


def test_a_job_is_submitted_with_an_access_token(http: httpx.Client, make_client: MakeClient) -> None:
    client = make_client(tokens_of(sign_in(http))["access_token"])
    client.send(submit_job(spec("signed-in")))
    assert client.run(wait_for_job("signed-in", poll_interval=0.02)).status is JobStatus.SUCCEEDED
    assert [*client.send(list_jobs()).jobs] == ["signed-in"]


def test_the_ledger_tells_who_submitted_a_job(
    http: httpx.Client, make_client: MakeClient, guarded: Emulator, own: Api
) -> None:
    make_client(tokens_of(sign_in(http))["access_token"]).send(submit_job(spec("mine")))
    make_client(guarded.token).send(submit_job(spec("nobodys")))
    *_, first, second = own.http.get("/emulator/ledger").json()["data"]
    assert [(entry["name"], entry["user"]) for entry in (first, second)] == [("mine", "you"), ("nobodys", "")]


def test_who_signed_in_sees_own_namespaces_in_the_ledger(http: httpx.Client, guarded: Emulator, own: Api) -> None:
    headers = bearer(tokens_of(sign_in(http))["access_token"])
    for namespace in ("bita-user", "kube-system"):
        guarded.scripts.add(ScriptedJob())
        assert own.http.post(f"{JOBS}/both".replace("bita-user", namespace), json=own.job_body(name="both")).is_success
    seen = [http.get("/emulator/ledger", headers=headers), own.http.get("/emulator/ledger")]
    mine, everything = [{entry["namespace"] for entry in answer.json()["data"]} for answer in seen]
    assert mine == {"bita-user"}
    assert everything >= {"bita-user", "kube-system"}


def test_who_signed_in_may_look_at_the_faults_but_not_change_them(http: httpx.Client) -> None:
    headers = bearer(tokens_of(sign_in(http))["access_token"])
    assert http.get("/emulator/faults", headers=headers).json()["data"] == []
    assert_status_object(http.delete("/emulator/faults", headers=headers), 403, "Forbidden")


def test_a_token_that_has_expired_is_told_apart(http: httpx.Client, make_client: MakeClient, clock: Clock) -> None:
    client = make_client(tokens_of(sign_in(http))["access_token"])
    client.send(submit_job(spec("expiring")))
    clock.seconds += 7200
    calls: list[Call[Any]] = [get_job("expiring"), submit_job(spec("too-late"))]
    for call in calls:
        with pytest.raises(AuthenticationError, match="expired"):
            client.send(call)


def test_a_forbidden_namespace_is_told_apart(http: httpx.Client, make_client: MakeClient) -> None:
    client = make_client(tokens_of(sign_in(http))["access_token"], namespace="kube-system")
    calls: list[Call[Any]] = [get_job("x"), submit_job(spec("x"))]
    for call in calls:
        with pytest.raises(PermissionDeniedError, match=r"user 'you' may not work in namespace 'kube-system'"):
            client.send(call)


# Secrets --------------------------------------------------------------------------------------------------------


def test_no_secret_in_any_words(guarded: Emulator, http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = tokens_of(sign_in(http))
    told = [refresh(http, "wr0ng").text, http.get(JOBS, headers=bearer("wr0ng")).text]
    told += [sign_in(http, password="wr0ng").text for _ in range(6)]
    told += [http.get(ELSEWHERE, headers=bearer(tokens["access_token"])).text, caplog.text]
    told += [repr(guarded), repr(guarded._sign_in), str(vars(guarded))]
    for secret in (*USERS.values(), "wr0ng", tokens["access_token"], tokens["refresh_token"]):
        assert secret not in "\n".join(told)


@pytest.mark.parametrize("users", [{"": "password"}, {"you": ""}, {"you": "password", "she": ""}])
def test_nobody_without_a_name_or_a_password(users: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        SignIn(users)


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_token_that_is_never_good(seconds: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{seconds} seconds"):
        SignIn(USERS, expires_in=seconds)

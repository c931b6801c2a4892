"""The emulator runs commands, so it must not accept them from everyone."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError
from tests.emulator.conftest import JOBS, SERVINGS, Api, assert_refused


@pytest.fixture
def stranger(emulator: Emulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=emulator.url, trust_env=False, verify=False) as client:
        yield client


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x", "é"]
)
@pytest.mark.parametrize("ask", [("POST", f"{JOBS}/x"), ("DELETE", f"{JOBS}/x"), ("PUT", f"{SERVINGS}/x/stop")])
def test_changes_need_the_token(
    api: Api, stranger: httpx.Client, authorization: str | None, ask: tuple[str, str]
) -> None:
    headers = {b"Content-Type": b"application/json"}
    if authorization is not None:
        headers[b"Authorization"] = authorization.format(token=api.emulator.token).encode()
    content = json.dumps(api.job_body(name="x"))
    response = stranger.request(*ask, headers=headers, content=content)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    body = response.json()
    assert (body["kind"], body["status"], body["reason"], body["code"]) == ("Status", "Failure", "Unauthorized", 401)
    assert api.emulator.token not in response.text
    assert stranger.get(f"{JOBS}/x").status_code == 404, "looking is free, and nothing happened"


def test_only_who_knows_the_token_sees_a_servings_token(api: Api, stranger: httpx.Client) -> None:
    name = api.serve("sleep 60")
    assert len(api.serving(name)["token"]) == 32
    assert stranger.get(f"{SERVINGS}/{name}").json()["data"]["token"] == ""
    assert stranger.get(SERVINGS).json()["data"]["items"][0]["token"] == ""
    api.http.delete(f"{SERVINGS}/{name}")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:{port}", "", "localhost:x", "[::1", "a b"],
)
def test_unknown_host(api: Api, host: str) -> None:
    host = host.format(port=httpx.URL(api.emulator.url).port)
    for path in ("/", JOBS, "/nowhere"):
        assert_refused(api.http.get(path, headers={"Host": host}), 403, "Host")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8770", "LOCALHOST:1", "[::1]:8770"])
def test_known_host(api: Api, host: str) -> None:
    assert api.http.get("/", headers={"Host": host}).status_code == 200


def test_further_hosts(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, allowed_hosts=["emulator"]) as emulator, httpx.Client() as client:
        assert client.get(emulator.url, headers={"Host": "emulator:8770"}).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", None]
)
def test_web_pages_cannot_post(api: Api, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps(api.job_body(name="posted"))
    assert_refused(api.http.post(f"{JOBS}/posted", content=body, headers=headers), 415, "application/json")
    assert api.http.get(f"{JOBS}/posted").status_code == 404


def test_no_cors(stranger: httpx.Client) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    response = stranger.options(f"{JOBS}/x", headers=headers)
    assert response.status_code == 405
    for answer in (response, stranger.get(JOBS, headers=headers)):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_large_and_endless_bodies(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    assert_refused(api.http.post(f"{JOBS}/x", content=b" " * (1 << 20) + b"{}", headers=headers), 413)
    assert_refused(api.http.post(f"{JOBS}/x", content=iter([b"{}"]), headers=headers), 411)


def test_listens_on_the_loopback_only(emulator: Emulator) -> None:
    port = httpx.URL(emulator.url).port or 0
    addresses = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses:
        if not address.startswith("127."):
            with pytest.raises(OSError), socket.create_connection((address, port), timeout=1):  # noqa: PT011
                pass


@pytest.mark.parametrize("depth", [33, 200, 10_000])
@pytest.mark.parametrize("body", ["job", "serving", "fault"])
def test_deeply_nested_bodies(api: Api, body: str, depth: int) -> None:
    path, document = {
        "job": (f"{JOBS}/deep", api.job_body(name="deep", capabilities=["DEEP"])),
        "serving": (SERVINGS, api.serving_body(name="deep", config="DEEP")),
        "fault": ("/emulator/faults", {"match": {}, "effect": {"before": {"status": 500, "body": "DEEP"}}}),
    }[body]
    content = json.dumps(document).replace('"DEEP"', "[" * depth + "]" * depth)
    response = api.http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert_refused(response, 400)
    assert api.http.get(f"{JOBS}/deep").status_code == api.http.get(f"{SERVINGS}/deep").status_code == 404
    assert api.http.get("/emulator/faults").json()["data"] == []


def test_reading_needs_the_token_where_that_is_asked_for(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, token_for_reading=True) as emulator:
        api = Api(emulator)
        with api.http, httpx.Client(base_url=emulator.url, trust_env=False, verify=False) as stranger:
            for method in ("GET", "HEAD", "OPTIONS"):
                for path in (JOBS, f"{JOBS}/x/log", SERVINGS, "/emulator/ledger", "/openapi.json", "/nowhere"):
                    assert stranger.request(method, path).status_code == 401
            assert stranger.get("/healthz").status_code == api.http.get(JOBS).status_code == 200


def test_another_prefix(tmp_path: Path) -> None:
    with Emulator(tmp_path, prefix="kapis", mounts="links") as emulator:
        headers = {"Authorization": f"Bearer {emulator.token}"}
        with httpx.Client(base_url=emulator.url, headers=headers, trust_env=False, verify=False) as http:
            for path in (JOBS, SERVINGS, f"{JOBS}/x"):
                answer = http.get(path)
                assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (404, "text/plain")
            assert http.get(JOBS.replace("lapis", "kapis")).status_code == 200
            assert http.get(SERVINGS.replace("lapis", "kapis")).status_code == 200
        assert emulator.connection()["extra"]["prefix"] == "kapis"


@pytest.mark.parametrize("auth", ["bearer", "header", "basic", "kubesphere"])
def test_an_installation_may_accept_only_one_way_of_signing_requests(tmp_path: Path, auth: str) -> None:
    sign_in = SignIn({"you": "s3cret"})
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(tmp_path, sign_in=sign_in, auth=auth, mounts="links"))
        http = stack.enter_context(httpx.Client(base_url=emulator.url, trust_env=False, verify=False))
        form = {"grant_type": "password", "username": "you", "password": "s3cret"}
        signed_in = http.post("/oauth/token", data=form)
        assert signed_in.status_code == (200 if auth == "kubesphere" else 404)
        ways = {
            "bearer": {"Authorization": f"Bearer {emulator.token}"},
            "header": {"token": emulator.token},
            "basic": {"Authorization": f"Basic {base64.b64encode(b'you:s3cret').decode()}"},
        }
        if auth == "kubesphere":
            ways[auth] = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
        accepted = {way for way, headers in ways.items() if http.get(JOBS, headers=headers).status_code == 200}
        assert accepted == {auth}
        # The emulator's own routes are no part of the platform.
        assert http.delete("/emulator/faults", headers=ways["bearer"]).status_code == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [({"prefix": "a/b"}, "prefix"), ({"prefix": "emulator"}, "prefix"), ({"auth": "oauth"}, "choose one of any"),
     ({"auth": "basic"}, "no user who may sign in")],
)  # fmt: skip
def test_an_installation_that_cannot_be(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Emulator(**options)  # type: ignore[arg-type]

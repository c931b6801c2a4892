"""What the Test button says about each thing that can be wrong, over a real socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConnectFailedError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.diagnosis import diagnose
from airflow_bitahub.hooks.sessions import sessions_of
from tests.ports import free_port
from tests.transport import certify, tls_gateway

USER, PASSWORD = "ann", "correct-horse"
Connect = Callable[..., BitaHubHook]

pytestmark = pytest.mark.usefixtures("variables")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("home"), sign_in=SignIn({USER: PASSWORD}), mounts="links") as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def _another_process() -> None:
    sessions_of.cache_clear()


@contextmanager
def server(status: int, body: Any, headers: dict[str, str] | None = None) -> Iterator[int]:
    """A server that gives one answer to everything, and its port. As a proxy, it gives it to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in {**(headers or {}), "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_CONNECT = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield listener.server_port
    listener.shutdown()
    listener.server_close()
    thread.join()


def says(connect: Connect, *words: str, extra: dict[str, Any] | None = None, **fields: Any) -> str:
    """Test a connection that does not work, and return what is said; it must contain these words."""
    works, message = connect(extra, **fields).test_connection()
    assert works is False
    for word in words:
        assert word in message
    assert PASSWORD not in message
    return message


# The way there ----------------------------------------------------------------------------------------------------


def test_a_host_that_nobody_knows(connect: Connect) -> None:
    says(connect, "Wrong: address. No name server knows the host 'no-such-host.invalid'", host="no-such-host.invalid")


def test_a_port_on_which_nothing_listens(connect: Connect) -> None:
    port = free_port()
    says(connect, f"Wrong: address. The machine '127.0.0.1' answers, but nothing listens on its port {port}",
         host=f"http://127.0.0.1:{port}")  # fmt: skip


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({}, "self-signed certificate). Set 'verify'"),
        ({"ends": -1}, "has expired). Have it renewed"),
        ({"address": "127.0.0.2"}, "a name that the certificate is made for"),
    ],
)
def test_a_certificate_that_is_refused(connect: Connect, tmp_path: Path, made: dict[str, Any], why: str) -> None:
    pair = certify(tmp_path, "platform", **made)
    verify = {"verify": str(pair.certificate_file)} if made else {}
    with tls_gateway("http://127.0.0.1", pair) as gateway:  # nobody gets through it
        says(connect, "Wrong: certificate.", why, host=gateway.url, extra=verify)


def test_a_scheme_that_the_port_does_not_speak(connect: Connect, emulator: Emulator, tmp_path: Path) -> None:
    https = emulator.url.replace("http:", "https:")
    says(connect, "Wrong: address.", "does not speak TLS", "begin the host with http://", host=https)
    with tls_gateway(emulator.url, certify(tmp_path, "platform")) as gateway:
        says(connect, "Wrong: address.", "should begin with https://", host=gateway.url.replace("https:", "http:"))
    with server(400, "Client sent an HTTP request to an HTTPS server.") as port:
        says(connect, "Wrong: address.", "begin the host with https://", host=f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses(connect: Connect, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with server(407, "who are you?") as port:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{port}")
        says(connect, "Wrong: proxy. The proxy answers 407", host=f"{scheme}://platform.example.com")
    says(connect, "Wrong: proxy.", "nothing was reached", f"127.0.0.1:{port}", host=f"{scheme}://platform.example.com")
    if scheme == "https":
        with server(403, "no") as port:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
            says(connect, "Wrong: proxy. The proxy answers, and refuses", host="https://platform.example.com")


def test_the_port_of_a_proxy_is_not_its_answer(connect: Connect) -> None:
    error = ConnectFailedError("The proxy http://127.0.0.1:40755/ refused the connection (403 Forbidden).", "proxy")
    settings = connect(host="https://platform.example.com").settings
    assert "The proxy answers, and refuses" in str(diagnose(error, settings))


# The address ------------------------------------------------------------------------------------------------------


def test_a_wrong_prefix(connect: Connect, emulator: Emulator) -> None:
    fields = {"host": emulator.url, "password": emulator.token}
    words = ("Wrong: gateway prefix. The gateway answers 404 in plain text", "check the extra 'prefix' (now 'kapis')")
    says(connect, *words, extra={"prefix": "kapis"}, **fields)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, "cluster host not found", "Wrong: cluster. The gateway answers 'cluster host not found'"),
        (404, {"kind": "Status", "message": 'namespaces "bita-user" not found'}, "Wrong: namespace."),
        (404, {"status": {"code": 404, "msg": "no such namespace"}}, "Wrong: namespace. The platform itself answers"),
        (404, "<html><body>nginx</body></html>", "Wrong: address. Something answers (HTTP 404), but with a page"),
        (200, "<!DOCTYPE html><title>Sign in</title>", "Wrong: address. Something answers (HTTP 200), but with a page"),
        (400, "bad", "Wrong: gateway. Something in front"),
        (401, {"status": {"code": 401, "msg": "expired"}}, "Wrong: token. The platform itself answers, in its"),
        (401, "who?", "Wrong: token. The gateway answers that it does not know the user"),
        (403, {"kind": "Status", "message": "User system:anonymous cannot list"}, "took the request for that of"),
        (403, {"kind": "Status", "message": 'cannot list in the namespace "bita-user"'}, "Wrong: namespace. The"),
        (403, {"status": {"code": 403, "msg": "no"}}, "Wrong: permission. The platform itself knows the user"),
        (200, {"status": {"code": 0, "msg": "success"}, "data": "no list"}, "answers in its own form, but what its"),
        (429, "slow down", "too many requests"),
        (502, "bad gateway", "Nothing shows that the connection is wrong"),
    ],
)  # fmt: skip
def test_what_an_answer_says(connect: Connect, status: int, body: Any, words: str) -> None:
    with server(status, body) as port:
        says(connect, words, host=f"http://127.0.0.1:{port}", password="a-token")


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (Effect(before="close"), "Wrong: address. 127.0.0.1 port"),
        (Effect(after=Answer(status=504, body="<html>504 Gateway Time-out</html>")), "answers that it failed itself"),
        (Effect(after=Answer(body='{"status": {"co')), "Wrong: address. Something answers (HTTP 200)"),
        (Effect(before=Answer(status=401, body={"kind": "Status", "message": "expired"})), "Wrong: token. The gateway"),
        (Effect(delay=5), "sent no complete answer in time"),
    ],
)
def test_what_an_emulated_fault_says(connect: Connect, emulator: Emulator, effect: Effect, words: str) -> None:
    fault = emulator.faults.add(Fault(match=Match(method="GET", path="*/jobs"), effect=effect))
    says(connect, words, host=emulator.url, password=emulator.token, extra={"request_timeout": 0.5})
    emulator.faults.remove(fault.id)


def test_a_redirection(connect: Connect) -> None:
    with server(301, "", {"location": "https://platform.example.com/login"}) as port:
        says(connect, "Wrong: address.", "sends the request on to https://platform.example.com/login",
             host=f"http://127.0.0.1:{port}")  # fmt: skip


def test_a_server_that_says_nothing(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        says(connect, "sent no complete answer in time", host=host, extra={"request_timeout": 0.3})


# The user ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, ("Wrong: token. The gateway answers", "set the extra 'auth' to 'kubesphere'")),
        ({"auth": "header"}, ("Wrong: token.", "in the header 'token'")),
        ({"auth": "none"}, ("Wrong: auth.", "No password is sent")),
        ({"auth": "basic"}, ("Wrong: password.", "five wrong passwords lock the account")),
        ({"auth": "kubesphere"}, ("Wrong: password. The sign-in refuses",)),
    ],
)
def test_a_wrong_password(connect: Connect, emulator: Emulator, extra: dict[str, Any], words: tuple[str, ...]) -> None:
    message = says(connect, *words, host=emulator.url, login=USER, password="wrong-horse", extra=extra)
    assert "wrong-horse" not in message


@pytest.mark.parametrize("auth", ["basic", "kubesphere"])
def test_a_wrong_namespace(connect: Connect, emulator: Emulator, auth: str) -> None:
    words = "Wrong: namespace. The gateway knows the user, and does not allow the namespace 'bita' (HTTP 403)"
    fields = {"host": emulator.url, "login": USER, "password": PASSWORD}
    says(connect, words, extra={"auth": auth, "job_namespace": "bita"}, **fields)


def test_a_sign_in_that_is_not_there(connect: Connect, emulator: Emulator) -> None:
    extra = {"auth": "kubesphere", "endpoints": {"sign_in": "POST /login"}}
    says(
        connect,
        "Wrong: auth.",
        "it has none at 'POST /login'",
        host=emulator.url,
        login=USER,
        password=PASSWORD,
        extra=extra,
    )


def test_a_sign_in_that_fails_whatever_the_password(connect: Connect) -> None:
    with server(403, "<html>Forbidden") as port:
        says(
            connect,
            "Wrong: sign-in.",
            "says nothing about the password",
            "HTTP 403",
            host=f"http://127.0.0.1:{port}",
            login=USER,
            password=PASSWORD,
            extra={"auth": "kubesphere"},
        )


def test_a_client_and_an_account_that_are_refused(connect: Connect, tmp_path: Path) -> None:
    sign_in = SignIn({USER: PASSWORD}, client=("airflow", "secret-of-airflow"))
    with Emulator(tmp_path, sign_in=sign_in, mounts="links") as emulator:
        fields = {"host": emulator.url, "login": USER, "password": PASSWORD}
        says(connect, "Wrong: client.", "'client_id' and 'client_secret'", extra={"auth": "kubesphere"}, **fields)
        extra = {"auth": "kubesphere", "client_id": "airflow", "client_secret": "secret-of-airflow"}
        for _ in range(5):
            with pytest.raises(Exception, match="wrong"):
                sign_in.check_password(USER, "wrong")
        says(connect, "Wrong: account. It is locked", extra=extra, **fields)

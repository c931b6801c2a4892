"""What clients can occupy is bounded."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from airflow_bitahub.emulator import listener
from airflow_bitahub.emulator.server import Emulator
from tests.conftest import until
from tests.emulator.conftest import JOBS, Api
from tests.emulator.test_server import COMMAND, environment, read_greeting, started

__all__ = ["environment"]  # a fixture
HEAD = "POST {jobs}/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
BODY = "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"


@pytest.fixture(scope="module", params=[H11Protocol, HttpToolsProtocol])
def emulator(
    request: pytest.FixtureRequest, images_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulator]:
    """An emulator with either of the protocols that uvicorn may choose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "AutoHTTPProtocol", request.param)
        with Emulator(tmp_path_factory.mktemp("home"), images=images_file, mounts="links") as emulator:
            yield emulator


@contextlib.contextmanager
def connections(url: str, number: int) -> Iterator[list[socket.socket]]:
    address = (httpx.URL(url).host, httpx.URL(url).port or 0)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(number)]


def rest_of(connection: socket.socket) -> bytes:
    """Return what still comes, until the emulator closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


@pytest.mark.parametrize("sent", ["", HEAD, HEAD + BODY, HEAD + BODY + "1"])
def test_who_sends_nothing_more_is_disconnected(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sent: str
) -> None:
    monkeypatch.setattr(listener, "_CLIENT_SECONDS", 0.05)
    monkeypatch.setattr(listener, "_CHECK_SECONDS", 0.05)
    with connections(emulator.url, 1) as [connection]:
        connection.sendall(sent.format(jobs=JOBS, token=emulator.token).encode())
        assert rest_of(connection) == b""
    assert caplog.text == ""


def test_head_of_a_request_is_bounded(emulator: Emulator) -> None:
    with connections(emulator.url, 1) as [connection]:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"X-Header: 1\r\n" * (1 << 22))


def test_connections_are_bounded(emulator: Emulator, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.http.get("/healthz").status_code == 200
    monkeypatch.setattr(listener, "_max_connections", lambda: 3)
    with connections(emulator.url, 4) as idle:
        assert rest_of(idle[-1]).startswith(b"HTTP/1.1 503")
        assert api.http.get("/healthz").status_code == 200, "who is in is served"
    until(lambda: httpx.get(f"{emulator.url}/healthz", trust_env=False).status_code, lambda status: status == 200)


def test_few_files_are_survived_in_few_words(images_file: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    command = [*COMMAND, "--port", "0", "--home", str(tmp_path), "--images", str(images_file), "--mounts", "links"]
    argv = ["/bin/sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *command]
    with started(argv, environment, stderr=subprocess.PIPE) as process:
        url = httpx.URL(read_greeting(process).split()[2])

        def health() -> int:
            try:
                return httpx.get(url.join("/healthz"), trust_env=False).status_code
            except httpx.TransportError:
                return 0

        for _ in range(3):
            with connections(str(url), 100):
                assert health() != 200
        until(health, lambda status: status == 200)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert len(errors.splitlines()) < 12, errors

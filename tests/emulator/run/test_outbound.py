"""The way out of a network of its own: the proxy in the sandbox, and the emulator that opens the connections."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from airflow_bitahub.emulator.mounts import relay
from airflow_bitahub.emulator.run.outbound import Outbound

# This machine, by an address that does not count as the program's own.
MACHINE = "0.0.0.0"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body += f" {self.requestline} {self.headers['Host']} {self.headers['Proxy-Connection']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a web server on `MACHINE`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def through_proxy(folder: Path, talk: Callable[[HTTPConnection], str]) -> str:
    async def serve() -> str:
        file = folder / "outside"
        async with Outbound(file):
            server = await asyncio.start_server(relay.proxy(str(file)), "127.0.0.1", 0)
            proxy = HTTPConnection("127.0.0.1", server.sockets[0].getsockname()[1], timeout=10)
            try:
                return await asyncio.to_thread(talk, proxy)
            finally:
                proxy.close()
                server.close()

    return asyncio.run(serve())


def test_requests_reach_other_machines(port: int, tmp_path: Path) -> None:
    def talk(proxy: HTTPConnection) -> str:
        proxy.request("POST", f"http://{MACHINE}:{port}/a%20b?c=d", b"x" * 10**6, {"Proxy-Connection": "keep-alive"})
        return proxy.getresponse().read().decode()

    said = through_proxy(tmp_path, talk)
    assert said == f"{'x' * 10**6} POST /a%20b?c=d HTTP/1.1 {MACHINE}:{port} None"


def test_tunnels_reach_other_machines(port: int, tmp_path: Path) -> None:
    def talk(proxy: HTTPConnection) -> str:
        proxy.set_tunnel(MACHINE, port)
        proxy.request("POST", "/", b"one")
        first = proxy.getresponse().read().decode()
        proxy.request("POST", "/again", b"two")
        return first + "; " + proxy.getresponse().read().decode()

    said = through_proxy(tmp_path, talk)
    assert said == f"one POST / HTTP/1.1 {MACHINE}:{port} None; two POST /again HTTP/1.1 {MACHINE}:{port} None"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:1/", "[Errno 111] Connect call failed ('127.0.0.1', 1)"),
        ("http://127.0.0.1:99999/", "Port out of range 0-65535"),
        ("ftp://127.0.0.1/", "not the address of a web page: ftp://127.0.0.1/"),
        ("/", "not the address of a web page: /"),
    ],
)
def test_why_there_is_no_connection_is_told(address: str, reason: str, tmp_path: Path) -> None:
    def talk(proxy: HTTPConnection) -> str:
        proxy.request("GET", address)
        answer = proxy.getresponse()
        return f"{answer.status} {answer.reason}"

    assert through_proxy(tmp_path, talk) == f"502 {reason}"

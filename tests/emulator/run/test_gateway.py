"""Requests at the address of a serving."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.emulator.server import Emulator
from tests.emulator.conftest import SERVINGS, TELL_PID, Api, ask

# What stands at its address ---------------------------------------------------------------------------------------

ECHO = """python -c '
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        if self.path == "/die":
            os._exit(1)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(418, "odd")
        for name, value in (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Was", self.requestline)):
            self.send_header(name, value)
        if self.path == "/break":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\\r\\nhalf\\r\\n")
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()'"""


# Answers whatever the request's body is, byte for byte, and prints the head of the request.
RAW = """python -c '
import os, socket
with socket.create_server((os.environ["HOST"], int(os.environ["PORT"]))) as listener:
    while True:
        connection, _ = listener.accept()
        with connection:
            data = b""
            while b"\\r\\n\\r\\n" not in data or not data.endswith(b"END"):
                data += connection.recv(65536)
            head, _, body = data.partition(b"\\r\\n\\r\\n")
            print(head.decode("latin-1"), flush=True)
            connection.sendall(body[:-3])
'"""


@pytest.fixture(scope="module")
def raw(api: Api) -> Iterator[tuple[str, httpx.Client]]:
    name = api.serve(RAW)
    with httpx.Client(base_url=api.wait_serving(name, "RUNNING")["hosts"], trust_env=False, verify=False) as http:
        api.until(lambda: http.post("/", content=b"HTTP/1.1 200 OK\r\n\r\nEND").status_code, lambda code: code == 200)
        yield name, http
    api.http.delete(f"{SERVINGS}/{name}")


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        ("200 OK\r\n\r\nwell", 200, "well"),
        ("299 Odd\r\nContent-Length: 4\r\n\r\nwell", 299, "well"),
        ("520 Odder\r\n\r\nwell", 520, "well"),
        ("100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nwell", 200, "well"),
        ("204 No Content\r\nContent-Length: 4\r\n\r\n", 204, ""),
        ("304 Not Modified\r\nContent-Length: 4\r\n\r\n", 304, ""),
        ("200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n4\r\nwell\r\n0\r\n\r\n", 200, "well"),
        ("200 OK\r\nX-Odd: a\x01\x7fb\r\n\r\nwell", 200, "well"),
        ("999 Strange\r\n\r\n", 502, "999"),
        ("101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 502, "the program"),
        ("099 None\r\n\r\n", 502, "the program"),
        ("0 None\r\n\r\n", 502, "the program"),
        ("nonsense", 502, "the program"),
    ],
)
def test_odd_answers_are_passed_on_or_told(
    raw: tuple[str, httpx.Client], caplog: pytest.LogCaptureFixture, answer: str, status: int, text: str
) -> None:
    seen = raw[1].post("/", content=f"HTTP/1.1 {answer}END".encode("latin-1"))
    assert seen.status_code == status
    assert text in seen.text
    assert "X-Odd" not in answer or seen.headers["x-odd"] == "a  b"
    assert "Traceback" not in caplog.text


def test_headers_for_one_connection_are_not_passed_on(api: Api, raw: tuple[str, httpx.Client]) -> None:
    name, http = raw
    mine = {"Connection": "keep-alive, X-Mine", "Keep-Alive": "timeout=7", "X-Mine": "7", "TE": "trailers"}
    theirs = "Connection: X-Theirs\r\nKeep-Alive: timeout=7\r\nX-Theirs: 7\r\nProxy-Connection: close\r\nX-All: 7"
    content = f"HTTP/1.1 200 OK\r\n{theirs}\r\n\r\nEND".encode()
    answer = http.post("/", content=content, headers={**mine, "X-All": "seven"})
    assert {"x-all"} == answer.headers.keys() & {"x-all", "x-theirs", "keep-alive", "proxy-connection", "connection"}
    log = api.http.get(f"{SERVINGS}/{name}/log").json()["data"]["log"].rpartition("POST /")[2].lower()
    assert "x-all: seven" in log
    assert not [header for header in ("x-mine", "keep-alive:", "te:") if f"\n{header}" in log]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Host": "localhost:7", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_other_sites_do_not_reach_the_program(
    raw: tuple[str, httpx.Client], headers: dict[str, str], status: int
) -> None:
    assert raw[1].post("/", content=b"HTTP/1.1 200 OK\r\n\r\nEND", headers=headers).status_code == status


def test_requests_and_answers_are_passed_on_as_they_are(api: Api) -> None:
    name = api.serve(ECHO)
    url = api.wait_serving(name, "RUNNING")["hosts"]
    with httpx.Client(base_url=url, trust_env=False, verify=False) as http:
        assert http.get("/").status_code in (501, 503)
        api.until(lambda: http.get("/").status_code, lambda status: status == 501)
        body = os.urandom(3 << 20)
        answer = http.post("/a%2Fb//c%C3%A4?q=%20x&r", content=body)
        assert (answer.status_code, answer.content) == (418, body)
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert answer.headers["was"] == "POST /a%2Fb//c%C3%A4?q=%20x&r HTTP/1.1"
        assert len(answer.headers.get_list("server")) == len(answer.headers.get_list("date")) == 1
        with pytest.raises(httpx.RemoteProtocolError):
            http.post("/break", content=b"")
        dead = http.post("/die", content=b"")
        assert (dead.status_code, dead.text.split(":")[0]) == (502, "the program gave no answer")
    api.http.delete(f"{SERVINGS}/{name}")


def test_token_is_wanted_where_that_is_asked_for(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, serving_tokens=True) as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            name, other = api.serve(TELL_PID), api.serve(TELL_PID)
            serving = api.wait_serving(name, "RUNNING")
            assert api.until(lambda: ask(serving["hosts"], serving["token"]), bool)
            for wrong in ("", "wrong", "\u00e4", emulator.token, api.serving(other)["token"]):
                headers = {b"Authorization": f"Bearer {wrong}".encode()} if wrong else {}
                refused = httpx.get(serving["hosts"], headers=headers, trust_env=False, verify=False)
                assert (refused.status_code, refused.json()["kind"]) == (401, "Status")
                assert "access token" in refused.json()["message"]
            api.act_on_serving(name, "stop")
            api.act_on_serving(name, "start")
            assert api.until(lambda: ask(serving["hosts"], serving["token"]), bool)
            assert ask(serving["hosts"]) == ""

"""Requests at the address of a serving."""

from __future__ import annotations

import os
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

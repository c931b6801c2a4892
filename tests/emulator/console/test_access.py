"""Anyone who reaches the emulator may look, unless that needs the token too; a change needs it always."""

from __future__ import annotations

import html
import re
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.emulator.console.access import SESSION_SECONDS, Sessions
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.server import Emulator
from tests.emulator.conftest import SERVINGS, Api
from tests.emulator.console.conftest import CONSOLE, sign_in, visitor_of

PAGES = ("jobs", "servings", "models", "capacity", "faults", "session")
FAULT = {"json": '{"effect": {"delay": 1}}'}


def test_the_token_is_typed_once(emulator: Emulator, visitor: httpx.Client) -> None:
    assert visitor.post(f"{CONSOLE}/session", data={"token": emulator.token + "x"}).status_code == 403
    assert not visitor.cookies
    answer = sign_in(visitor, emulator)
    assert answer.headers["location"] == f"{CONSOLE}/faults"
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", f"Path={CONSOLE}"} <= set(cookie.split("; "))
    assert emulator.token not in cookie

    assert visitor.post(f"{CONSOLE}/faults", data=FAULT).headers["location"] == f"{CONSOLE}/faults"
    [armed] = emulator.faults
    assert visitor.post(f"{CONSOLE}/faults/{armed.id}/remove").status_code == 303
    assert list(emulator.faults) == []

    kept = dict(visitor.cookies)
    assert visitor.post(f"{CONSOLE}/session/end").status_code == 303
    assert not visitor.cookies
    visitor.cookies.update(kept)
    assert "/session?next=" in visitor.post(f"{CONSOLE}/faults", data=FAULT).headers["location"]
    assert list(emulator.faults) == []


@pytest.mark.parametrize("path", ["faults", "faults/1/remove", "servings/inference/x/ask", "nowhere"])
def test_changes_need_the_token(emulator: Emulator, visitor: httpx.Client, path: str) -> None:
    for cookie in ("", "wrong", emulator.token):
        visitor.cookies.set(f"bitahub-console-{visitor.base_url.port}", cookie)
        answer = visitor.post(f"{CONSOLE}/{path}", data=FAULT)
        assert answer.headers["location"] == f"{CONSOLE}/session?next={CONSOLE}"
    assert list(emulator.faults) == []


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://{host}"])
@pytest.mark.parametrize("path", ["faults", "session", "session/end"])
def test_only_its_own_pages_may_send_forms(
    emulator: Emulator, owner: httpx.Client, origin: str | None, path: str
) -> None:
    request = owner.build_request("POST", f"{CONSOLE}/{path}", data=FAULT | {"token": emulator.token})
    del request.headers["origin"]
    if origin is not None:
        request.headers["origin"] = origin.format(host=request.headers["host"])
    answer = owner.send(request)
    assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
    assert list(emulator.faults) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_rebound_name_is_refused(visitor: httpx.Client, page: str) -> None:
    assert visitor.get(f"{CONSOLE}/{page}", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "address", ["//evil.example", "http://evil.example", "/console//evil", "/console\\evil", "/console/../x\r\nA: b"]
)
def test_after_the_token_nobody_is_led_elsewhere(emulator: Emulator, visitor: httpx.Client, address: str) -> None:
    form = {"token": emulator.token, "next": address}
    location = visitor.post(f"{CONSOLE}/session", data=form).headers["location"]
    assert re.fullmatch(r"/console(/[^/\\\r\n]*)+", location)


def test_bodies_are_bounded(owner: httpx.Client) -> None:
    assert owner.post(f"{CONSOLE}/faults", content=b"x" * 70_000).status_code == 413
    assert owner.post(f"{CONSOLE}/servings/a/b/ask", content=iter([b"x"])).status_code == 411


@pytest.mark.parametrize(
    "settings", [{"token_for_reading": True}, {"sign_in": SignIn({"you": "s3cret"})}], ids=["flag", "sign-in"]
)
def test_pages_need_the_token_where_queries_do(images_file: Path, tmp_path: Path, settings: dict[str, bool]) -> None:
    with Emulator(tmp_path, images=images_file, **settings) as emulator, visitor_of(emulator) as visitor:  # type: ignore[arg-type]
        paths = [*PAGES[:-1], "jobs/n/x", "jobs/n/x/log", "jobs/n/x/files/a", "jobs/n/x/view/a", "servings/n/x"]
        for path in (*paths, "nowhere", ""):
            answer = visitor.get(f"{CONSOLE}/{path}?state=FAILED")
            assert answer.status_code == 303
            back = f"{CONSOLE}/session?next={CONSOLE}/{path}%3Fstate%3DFAILED"
            assert answer.headers["location"] == back
        assert visitor.get(f"{CONSOLE}/session").status_code == 200
        assert visitor.get(f"{CONSOLE}/static/pages.css").status_code == 200
        sign_in(visitor, emulator)
        assert visitor.get(f"{CONSOLE}/jobs").status_code == 200


@pytest.mark.parametrize("path", [*PAGES, "nowhere", "static/console.js", "static/../app.py", "jobs/n/x/log"])
def test_no_other_page_reaches_into_it(visitor: httpx.Client, path: str) -> None:
    headers = visitor.get(f"{CONSOLE}/{path}").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_served_program_gets_the_form_but_not_the_session(api: Api, owner: httpx.Client) -> None:
    """A browser sends cookies to every port of a host; with this one, the program could make changes."""
    name = api.serve(
        """python -c '
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(str(self.headers["Cookie"]).encode())
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        names = "Content-Type", "Authorization", "Cookie"
        seen = [self.path, *map(self.headers.get, names), body.partition("; ")[2]]
        print(seen, flush=True)
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps({"predictions": seen}).encode())
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()'"""
    )
    url = api.wait_served(name)["hosts"]
    [session] = owner.cookies.jar
    for sent, seen in (("a=1; {}; b=2", "a=1; b=2"), ("{}", "None")):
        cookies = sent.format(f"{session.name}={session.value}")
        assert httpx.get(url, headers={"Cookie": cookies}, trust_env=False, verify=False).text == seen
    page = owner.post(f"{CONSOLE}/servings/inference/{name}/ask", files={"files": ("7.png", b"a picture")}).text
    labels = [html.unescape(label) for label in re.findall(r'class="label">([^<]*)<', page)]
    assert labels[0] == "/image"
    assert page.count("Bearer ***") == 3, "in the prediction, in the whole answer and in the log"
    assert labels[1].startswith("multipart/form-data; boundary=")
    assert labels[2:4] == ["Bearer ***", "None"]
    assert labels[4].startswith('name="files"; filename="7.png"')
    api.http.delete(f"{SERVINGS}/{name}")


def test_sessions_end_and_are_bounded() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    keys = [sessions.begin() for _ in range(101)]
    assert [sessions.is_open(key) for key in keys] == [False, *[True] * 100]
    now[0] += SESSION_SECONDS
    assert not any(sessions.is_open(key) for key in (*keys, ""))


def test_a_browser_finds_it_by_the_address_alone(visitor: httpx.Client) -> None:
    assert visitor.get("/", headers={"Accept": "text/html,*/*"}).headers["location"] == f"{CONSOLE}/jobs"
    assert visitor.get("/").json()["data"]["name"] == "BitaHub emulator"

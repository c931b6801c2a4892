"""The client, blocking and async, over real sockets: the emulator's, and a scripted server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import pickle
import ssl
import threading
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from airflow_bitahub import exceptions
from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.body import Body
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, list_jobs, read_job_log, stop_job, submit_job
from airflow_bitahub.api.platform import ENDPOINTS, JobStatus, Platform, ServingStatus
from airflow_bitahub.api.protocol import Call, Procedure, Request, Sleep
from airflow_bitahub.api.servings import (
    Serving,
    ServingModel,
    ServingProtocol,
    ServingSpec,
    create_serving,
    get_serving,
    invoke_serving,
    probe_serving,
    update_serving,
)
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConflictError,
    ConnectFailedError,
    InvalidRequestError,
    InvokeError,
    JobError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServingError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures.jobs import wait_for_job
from airflow_bitahub.procedures.retry import Retry
from airflow_bitahub.procedures.servings import wait_for_serving
from airflow_bitahub.tls import _tls_context, tls_context
from tests import transport

T = TypeVar("T")
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"
TOKEN = "s3cret-token"
AT_ONCE = Retry(attempts=3, first_pause=0)
ONCE = Retry(attempts=1)


@dataclass(frozen=True)
class Way:
    """One of the two ways to use a client."""

    name: str
    send: Callable[[BitaHubClient, Call[Any]], Any]
    run: Callable[[BitaHubClient, Procedure[Any]], Any]


def in_loop(client: BitaHubClient, doing: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        try:
            return await doing()
        finally:
            await client.aclose()

    return asyncio.run(main())


WAYS = [
    Way("blocking", lambda client, call: client.send(call), lambda client, steps: client.run(steps)),
    *(
        Way(
            name,
            lambda client, call: in_loop(client, lambda: client.asend(call)),
            lambda client, steps: in_loop(client, lambda: client.arun(steps)),
        )
        for name in ("async", "async-without-aiohttp")
    ),
]


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """Both ways, the second one also where aiohttp is not installed: every test that takes it runs thrice."""
    way: Way = request.param
    if way.name == "async-without-aiohttp":
        monkeypatch.setattr("airflow_bitahub.client.find_spec", lambda _: None)
    return way


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedServer:
    """Answers with what `script` holds, one after the other, and then with the last for ever.

    An entry is (status, headers, body), or a word: "silence" says nothing, "reset" closes the connection. A list of
    pieces is sent one by one with pauses, and its last piece again and again.
    """

    script: list[Any] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answers(self, *script: Any) -> None:
        self.script[:] = script

    def drip(self, pieces: list[bytes], write: Callable[[bytes], object]) -> None:
        for piece in chain(pieces, repeat(pieces[-1])):
            write(piece)
            if self.released.wait(0.02):
                return

    def next(self) -> Any:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


def answer(data: Any = b"null", status: int = 200, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, headers, b'{"status": {"code": 0, "msg": "success"}, "data": ' + data + b"}"


@pytest.fixture
def make_server() -> Iterator[Callable[[ssl.SSLContext | None], ScriptedServer]]:
    """Give a function that starts a scripted server, with TLS where told how."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread, ScriptedServer]] = []

    def make(tls: ssl.SSLContext | None) -> ScriptedServer:
        scripted = ScriptedServer()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                scripted.asked.append(Asked(self.command, self.path, headers, self.rfile.read(length)))
                step = scripted.next()
                if isinstance(step, list):
                    self.close_connection = True
                    scripted.drip(step, self.wfile.write)
                    return
                if isinstance(step, str):
                    if step == "silence":
                        scripted.released.wait(30)
                    self.close_connection = True
                    return
                status, headers, body = step
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = _answer

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the client went away, as some of these tests want it to
                    super().handle()

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if tls is not None:
            # the handshake in the thread of the connection, so that a refused one does not end the server
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scripted.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        running.append((server, thread, scripted))
        return scripted

    yield make
    for server, thread, scripted in running:
        scripted.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(make_server: Callable[[ssl.SSLContext | None], ScriptedServer]) -> ScriptedServer:
    """A scripted server without TLS."""
    return make_server(None)


@pytest.fixture
def make_client() -> Iterator[Callable[..., BitaHubClient]]:
    """Give a function that makes clients, which are closed at the end."""
    clients: list[BitaHubClient] = []

    def make(url: str, **options: Any) -> BitaHubClient:
        clients.append(BitaHubClient(url, **{"retry": AT_ONCE, "verify": False, **options}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


MakeClient = Callable[..., BitaHubClient]


def spec(name: str, command: str = "true") -> JobSpec:
    role = TaskRole(image="python", command=command, memory_mb=64, shm_mb=64)
    return JobSpec(job_name=name, task_roles=[role])


# Against the emulator -------------------------------------------------------------------------------------------


def test_a_jobs_life(way: Way, platform: Emulator, make_client: MakeClient) -> None:
    client = make_client(platform.url, auth=BearerToken(platform.token))
    name = f"client-life-{way.name}"
    way.send(client, submit_job(spec(name, "echo hello; exit 3")))
    seen: list[str] = []
    job = way.run(client, wait_for_job(name, poll_interval=0.05, on_change=lambda job: seen.append(job.raw_state)))
    assert (job.status, job.exit_code) == (JobStatus.FAILED, 3)
    assert seen[-1] == "FAILED"
    assert way.send(client, get_job(name)) == job
    assert way.send(client, list_jobs()).jobs[name] == job
    assert way.send(client, read_job_log(name)).strip() == "hello"


def test_what_the_emulator_refuses(way: Way, platform: Emulator, make_client: MakeClient) -> None:
    client = make_client(platform.url, auth=BearerToken(platform.token))
    name = f"client-refused-{way.name}"
    way.send(client, submit_job(spec(name)))
    with pytest.raises(ConflictError, match=f"Could not submit job '{name}'.*exists already"):
        way.send(client, submit_job(spec(name)))
    with pytest.raises(NotFoundError, match="Could not get job 'no-such-job'"):
        way.send(client, get_job("no-such-job"))
    with pytest.raises(InvalidRequestError, match="maxRetry"):
        way.send(client, submit_job(spec(f"{name}-2"), {"maxRetry": 1}))


def test_who_has_no_token_may_not_change_anything(way: Way, platform: Emulator, make_client: MakeClient) -> None:
    for auth in (None, BearerToken("wrong-token")):
        with pytest.raises(AuthenticationError, match=r"Unauthorized.*password") as caught:
            way.send(make_client(platform.url, auth=auth), submit_job(spec("client-nobody")))
        assert "wrong-token" not in str(caught.value)


def test_both_ways_may_be_used_on_one_client(platform: Emulator, make_client: MakeClient) -> None:
    client = make_client(platform.url)
    for way in (*WAYS, *WAYS):
        way.send(client, list_jobs())


def test_a_serving_that_wants_its_token_is_asked_with_it(way: Way, tmp_path: Path, make_client: MakeClient) -> None:
    model = ServingModel(path="/models/u/m", mount_path="/model/u/m")
    wanted = ServingSpec(name="m", model=model, image="i", protocols=[ServingProtocol()], commands=["serve"])
    with Emulator(tmp_path, serving_tokens=True) as emulator:
        emulator.scripts.add(ScriptedServing(answer={"predictions": [7]}))
        client, stranger = make_client(emulator.url, auth=BearerToken(emulator.token)), make_client(emulator.url)
        way.send(client, create_serving(wanted))
        serving = way.run(client, wait_for_serving("m", "v1", poll_interval=0.05, readiness_path="/health"))
        assert way.send(client, invoke_serving(serving, "/image")) == {"predictions": [7]}
        with pytest.raises(InvokeError, match=r"HTTP 401.*set the password"):
            way.send(stranger, invoke_serving(way.send(stranger, get_serving("m")), "/image"))

        way.send(client, update_serving(wanted.model_copy(update={"replicas": 2})))
        assert way.send(client, get_serving("m")).replicas == 2
        with pytest.raises(NotFoundError, match="Could not update serving 'other'"):
            way.send(client, update_serving(wanted.model_copy(update={"name": "other"})))


# What goes out --------------------------------------------------------------------------------------------------


def test_a_request_as_it_goes_out(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers(answer())
    client = make_client(server.url + "/", auth=BearerToken(TOKEN))
    way.send(client, submit_job(spec("mnist-1")))
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", f"{JOBS}/mnist-1")
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.body.startswith(b'{"jobName":"mnist-1"')


def test_query_and_name_are_quoted(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers(answer(b'{"state": "RUNNING"}'), answer(b"[]"))
    client = make_client(server.url)
    way.send(client, get_job("a/b c?d"))
    way.send(client, list_jobs(page=2, page_size=5))
    assert [asked.path for asked in server.asked] == [f"{JOBS}/a%2Fb%20c%3Fd", f"{JOBS}?page=2&limit=5"]


def test_without_a_token_no_credentials_are_sent(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers(answer(b"[]"))
    way.send(make_client(server.url), list_jobs())
    assert "authorization" not in server.asked[0].headers


def test_a_served_program_never_gets_the_platforms_token(
    way: Way, server: ScriptedServer, make_client: MakeClient
) -> None:
    client = make_client(server.url, auth=BearerToken(TOKEN))
    serving = Serving(name="mnist", status=ServingStatus.RUNNING, url=f"{server.url}/served")
    server.answers(answer(b"[7]"))
    assert way.send(client, probe_serving(serving, "/health")) is True
    urls = ["http://x/7.png?a=b&c", "http://x/1.png"]
    assert way.send(client, invoke_serving(serving, "image", form={"urls": urls})) == [7]
    pictures = [("files", ("7.png", b"\x89PNG")), ("files", ("1.png", b"GIF"))]
    assert way.send(client, invoke_serving(serving, "image", form={"a": "b"}, files=pictures)) == [7]
    assert way.send(client, invoke_serving(serving, "image", json_body={"x": [1, None]})) == [7]
    probe, form, files, json_ = server.asked
    assert [(asked.method, asked.path) for asked in server.asked] == [
        ("GET", "/served/health"),
        *[("POST", "/served/image")] * 3,
    ]
    assert parse_qs(form.body.decode()) == {"urls": urls}
    assert files.headers["content-type"].startswith("multipart/form-data")
    for part in (b'name="files"; filename="7.png"', b"\x89PNG", b'name="files"; filename="1.png"', b"GIF", b'name="a"'):
        assert part in files.body
    assert (json_.headers["content-type"], json.loads(json_.body)) == ("application/json", {"x": [1, None]})
    for asked in (probe, form, files, json_):
        assert TOKEN not in repr(asked)


def test_addresses_follow_the_platform(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers(answer())
    endpoints = {**ENDPOINTS, "stop_job": "put /v2/{job_namespace}/{name}/stop"}
    client = make_client(server.url, platform=Platform(endpoints=endpoints))
    way.send(client, stop_job("x"))
    assert (server.asked[0].method, server.asked[0].path) == ("PUT", "/v2/bita-user/x/stop")
    assert client.url_of("get_job", {"name": "x"}) == f"{server.url}{JOBS}/x"


def test_an_endpoint_keeps_its_own_query(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers(answer(b"[]"))
    endpoints = {**ENDPOINTS, "list_jobs": "GET /jobs?y=1&limit=7", "stop_job": "PUT /jobs?name={name}&y=a%2Fb"}
    client = make_client(server.url, platform=Platform(endpoints=endpoints))
    way.send(client, list_jobs(page=2, page_size=5))
    way.send(client, stop_job("a&b"))
    asked = [urlsplit(each.path) for each in server.asked]
    assert [(each.path, parse_qs(each.query)) for each in asked] == [
        ("/jobs", {"y": ["1"], "page": ["2"], "limit": ["5"]}),
        ("/jobs", {"name": ["a&b"], "y": ["a/b"]}),
    ]


def test_a_redirect_is_not_followed_with_the_token(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers((302, {"location": "/elsewhere"}, b""))
    with pytest.raises(UnexpectedResponseError, match="HTTP 302"):
        way.send(make_client(server.url, auth=BearerToken(TOKEN), retry=ONCE), list_jobs())
    assert len(server.asked) == 1


def test_a_redirect_to_nowhere_is_no_mistake_of_the_connection(
    way: Way, server: ScriptedServer, make_client: MakeClient
) -> None:
    server.answers((302, {"location": "mailto:admin"}, b""))
    with pytest.raises(TransportError, match=r"^Could not list jobs"):
        way.send(make_client(server.url, retry=ONCE), list_jobs())


# Trouble --------------------------------------------------------------------------------------------------------


def test_silence_is_a_timeout(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers("silence")
    with pytest.raises(RequestTimeoutError, match=r"Could not submit job 'x' at .*request_timeout"):
        way.send(make_client(server.url, request_timeout=0.05), submit_job(spec("x")))
    assert len(server.asked) <= 1  # on a busy machine, the time may be over before the request is sent


def test_a_call_may_bring_its_own_patience(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers("silence")
    serving = Serving(name="mnist", status=ServingStatus.RUNNING, url=server.url)
    with pytest.raises(RequestTimeoutError, match=f"reach serving 'mnist' at {server.url}/"):
        way.send(make_client(server.url, request_timeout=3600), probe_serving(serving, timeout=0.05))


def test_a_refused_connection_is_told_apart(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    nobody = "http://127.0.0.1:1"
    with pytest.raises(ConnectFailedError, match=f"Could not submit job 'x' at {nobody}.*host"):
        way.send(make_client(nobody), submit_job(spec("x")))
    serving = Serving(name="mnist", status=ServingStatus.RUNNING, url=nobody)
    with pytest.raises(ConnectFailedError, match=f"reach serving 'mnist' at {nobody}/"):
        way.send(make_client(server.url), probe_serving(serving))


def test_a_connection_that_breaks_is_a_transport_error(
    way: Way, server: ScriptedServer, make_client: MakeClient
) -> None:
    server.answers("reset")
    with pytest.raises(TransportError, match="Could not submit job 'x'") as caught:
        way.send(make_client(server.url), submit_job(spec("x")))
    assert type(caught.value) is TransportError
    assert len(server.asked) == 1


def test_a_look_is_repeated_until_it_is_answered(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers("reset", (503, {}, b"busy"), answer(b'{"state": "RUNNING"}'))
    assert way.send(make_client(server.url), get_job("x")).raw_state == "RUNNING"
    assert len(server.asked) == 3


def test_repeating_ends(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers((502, {}, b"bad gateway"))
    with pytest.raises(ServerError, match="bad gateway"):
        way.send(make_client(server.url), get_job("x"))
    assert len(server.asked) == AT_ONCE.attempts


def test_a_submission_is_repeated_only_where_it_had_no_effect(
    way: Way, server: ScriptedServer, make_client: MakeClient
) -> None:
    server.answers((429, {"retry-after": "0"}, b'{"status": {"code": 429, "msg": "slow down"}}'), answer())
    way.send(make_client(server.url), submit_job(spec("x")))
    assert len(server.asked) == 2
    for status, error in ((503, ServerError), (429, exceptions.RateLimitError)):  # of a gateway
        server.answers((status, {}, b"busy"), answer())
        with pytest.raises(error):
            way.send(make_client(server.url), submit_job(spec("x")))
    assert len(server.asked) == 4


def test_a_stop_is_sent_once_whatever_carries_it(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    """An HTTP library may take a DELETE for something that may be sent again when a kept connection breaks."""
    server.answers(answer(b"[]"), "reset")
    client = make_client(server.url, retry=AT_ONCE)

    def look_and_stop() -> Procedure[None]:
        yield from list_jobs()
        yield from stop_job("x")

    with pytest.raises(TransportError):
        way.run(client, look_and_stop())
    assert [asked.method for asked in server.asked] == ["GET", "DELETE"]


def test_retry_after_is_read_whatever_its_case(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers((429, {"Retry-After": "17"}, b""))
    with pytest.raises(RateLimitError) as caught:
        way.send(make_client(server.url, retry=ONCE), get_job("x"))
    assert caught.value.retry_after == 17


# Sizes ----------------------------------------------------------------------------------------------------------


def length_of_answer(limit: int) -> Call[int]:
    return Call(Request("read it", "list_jobs", body_limit=limit), lambda response, _: len(response.body))


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_is_read_up_to_a_limit(
    encoding: str, way: Way, server: ScriptedServer, make_client: MakeClient
) -> None:
    body = b"x" * 10_000
    server.answers((200, {"content-encoding": encoding}, gzip.compress(body) if encoding == "gzip" else body))
    client = make_client(server.url, retry=ONCE)
    assert way.send(client, length_of_answer(10_000)) == 10_000
    with pytest.raises(UnexpectedResponseError, match=r"Could not read it: .* longer than the limit of 9999 bytes"):
        way.send(client, length_of_answer(9_999))


def test_an_answer_is_not_decoded_beyond_the_limit() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    body = Body(length_of_answer(100_000).request, {"content-encoding": "gzip"})
    tracemalloc.start()
    with pytest.raises(UnexpectedResponseError, match="longer than"):
        body.add(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("encoding", "says"), [("gzip", "cannot be decoded"), ("br", "encoded as 'br'"), ("gzip, gzip", "encoded as")]
)
def test_an_answer_in_a_wrong_encoding(
    encoding: str, says: str, way: Way, server: ScriptedServer, make_client: MakeClient
) -> None:
    server.answers((200, {"content-encoding": encoding}, b"not gzip"))
    with pytest.raises(UnexpectedResponseError, match=says):
        way.send(make_client(server.url, retry=ONCE), get_job("x"))


def test_a_request_is_limited_as_a_whole(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    """Each piece comes in time; together they would never end."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    for script in ([head, b" "], [head[:17], b"X"], [head[:17], b"X-Header: x\r\n"]):
        server.answers(script)
        with pytest.raises(RequestTimeoutError, match="request_timeout"):
            way.send(make_client(server.url, request_timeout=0.3, retry=ONCE), get_job("x"))


def test_a_probe_does_not_read_the_answers_body(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers([b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1000000\r\n\r\n", b"x"])
    serving = Serving(name="mnist", status=ServingStatus.RUNNING, url=server.url)
    assert way.send(make_client(server.url), probe_serving(serving)) is True


def test_long_texts_of_the_platform_are_shortened(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    long = b"xyz " * 250_000
    says = b'{"status": {"code": 7, "msg": "begin %send"}}' % long
    server.answers((400, {}, says))
    client = make_client(server.url, retry=ONCE)
    with pytest.raises(BitaHubError, match=r"said: begin (xyz )+.*(xyz )+end \(code 7, HTTP 400\)") as caught:
        way.send(client, get_job("x"))
    assert len(str(caught.value)) < 2_000


# Addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://host:port", "ftp://host", "host", ""])
def test_a_base_url_that_is_none_is_a_mistake_of_the_connection(way: Way, url: str, make_client: MakeClient) -> None:
    with pytest.raises(ConfigurationError, match=r"Could not list jobs.*host of the Airflow connection"):
        way.send(make_client(url), list_jobs())


@pytest.mark.parametrize("url", ["", "host", "http://host:port", "http://x..y"])
def test_a_serving_without_a_usable_address_may_get_one_later(way: Way, url: str, make_client: MakeClient) -> None:
    serving = Serving(name="mnist", status=ServingStatus.RUNNING, url=url)
    with pytest.raises(TransportError, match="Could not reach serving 'mnist'"):
        way.send(make_client("http://127.0.0.1:1", retry=ONCE), probe_serving(serving))


# Procedures -----------------------------------------------------------------------------------------------------


def test_a_procedure_gets_answers_sleeps_and_errors(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers(answer(b'{"state": "RUNNING"}'), (403, {}, b"no"), answer(b'{"state": "FAILED"}'))

    def procedure() -> Procedure[list[str]]:
        seen = [(yield from get_job("x")).raw_state]
        slept = yield Sleep(0)
        seen.append(str(slept))
        try:
            yield from get_job("x")
        except BitaHubError as error:
            seen.append(type(error).__name__)
        seen.append((yield from get_job("x")).raw_state)
        return seen

    expected = ["RUNNING", "None", "PermissionDeniedError", "FAILED"]
    assert way.run(make_client(server.url), procedure()) == expected


def test_a_procedure_without_steps(way: Way, make_client: MakeClient) -> None:
    def procedure() -> Procedure[int]:
        yield from ()
        return 7

    assert way.run(make_client("http://127.0.0.1:1"), procedure()) == 7


@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt, KeyboardInterrupt), (ZeroDivisionError, exceptions.UnexpectedResponseError)],
)
def test_a_procedure_is_closed_however_it_ends(
    way: Way, server: ScriptedServer, make_client: MakeClient, error: type[BaseException], raised: type[BaseException]
) -> None:
    server.answers(answer())
    closed: list[bool] = []

    def read(*_: Any) -> None:
        raise error

    def procedure() -> Procedure[None]:
        try:
            yield Call(get_job("x").request, read)
        finally:
            closed.append(True)

    with pytest.raises(raised):
        way.run(make_client(server.url), procedure())
    assert closed == [True]


def test_an_error_a_procedure_does_not_want_is_the_callers(
    way: Way, server: ScriptedServer, make_client: MakeClient
) -> None:
    server.answers((403, {}, b'{"status": {"code": 403, "msg": "no"}}'))
    with pytest.raises(exceptions.PermissionDeniedError):
        way.run(make_client(server.url), wait_for_job("x", poll_interval=0))


# TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certify(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that makes a self-signed certificate, with its key in the same file."""

    def certify(address: str = "127.0.0.1", begins: int = -1, ends: int = 1) -> Path:
        pair = transport.certify(tmp_path, "self-signed", address=address, begins=begins, ends=ends)
        file = tmp_path / "both.pem"
        file.write_bytes(pair.certificate_file.read_bytes() + pair.key_file.read_bytes())
        return file

    return certify


MakeServer = Callable[[ssl.SSLContext | None], ScriptedServer]


def secure_server(certificate: Path, make_server: MakeServer) -> ScriptedServer:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    server = make_server(tls)
    server.answers(answer(b"[]"))
    return server


@pytest.mark.parametrize(
    ("options", "trusted", "advice"),
    [
        ({}, False, "self-signed certificate.*Set 'verify' .* CA bundle"),
        (
            {"address": "127.0.0.2"},
            True,
            "mismatch.*Change the Airflow connection's host to a name that the certificate is made for",
        ),
        ({"begins": -2, "ends": -1}, True, "expired.*renewed"),
        ({"begins": 1, "ends": 2}, True, "not yet valid.*clock"),
    ],
)
def test_a_refused_certificate_is_explained(
    way: Way,
    certify: Callable[..., Path],
    make_server: MakeServer,
    make_client: MakeClient,
    options: dict[str, Any],
    trusted: bool,
    advice: str,
) -> None:
    file = certify(**options)
    server = secure_server(file, make_server)
    client = make_client(server.url, verify=str(file) if trusted else True, auth=BearerToken(TOKEN), retry=ONCE)
    with pytest.raises(ConnectFailedError, match=f"Could not list jobs .*certificate is refused .*{advice}") as caught:
        way.send(client, list_jobs())
    assert "false" not in str(caught.value)
    assert server.asked == []


def test_a_server_without_tls_is_told_apart(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    with pytest.raises(ConnectFailedError, match=r"TLS failed .* https is spoken there"):
        way.send(make_client(server.url.replace("http:", "https:"), retry=ONCE), list_jobs())


def test_clients_share_what_costs_much_to_make() -> None:
    assert tls_context(True) is tls_context(True)


def test_a_bundle_that_the_environment_names_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _tls_context.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", "/none.pem")
    with pytest.raises(ConfigurationError, match="CA bundle that SSL_CERT_FILE names"):
        BitaHubClient("https://127.0.0.1:1").send(list_jobs())


def test_a_self_signed_certificate_is_taken_if_so_told(
    way: Way, certify: Callable[..., Path], make_server: MakeServer, make_client: MakeClient
) -> None:
    file = certify()
    server = secure_server(file, make_server)
    for verify in (False, str(file)):
        assert way.send(make_client(server.url, verify=verify), list_jobs()).jobs == {}


def test_a_bundle_that_cannot_be_read_is_named(way: Way, tmp_path: Path, make_client: MakeClient) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for file in (tmp_path / "none.pem", empty, tmp_path):
        with pytest.raises(ConfigurationError, match=f"CA bundle '{file}'"):
            way.send(make_client("https://127.0.0.1:1", verify=str(file)), list_jobs())


# Proxies --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that sets the proxy variables, and no others than these."""

    def proxies(**variables: str) -> None:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return proxies


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"NO_PROXY": "127.0.0.1, [::1]"}, "^NO_PROXY has entries that cannot be read: ' \\[::1\\]'"),
        ({"no_proxy": "fd00::/8,x", "HTTP_PROXY": "gw:1"}, "^no_proxy has entries that cannot be read: 'fd00::/8'"),
        ({"ALL_PROXY": "socks5://u:s3cret-token@gw:1080"}, r"^ALL_PROXY names a SOCKS proxy.*httpx\[socks\]"),
        ({"http_proxy": "socks4://u:s3cret-token@gw"}, "^http_proxy is not the address of a proxy"),
        ({"HTTPS_PROXY": "http://u:s3cret-token/@gw"}, "^HTTPS_PROXY is not the address of a proxy"),
    ],
)
def test_a_wrong_proxy_variable_is_named(
    way: Way, proxies: Callable[..., None], make_client: MakeClient, variables: dict[str, str], complaint: str
) -> None:
    proxies(**variables)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        way.send(make_client("http://127.0.0.1:1"), list_jobs())
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("scheme", "variable"), [("http", "all_proxy"), ("https", "ALL_PROXY"), ("https", "HTTPS_PROXY")]
)
def test_a_proxy_that_is_down_is_named(
    way: Way, proxies: Callable[..., None], make_client: MakeClient, scheme: str, variable: str
) -> None:
    proxies(**{variable: f"http://user:{TOKEN}@127.0.0.1:1"})
    with pytest.raises(
        ConnectFailedError, match=f"no connection to the proxy http://127.0.0.1:1/? of {variable}"
    ) as caught:
        way.send(make_client(f"{scheme}://platform.invalid", retry=ONCE), list_jobs())
    assert TOKEN not in str(caught.value)


def test_a_proxy_that_refuses_is_named(
    way: Way, proxies: Callable[..., None], server: ScriptedServer, make_client: MakeClient
) -> None:
    proxies(HTTPS_PROXY=server.url)
    with pytest.raises(
        ConnectFailedError, match=f"the proxy {server.url}/? of HTTPS_PROXY refused the connection .501"
    ):
        way.send(make_client("https://platform.invalid", retry=ONCE), submit_job(spec("x")))


def test_requests_go_through_a_proxy_or_past_it(
    way: Way, proxies: Callable[..., None], server: ScriptedServer, make_client: MakeClient
) -> None:
    server.answers(answer(b"[]"))
    proxies(HTTP_PROXY=server.url, NO_PROXY="127.0.0.1")
    way.send(make_client("http://platform.invalid"), list_jobs())
    assert server.asked[0].path.startswith("http://platform.invalid/")
    with pytest.raises(ConnectFailedError, match=r"no connection \("):
        way.send(make_client("http://127.0.0.1:1", retry=ONCE), list_jobs())


# Errors ---------------------------------------------------------------------------------------------------------


def errors(root: type[BitaHubError] = BitaHubError) -> Iterator[type[BitaHubError]]:
    yield root
    for kind in root.__subclasses__():
        if kind.__module__ == exceptions.__name__:
            yield from errors(kind)


@pytest.mark.parametrize("kind", list(errors()))
def test_every_error_survives_pickling(kind: type[BitaHubError]) -> None:
    if issubclass(kind, APIError):
        error: BitaHubError = kind(429, "20003", "Could not do it. 稍后", "get_job", 7.0)
    elif issubclass(kind, JobError | ServingError):
        error = kind("Could not do it. 稍后", "mnist-1")
    else:
        error = kind("Could not do it. 稍后")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "Could not do it. 稍后"
    assert vars(again) == vars(error)
    assert again.args == error.args


def test_every_error_is_drawn_in_the_tree() -> None:
    drawn = (exceptions.__doc__ or "").split("After those with a star")[0]
    words = {word for word in drawn.split() if word.rstrip("*").endswith("Error")}
    assert words == {f"{kind.__name__}*" if kind.is_final else kind.__name__ for kind in errors()}


def test_no_token_in_any_words(way: Way, server: ScriptedServer, make_client: MakeClient) -> None:
    client = make_client(server.url, auth=BearerToken(TOKEN), retry=ONCE, request_timeout=0.05)
    script: list[Any] = ["silence", "reset", (401, {}, b"no"), (500, {}, b"no")]
    for step in script:
        server.answers(step)
        with pytest.raises(BitaHubError) as caught:
            way.send(client, list_jobs())
        assert TOKEN not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert TOKEN not in f"{client!r} {client} {get_job('x')!r}"


def test_connections_are_kept_for_the_next_query_and_never_too_many(
    server: ScriptedServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.client.find_spec", lambda _: None)  # it goes by httpx alone
    server.answers(answer(b'{"log": ""}'))
    client, query = make_client(server.url), read_job_log("mnist-1")
    port = int(server.url.rpartition(":")[2])

    def opened() -> set[int]:
        connections = psutil.Process().net_connections("tcp")
        return {each.laddr.port for each in connections if each.raddr and each.raddr.port == port}

    async def main() -> None:
        await client.asend(query)
        first = opened()
        await client.asend(query)
        assert len(first) == 1
        assert opened() == first
        await asyncio.gather(*(client.asend(query) for _ in range(60)))
        assert 1 <= len(opened()) <= 20
        await client.aclose()
        assert opened() == set()
        await client.asend(query)  # it may be used again
        await client.aclose()

    asyncio.run(main())


def test_a_job_comes_back_as_a_value(server: ScriptedServer, make_client: MakeClient) -> None:
    server.answers(answer(b'{"name": "x", "state": "RUNNING"}'))
    job = make_client(server.url).send(get_job("x"))
    assert job == Job(name="x", status=JobStatus.RUNNING, raw_state="RUNNING")

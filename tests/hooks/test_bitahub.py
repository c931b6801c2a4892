"""From an Airflow connection to a client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, submit_job
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.identity import deployment_marker
from airflow_bitahub.procedures.jobs import wait_for_job

TOKEN = "s3cret-token"
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that sets the Airflow connection and gives a hook on it."""

    def connect(extra: dict[str, Any] | None = None, **fields: Any) -> BitaHubHook:
        connection = {"conn_type": "bitahub", "host": "https://kubesphere.example.com", **fields, "extra": extra or {}}
        monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_TEST", json.dumps(connection))
        return BitaHubHook("bitahub_test")

    return connect


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "https://kubesphere.example.com"}, "https://kubesphere.example.com"),
        ({"host": "http://10.0.0.1:30880/"}, "http://10.0.0.1:30880"),
        ({"host": " https://kubesphere.example.com/base/ "}, "https://kubesphere.example.com/base"),
        ({"host": "kubesphere.example.com"}, "https://kubesphere.example.com"),
        ({"host": "kubesphere.example.com", "schema": "http", "port": 30880}, "http://kubesphere.example.com:30880"),
        ({"host": "http://kubesphere.example.com", "port": 30880}, "http://kubesphere.example.com:30880"),
    ],
)
def test_the_address_may_be_given_in_one_or_in_parts(connect: Any, fields: dict[str, Any], base_url: str) -> None:
    hook = connect(**fields)
    assert hook.settings.base_url == hook.client.base_url == base_url


@pytest.mark.parametrize("host", [None, "", "  "])
def test_a_connection_without_a_host_says_what_to_set(connect: Any, host: str | None) -> None:
    with pytest.raises(ConfigurationError, match="'bitahub_test' has no host: set it"):
        connect(host=host).send(get_job("x"))


def test_a_host_with_another_scheme_is_refused(connect: Any) -> None:
    with pytest.raises(ConfigurationError, match="must begin with http"):
        connect(host="ftp://kubesphere.example.com").send(get_job("x"))


def test_a_connection_given_as_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_URI", f"bitahub://alice:{TOKEN}@10.0.0.1:30880/http?user_id=_2f1f")
    hook = BitaHubHook("bitahub_uri")
    assert hook.settings.base_url == "http://10.0.0.1:30880"
    assert hook.settings.token == TOKEN
    assert hook.folders.dataset("MNIST") == ("/datasets/_2f1f/MNIST", "/data/alice/MNIST")


def test_the_defaults_are_the_documents(connect: Any) -> None:
    hook = connect()
    assert hook.client.platform == Platform()
    assert hook.settings.token is None
    assert hook.default_image == ""
    assert hook.get_conn() is hook.client


def test_every_part_of_the_addresses_can_be_set(connect: Any) -> None:
    parts: dict[str, Any] = {
        "prefix": "kapis",
        "cluster": "c1",
        "workspace": "w1",
        "job_namespace": "jobs",
        "serving_namespace": "servings",
    }
    platform = connect(parts).client.platform
    assert platform == Platform(**parts)
    assert connect(dict.fromkeys(parts, "")).client.platform == Platform()
    assert connect(dict.fromkeys(parts)).client.platform == Platform()


def test_single_entries_of_the_platforms_tables_can_be_set(connect: Any) -> None:
    platform = connect(
        {
            "endpoints": {"stop_job": "PUT /stop/{name}"},
            "status_words": {"Underpowered": "waiting"},
            "error_codes": {"1206": "conflict"},
        }
    ).client.platform
    assert platform.locate("stop_job", {"name": "x"}) == ("PUT", "/stop/x")
    assert platform.locate("get_job", {"name": "x"}) == ("GET", f"{JOBS}/x")
    assert platform.job_status("UNDERPOWERED") is JobStatus.WAITING
    assert platform.job_status("FAILED") is JobStatus.FAILED
    assert platform.error_codes["1206"] == "conflict"
    assert platform.error_codes["404"] == "not_found"


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ({"endpoints": "PUT /stop"}, "'endpoints' must be an object"),
        ({"status_words": ["WAITING"]}, "'status_words' must be an object"),
        ({"error_codes": 7}, "'error_codes' must be an object"),
        ({"status_words": {"LOST": "GONE"}}, "maps to 'GONE'; allowed are"),
        ({"request_timeout": "soon"}, "'request_timeout' must be a positive number"),
        ({"request_timeout": 0}, "'request_timeout' must be a positive number"),
        ({"request_timeout": -1}, "'request_timeout' must be a positive number"),
    ],
)
def test_a_wrong_extra_is_named(connect: Any, extra: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        connect(extra).send(get_job("x"))


def test_whose_folders_they_are(connect: Any) -> None:
    folders = connect({"user_id": "_2f1f"}, login="alice").folders
    assert (folders.user_id, folders.user_name) == ("_2f1f", "alice")
    folders = connect({"user_id": "_2f1f", "user_name": "PengchengYang"}, login="alice").folders
    assert folders.user_name == "PengchengYang"


def test_what_is_needed_and_not_set_is_named(connect: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'user_id' is not set, and it is part of every path"):
        _ = connect(login="alice").folders
    with pytest.raises(ConfigurationError, match="neither a login nor the extra 'user_name'"):
        _ = connect({"user_id": "_2f1f"}).folders
    with pytest.raises(ConfigurationError, match="'storage_uri' is not set"):
        _ = connect().storage
    assert connect({"storage_uri": tmp_path.as_uri()}).storage.uri == tmp_path.as_uri()
    assert connect({"default_image": "tensorflow:2"}).default_image == "tensorflow:2"


def test_clients_share_what_costs_much_to_make(connect: Any) -> None:
    hook = connect()
    assert hook.new_client()._options()["verify"] is hook.new_client()._options()["verify"]


@pytest.mark.parametrize("host", ["https://me:secret@kubesphere.example.com", "me@kubesphere.example.com"])
def test_a_login_in_the_host_is_refused_without_being_shown(connect: Any, host: str) -> None:
    with pytest.raises(ConfigurationError, match="belong in login and password") as caught:
        _ = connect(host=host).settings
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "verify"),
    [
        (None, True),
        ("", True),
        (True, True),
        ("true", True),
        (False, False),
        ("False", False),
        (0, False),
        ("0", False),
        ("/etc/ca.pem", "/etc/ca.pem"),
    ],
)
def test_how_certificates_are_checked(connect: Any, value: Any, verify: bool | str) -> None:
    assert connect({"verify": value}).client._verify == verify


def test_a_timeout_may_be_text(connect: Any) -> None:
    assert connect({"request_timeout": "7.5"}).client._timeout == 7.5


def test_where_a_person_looks(connect: Any) -> None:
    hook = connect()
    assert hook.job_url("mnist-1") == f"https://kubesphere.example.com{JOBS}/mnist-1"
    assert hook.serving_url("mnist").startswith("https://kubesphere.example.com/lapis/inference.leinao.ai/")
    hook = connect(
        {"console_url": "https://www.bitahub.com/job?name={name}", "serving_console_url": "https://x/{name}"}
    )
    assert hook.job_url("mnist-1") == "https://www.bitahub.com/job?name=mnist-1"
    assert hook.serving_url("mnist") == "https://x/mnist"


def test_the_marker_tells_deployments_apart(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com")
    assert connect().marker == deployment_marker("https://airflow.example.com")
    assert connect({"deployment": "us"}).marker == deployment_marker("us https://airflow.example.com")


def test_the_token_is_in_no_words(connect: Any) -> None:
    hook = connect({"user_id": "_2f1f"}, login="alice", password=TOKEN)
    told = [hook, hook.settings, hook.client, hook.client._auth, hook.client.platform, hook.folders, vars(hook)]
    assert TOKEN not in " ".join(f"{thing!r} {thing}" for thing in told)


def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(connect: Any) -> None:
    with pytest.raises(ConfigurationError, match="password") as caught:
        connect(password=f"{TOKEN}\n").send(get_job("x"))
    assert TOKEN not in str(caught.value)


# Against a server -----------------------------------------------------------------------------------------------


def spec(name: str) -> JobSpec:
    return JobSpec(job_name=name, task_roles=[TaskRole(image="python", command="true", memory_mb=64, shm_mb=64)])


def test_a_job_through_the_hook(hook: BitaHubHook) -> None:
    hook.send(submit_job(spec("hook-sync")))
    job = hook.run(wait_for_job("hook-sync", poll_interval=0.05))
    assert job.status.is_successful
    assert hook.send(get_job("hook-sync")) == job


def test_a_job_through_the_hook_on_an_event_loop(connection: dict[str, Any]) -> None:  # noqa: ARG001
    async def main() -> JobStatus:
        hook = await BitaHubHook.connect("bitahub_default")
        async with aclosing(hook.client):
            await hook.asend(submit_job(spec("hook-async")))
            return (await hook.arun(wait_for_job("hook-async", poll_interval=0.05))).status

    assert asyncio.run(main()).is_successful


def test_the_hook_on_an_event_loop_gives_back_its_connections(connection: dict[str, Any]) -> None:  # noqa: ARG001
    async def main() -> BitaHubHook:
        hook = await BitaHubHook.connect("bitahub_default")
        with pytest.raises(BitaHubError):
            async with aclosing(hook.client):
                await hook.asend(get_job("no-such-job"))
        return hook

    assert asyncio.run(main()).client._ahttp == []


def test_another_client_shares_nothing_with_the_first(hook: BitaHubHook) -> None:
    other = hook.new_client()
    assert other is not hook.client
    assert other.base_url == hook.client.base_url
    hook.send(submit_job(spec("hook-other")))
    assert other.send(get_job("hook-other")).name == "hook-other"
    other.close()


def test_a_connection_that_works(hook: BitaHubHook, platform: Emulator) -> None:
    works, message = hook.test_connection()
    assert works is True
    assert message.startswith(f"{platform.url} answers")


def test_a_connection_that_names_no_host(connect: Any) -> None:
    works, message = connect(host="").test_connection()
    assert works is False
    assert "has no host" in message


def test_a_connection_whose_platform_has_no_such_thing(connect: Any, platform: Emulator) -> None:
    works, message = connect(
        {"endpoints": {"list_jobs": f"GET {JOBS}/no-such-job"}}, host=platform.url
    ).test_connection()
    assert works is False
    assert "Could not list jobs" in message


@pytest.fixture
def gateway() -> Iterator[str]:
    """The address of a gateway that knows nobody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"kind": "Status", "status": "Failure", "message": "anonymous is forbidden", "code": 403}'
            self.send_response(403)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_connection_the_platform_refuses(connect: Any, gateway: str) -> None:
    works, message = connect(host=gateway, password=TOKEN).test_connection()
    assert works is False
    assert "anonymous is forbidden (HTTP 403)" in message
    assert "workspace and namespace" in message
    assert TOKEN not in message

"""From an Airflow connection to a client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.procedures.jobs import wait_for_job

TOKEN = "s3cret-token"
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"


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


def test_where_a_person_looks(connect: Any) -> None:
    hook = connect()
    assert hook.job_url("mnist-1") == f"https://kubesphere.example.com{JOBS}/mnist-1"
    assert hook.serving_url("mnist").startswith("https://kubesphere.example.com/lapis/inference.leinao.ai/")
    hook = connect(
        {"console_url": "https://www.bitahub.com/job?name={name}", "serving_console_url": "https://x/{name}"}
    )
    assert hook.job_url("mnist-1") == "https://www.bitahub.com/job?name=mnist-1"
    assert hook.serving_url("mnist") == "https://x/mnist"


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


def test_the_test_button_names_doubtful_extras(connect: Any, platform: Emulator) -> None:
    extra = {"reqest_timeout": 5, "team": "vision", "verify": False}
    works, message = connect(extra, host=platform.url, password=platform.token).test_connection()
    assert works is True
    assert "'reqest_timeout' is not known: did you mean 'request_timeout'" in message
    assert "'team' is not known." in message
    assert "'verify' is false" in message


@pytest.mark.parametrize(("variable", "value"), [("NO_PROXY", "127.0.0.1,[::1]"), ("ALL_PROXY", "socks5://gw:1080")])
def test_the_test_button_names_a_wrong_proxy_variable(
    connect: Any, platform: Emulator, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    works, message = connect(host=platform.url).test_connection()
    assert works is False
    assert message.startswith(variable)


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

"""Client certificates, a private authority and proxies, over real sockets: by every way that requests are sent."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import traceback
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.jobs import JobSpec, TaskRole, list_jobs, submit_job
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, ConnectFailedError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.procedures.retry import Retry
from airflow_bitahub.triggers.job import BitaHubJobTrigger
from tests.conftest import events_of
from tests.transport import Pair, Proxy, TLSGateway, certify, connect_proxy, tls_gateway

KEY_PASSWORD = "open-sesame-key"
PROXY_PASSWORD = "pr0xy:s3cret/@"
ENCODED = "pr0xy%3As3cret%2F%40"


@dataclass(frozen=True)
class Files:
    """The certificates of these tests, by what they are."""

    folder: Path
    ca: Pair
    server: Pair
    client: Pair
    expired: Pair
    stranger: Pair


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A private authority, and what it has signed; a stranger that another authority has signed."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = certify(folder, "ca")
    client = certify(folder, "client", ca, password=KEY_PASSWORD)
    (folder / "together.pem").write_bytes(client.certificate_file.read_bytes() + client.key_file.read_bytes())
    (folder / "client.p12").write_bytes(bytes(range(256)))
    return Files(
        folder,
        ca,
        certify(folder, "server", ca),
        client,
        certify(folder, "expired", ca, ends=-1),
        certify(folder, "stranger", certify(folder, "other-ca")),
    )


@pytest.fixture(scope="module")
def guarded(shared_platform: Emulator, files: Files) -> Iterator[TLSGateway]:
    """A gateway before the emulator that asks for a certificate of the private authority."""
    with tls_gateway(shared_platform.url, files.server, files.ca) as gateway:
        yield gateway


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy that asks for a password."""
    with connect_proxy("ann", PROXY_PASSWORD) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


Ask = Callable[[BitaHubHook], Any]


def ask(hook: BitaHubHook) -> Any:
    client = hook.new_client(Retry(attempts=1))
    try:
        return client.send(list_jobs(page_size=1))
    finally:
        client.close()


def ask_on_loop(hook: BitaHubHook) -> Any:
    async def main() -> Any:
        connected = await BitaHubHook.connect(hook.bitahub_conn_id, Retry(attempts=1))
        async with aclosing(connected.client):
            return await connected.asend(list_jobs(page_size=1))

    return asyncio.run(main())


@pytest.fixture(params=["blocking", "aiohttp", "httpx"])
def query(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Every way to send a query: blocking, and on an event loop with and without aiohttp."""
    if request.param == "httpx":
        monkeypatch.setattr("airflow_bitahub.client.find_spec", lambda _: None)
    return ask if request.param == "blocking" else ask_on_loop


def certified(files: Files, **extra: Any) -> dict[str, Any]:
    """Give the extra of a connection with a client certificate, changed where told."""
    return {
        "verify": str(files.ca.certificate_file),
        "client_certificate": str(files.client.certificate_file),
        "client_key": str(files.client.key_file),
        "client_key_password": KEY_PASSWORD,
        **extra,
    }


def test_a_platform_that_asks_for_a_client_certificate(
    query: Ask, connect: Any, platform: Emulator, guarded: TLSGateway, files: Files
) -> None:
    guarded.clients.clear()
    query(connect(certified(files), host=guarded.url, password=platform.token))
    in_one_file = certified(files, client_certificate=str(files.folder / "together.pem"), client_key=None)
    query(connect(in_one_file, host=guarded.url, password=platform.token))
    assert guarded.clients == ["client", "client"]


@pytest.mark.parametrize("without_aiohttp", [False, True])
def test_the_triggerers_watcher_shows_it_too(
    connect: Any,
    platform: Emulator,
    guarded: TLSGateway,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    without_aiohttp: bool,
) -> None:
    if without_aiohttp:
        monkeypatch.setattr("airflow_bitahub.client.find_spec", lambda _: None)
    guarded.clients.clear()
    hook = connect(certified(files), host=guarded.url, password=platform.token)
    name = f"transport-{without_aiohttp}".lower()
    role = TaskRole(image="python", command="true", memory_mb=64, shm_mb=64)
    hook.send(submit_job(JobSpec(job_name=name, task_roles=[role])))
    hook.client.close()
    [event] = events_of(BitaHubJobTrigger("bitahub_test", name, 0.1))
    assert event["outcome"] == "finished", event
    assert len(guarded.clients) >= 2
    assert set(guarded.clients) == {"client"}


@pytest.mark.parametrize(
    ("shown", "complaint"),
    [
        (None, "asks for a client certificate. Set 'client_certificate' in the Airflow connection's extra"),
        ("expired", "has expired. Renew the file of 'client_certificate'"),
        ("stranger", "does not know the authority that signed the client certificate"),
    ],
)
def test_a_server_that_refuses_the_client_is_understood(
    query: Ask, connect: Any, guarded: TLSGateway, files: Files, shown: str | None, complaint: str
) -> None:
    extra = {"verify": str(files.ca.certificate_file)}
    if shown is not None:
        pair: Pair = getattr(files, shown)
        extra |= {"client_certificate": str(pair.certificate_file), "client_key": str(pair.key_file)}
    with pytest.raises(ConnectFailedError, match=f"Could not list jobs.*{complaint}"):
        query(connect(extra, host=guarded.url))


def test_a_server_with_older_tls_that_refuses_the_client(
    query: Ask, connect: Any, platform: Emulator, files: Files
) -> None:
    with (
        tls_gateway(platform.url, files.server, files.ca, ssl.TLSVersion.TLSv1_2) as gateway,
        pytest.raises(ConnectFailedError, match="If it asks for a client certificate, set 'client_certificate'"),
    ):
        query(connect({"verify": str(files.ca.certificate_file)}, host=gateway.url))


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ({"verify": "ca.none"}, "Cannot read the CA bundle '.*ca.none' of the Airflow connection"),
        ({"client_certificate": "none.crt"}, "'client_certificate' names '.*none.crt', which cannot be read .No such"),
        ({"client_key": "none.key"}, "'client_key' names '.*none.key', which cannot be read .*all workers"),
        ({"client_key": ""}, "'client_certificate' names .*client.crt', which holds no private key.*Set 'client_key'"),
        ({"client_certificate": "client.p12"}, "client.p12', which holds no certificate in PEM.*openssl pkcs12"),
        ({"client_key": "client.crt"}, "'client_key' names '.*client.crt', which holds no private key"),
        ({"client_key": "server.key"}, "'client_key' names '.*server.key', which does not belong to the certificate"),
        ({"client_key_password": ""}, "client.key', which is encrypted. Set 'client_key_password'"),
        ({"client_key_password": "open-sesame"}, "the password in 'client_key_password' does not open it"),
        ({"client_key_password": "x" * 2000}, "cannot be opened with such a 'client_key_password'"),
        ({"client_certificate": "", "client_key": "x"}, "'client_key' is set without 'client_certificate'"),
        ({"client_certificate": "", "client_key": ""}, "'client_key_password' is set without 'client_certificate'"),
    ],
)
def test_what_cannot_be_shown_is_known_when_the_connection_is_read(
    connect: Any, files: Files, extra: dict[str, str], complaint: str
) -> None:
    placed = {
        key: str(files.folder / value) if value and key != "client_key_password" else value
        for key, value in extra.items()
    }
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        _ = connect(certified(files, **placed)).settings
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY_PASSWORD not in shown
    assert "open-sesame" not in shown


def test_blanks_around_a_path_are_not_part_of_it(connect: Any, files: Files) -> None:
    path = str(files.ca.certificate_file)
    assert connect({"verify": f" {path} "}).client._verify == path


def test_a_renewed_certificate_is_taken_up(connect: Any, files: Files, tmp_path: Path) -> None:
    certify(tmp_path, "short-lived", files.ca)
    paths = {"client_certificate": tmp_path / "short-lived.crt", "client_key": tmp_path / "short-lived.key"}
    connect({key: str(path) for key, path in paths.items()})

    async def main() -> None:
        first = await BitaHubHook.connect("bitahub_test")
        assert await BitaHubHook.connect("bitahub_test", known=first) is first
        certify(tmp_path, "short-lived", files.ca)
        second = await BitaHubHook.connect("bitahub_test", known=first)
        assert second is not first
        await first.client.aclose()
        await second.client.aclose()

    asyncio.run(main())


# Proxies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_requests_go_through_the_proxy_of_the_connection(
    query: Ask,
    connect: Any,
    platform: Emulator,
    guarded: TLSGateway,
    files: Files,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # is about the variables only
    caplog.set_level(logging.DEBUG)
    extra = certified(files, proxy=f"{scheme}ann:{ENCODED}@{proxy.address}")
    hook = connect(extra, host=guarded.url, password=platform.token)
    query(hook)
    assert proxy.tunnels == [guarded.url.removeprefix("https://")]
    told = f"{caplog.text} {hook!r} {hook.settings!r} {hook.client!r} {hook.settings.client_certificate()!r}"
    assert [secret for secret in (PROXY_PASSWORD, ENCODED, KEY_PASSWORD) if secret in told] == []


def test_requests_pass_by_the_environments_proxy_if_so_told(
    query: Ask, connect: Any, platform: Emulator, guarded: TLSGateway, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    query(connect(certified(files, proxy=" None "), host=guarded.url, password=platform.token))


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ("ann:wrong-s3cret@", r"the proxy 127.0.0.1:\d+ of the Airflow connection's extra 'proxy' refused .*407"),
        (None, "no connection to the proxy 127.0.0.1:1 of the Airflow connection's extra 'proxy'"),
    ],
)
def test_a_proxy_that_does_not_help_is_named(
    query: Ask, connect: Any, guarded: TLSGateway, proxy: Proxy, user: str | None, complaint: str
) -> None:
    value = f"ann:{ENCODED}@127.0.0.1:1" if user is None else f"{user}{proxy.address}"
    with pytest.raises(BitaHubError, match=complaint) as caught:
        query(connect({"proxy": value, "verify": False}, host=guarded.url))
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("proxy", "complaint"),
    [
        ("socks4://u:s3cret@gw", "is not the address of a proxy"),
        ("http://u:s3cret/@gw", "is not the address of a proxy"),
        ("socks5://u:s3cret@gw:1080", r"names a SOCKS proxy.*httpx\[socks\]"),
        ("http://:s3cret@:80", "has no host"),
    ],
)
def test_a_wrong_proxy_is_refused_when_the_connection_is_read(connect: Any, proxy: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"extra 'proxy' {complaint}") as caught:
        _ = connect({"proxy": proxy}).settings
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))

"""What a connection says, and what is wrong with it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airflow_bitahub.api.jobs import get_job
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook

TOKEN = "s3cret-token"
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"


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


def test_the_token_is_in_no_words(connect: Any) -> None:
    hook = connect({"user_id": "_2f1f"}, login="alice", password=TOKEN)
    told = [hook, hook.settings, hook.client, hook.client._auth, hook.client.platform, hook.folders, vars(hook)]
    assert TOKEN not in " ".join(f"{thing!r} {thing}" for thing in told)


def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(connect: Any) -> None:
    with pytest.raises(ConfigurationError, match="password") as caught:
        connect(password=f"{TOKEN}\n").send(get_job("x"))
    assert TOKEN not in str(caught.value)


def test_times_without_an_offset_are_utc_unless_the_connection_says_otherwise(connect: Any) -> None:
    host = "https://kubesphere.example.com"
    assert str(connect(host=host).client.platform.timezone) == "UTC"
    hook = connect(host=host, extra={"timezone": "Asia/Shanghai"})
    assert str(hook.client.platform.timezone) == "Asia/Shanghai"


@pytest.mark.parametrize("wrong", ["Beijing", "../UTC", "America", "+08:00"])
def test_a_time_zone_that_does_not_exist_is_refused(connect: Any, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'timezone' is '{re.escape(wrong)}'"):
        connect(host="https://kubesphere.example.com", extra={"timezone": wrong}).send(get_job("x"))

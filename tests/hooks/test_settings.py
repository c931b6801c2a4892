"""What a connection says, and what is wrong with it."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from airflow_bitahub.api.jobs import get_job
from airflow_bitahub.api.platform import JobStatus, Platform
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.settings import _EXTRAS, WATCH_MODES, _warn_once

TOKEN = "s3cret-token"
TABLES = ("endpoints", "status_words", "error_codes")
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
        ({"host": "https://gw/bitahub", "port": 8443}, "https://gw:8443/bitahub"),
        ({"host": "gw/bitahub//", "schema": " HTTP ", "port": 80}, "http://gw:80/bitahub"),
        ({"host": "HTTPS://GW.example.com///"}, "https://gw.example.com"),
        ({"host": "https://gw:8443/x", "port": 8443, "schema": "https"}, "https://gw:8443/x"),
        ({"host": "::1", "port": 8443}, "https://[::1]:8443"),
        ({"host": "[::1]", "schema": "http"}, "http://[::1]"),
        ({"host": "http://::1/x", "port": 80}, "http://[::1]:80/x"),
        ({"host": "http://[::1]:8080/"}, "http://[::1]:8080"),
        ({"host": "https://bücher.example"}, "https://xn--bcher-kva.example"),
        ({"host": "https://gw_1/模型"}, "https://gw_1/%E6%A8%A1%E5%9E%8B"),
    ],
)
def test_the_address_may_be_given_in_one_or_in_parts(connect: Any, fields: dict[str, Any], base_url: str) -> None:
    hook = connect(**fields)
    assert hook.settings.base_url == hook.client.base_url == base_url


@pytest.mark.parametrize("host", [None, "", "  "])
def test_a_connection_without_a_host_says_what_to_set(connect: Any, host: str | None) -> None:
    with pytest.raises(ConfigurationError, match="'bitahub_test' has no host: set it"):
        connect(host=host).send(get_job("x"))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"host": "ftp://gw"}, "must begin with http"),
        ({"host": "gw", "schema": "bitahub"}, "schema 'bitahub'.*path belongs to the host"),
        ({"host": "https://gw", "schema": "http"}, "schema 'http'.*differs from the host's"),
        ({"host": "https://gw:8443", "port": 8080}, "port 8080.*differs from the host's"),
        ({"host": "gw", "port": 70000}, "70000"),
        ({"host": "gw", "port": -1}, "-1"),
        ({"host": "gw:port"}, "is not an address"),
        ({"host": "https://gw?token=s3cret-token"}, "cannot contain '[?]' or '#'"),
        ({"host": "https://gw#s3cret-token"}, "cannot contain '[?]' or '#'"),
        *(
            ({"host": host}, "is not an address")
            for host in (
                "https:/gw",
                "http//gw",
                "https://",
                "//gw",
                "https://a b",
                "http://{{kubesphere}}",
                "10.0.0.300",
            )
        ),
        *(({"host": host}, "is not an address") for host in ("https://[::1", "x..y", "a,b", "gw\\x", "fe80::1%eth0")),
    ],
)
def test_a_host_that_is_none_is_refused_by_name(connect: Any, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'bitahub_test' has .*{complaint}") as caught:
        connect(**fields).send(get_job("x"))
    assert TOKEN not in str(caught.value)


def test_a_connection_given_as_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_URI", f"bitahub://alice:{TOKEN}@10.0.0.1:30880/http?user_id=_2f1f")
    hook = BitaHubHook("bitahub_uri")
    assert hook.settings.base_url == "http://10.0.0.1:30880"
    assert hook.settings.token == TOKEN
    assert hook.folders.dataset("MNIST") == ("/datasets/_2f1f/MNIST", "/data/alice/MNIST")


def test_in_a_uri_all_extras_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"verify": "false", "request_timeout": "7", "user_id": "7", "endpoints": '{"stop_job": "PUT /stop/{name}"}'}
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_URI", f"bitahub://https://gw%2Fbitahub:8443/?{urlencode(extra)}")
    hook = BitaHubHook("bitahub_uri")
    assert hook.settings.base_url == "https://gw:8443/bitahub"
    assert (hook.client._verify, hook.client._timeout, hook.settings.text("user_id")) == (False, 7, "7")
    assert hook.client.platform.locate("stop_job", {"name": "x"}) == ("PUT", "/stop/x")


def test_blanks_around_a_text_are_not_part_of_it(connect: Any) -> None:
    extra = {
        "user_id": " _2f1f\n",
        "user_name": "\tann ",
        "workspace": " w /",
        "prefix": "/kapis/",
        "watch": " Single ",
    }
    hook = connect(extra)
    assert (hook.folders.user_id, hook.folders.user_name) == ("_2f1f", "ann")
    assert (hook.client.platform.workspace, hook.client.platform.prefix) == ("w", "kapis")
    assert hook.settings.choice("watch", WATCH_MODES) == "single"
    assert connect({"user_id": "_2f1f"}, login=" ann ").folders.user_name == "ann"
    assert connect({"user_id": " "}).settings.text("user_id", "none") == "none"


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
        *(
            ({key: value}, f"'{key}' must be an object")
            for key in TABLES
            for value in ("PUT /stop", ["x"], 7, False, [])
        ),
        *(({key: {"x": value}}, f"'{key}' must be text, entry 'x'") for key in TABLES for value in (None, ["x"], True)),
        (
            {"endpoints": {"stop_jobs": "PUT /stop/{name}"}},
            "'endpoints' has the unknown entry 'stop_jobs'.*'stop_job'[?]",
        ),
        ({"endpoints": {"stop_job": "/stop/{name}"}}, "'endpoints'.*stop_job is not 'METHOD /path"),
        ({"status_words": {" ": "FAILED"}}, "'status_words' must be text, entry ' '"),
        ({"status_words": {"LOST": "GONE"}}, "'status_words' maps 'LOST' to 'GONE'; allowed are"),
        ({"status_words": {"LOST": "faild"}}, "'status_words' maps 'LOST' to 'FAILD'.*'FAILED'[?]"),
        ({"status_words": {"FAILED": "LOST"}}, "'status_words' maps .*platform's own word comes first"),
        ({"error_codes": {"1206": "conflct"}}, "'error_codes' maps '1206' to 'conflct'.*'conflict'[?]"),
        ({"error_codes": {"conflict": 1206}}, "'error_codes' maps .*platform's own word comes first"),
        *(
            ({key: value}, f"'{key}' must be a number")
            for key, value in [
                ("request_timeout", "soon"),
                ("request_timeout", 0),
                ("request_timeout", -1),
                ("request_timeout", "None"),
                ("request_timeout", True),
                ("request_timeout", math.nan),
                ("request_timeout", "inf"),
                ("request_timeout", 1e300),
                ("request_timeout", 10**400),
                ("request_timeout", [30]),
                ("longest_poll_interval", "60s"),
                ("max_requests_per_second", "nan"),
            ]
        ),
        *(
            ({key: value}, f"'{key}' must be text")
            for key in ("user_id", "default_image")
            for value in (True, 1e5, ["x"])
        ),
        ({"workspace": "a/b"}, "'workspace' is 'a/b': it is one part"),
        ({"watch": "singel"}, "'watch' is 'singel'.*'single'[?]"),
        ({"verify": ["ca.pem"]}, "'verify' must be true, false or the path"),
        ({"verify": 7}, "'verify' must be true, false or the path"),
        ({"console_url": "www.bitahub.com/{name}"}, "'console_url' must begin with http"),
        ({"serving_console_url": "https://x/{job}"}, "'serving_console_url' .*{job}.*{name}"),
    ],
)
def test_a_wrong_extra_is_named(connect: Any, extra: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        _ = connect(extra).settings


@pytest.mark.parametrize("extra", ["{user_id: _2f1f}", "[1]", '"text"', "7"])
def test_an_extra_that_is_no_object_is_refused(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    connection = json.dumps({"conn_type": "bitahub", "host": "https://gw", "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_TEST", connection)
    with pytest.raises(ConfigurationError, match="extra of the Airflow connection 'bitahub_test' is not a JSON object"):
        _ = BitaHubHook("bitahub_test").settings


@pytest.mark.parametrize(("key", "value"), [("user_id", "projects/_2f1f"), ("user_name", "..")])
def test_a_user_is_one_part_of_a_path(connect: Any, key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{key}' is '{value}'"):
        _ = connect({"user_id": "_2f1f", "user_name": "ann", key: value}).folders


@pytest.mark.parametrize(
    ("fields", "extra", "warning"),
    [
        ({"host": "http://gw", "password": TOKEN}, {}, "plain http"),
        ({"host": "http://gw"}, {}, None),
        ({"host": "https://gw", "password": TOKEN}, {}, None),
        *(
            ({"host": host, "schema": "http", "password": TOKEN}, {}, None)
            for host in ("localhost", "127.0.0.2", "::1")
        ),
        ({"host": "https://gw"}, {"verify": "false"}, "'verify' is false"),
    ],
)
def test_what_endangers_the_token_is_said_once(
    connect: Any, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], extra: dict[str, Any], warning: str | None
) -> None:
    _warn_once.cache_clear()
    for _ in range(2):
        _ = connect(extra, **fields).settings
    said = [record.message for record in caplog.records if record.name == _warn_once.__module__]
    assert len(said) == (warning is not None)
    assert all(str(warning) in text and "'bitahub_test'" in text and TOKEN not in text for text in said)


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
        ("no", False),
        (1, True),
        ("1", True),
    ],
)
def test_how_certificates_are_checked(connect: Any, value: Any, verify: bool) -> None:
    assert connect({"verify": value}).client._verify == verify


def test_a_timeout_may_be_text(connect: Any) -> None:
    assert connect({"request_timeout": "7.5"}).client._timeout == 7.5


def test_the_form_writes_null_for_what_was_left_empty(connect: Any) -> None:
    hook, untouched = connect(dict.fromkeys(_EXTRAS)), connect()
    assert hook.client.platform == untouched.client.platform
    assert (hook.client._timeout, hook.client._verify, hook.client._certificate) == (30, True, None)


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

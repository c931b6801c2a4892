"""Servings: what may be sent, and what is read. The documented bodies are in `test_golden`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_bitahub.api.platform import Platform, ServingStatus
from airflow_bitahub.api.protocol import Response
from airflow_bitahub.api.servings import (
    Pod,
    Serving,
    ServingSpec,
    create_serving,
    delete_serving,
    get_serving,
    get_serving_log,
    invoke_serving,
    join,
    list_servings,
    probe_serving,
    scale_serving,
    start_serving,
    stop_serving,
    update_serving,
)
from airflow_bitahub.exceptions import InvokeError, ServingUnavailableError, UnexpectedResponseError

PLATFORM = Platform()
SERVINGS = "/lapis/inference.leinao.ai/v1/workspaces/bitahub/namespaces/inference/serving"
LEAST: Mapping[str, Any] = {
    "name": "mnist",
    "model": {"path": "/models/u/m", "mount_path": "/model/u/m"},
    "image": "flask",
    "protocols": [{}],
    "commands": ["python serving.py"],
}
SERVING = Serving(name="mnist", status=ServingStatus.RUNNING, url="http://mnist.example.com:8080/base/")
TOKEN = "6fFvTrWb5BN9FEn5NTBO89Kkj53IMVL1"
DATA: Mapping[str, Any] = {"name": "mnist", "status": "RUNNING", "hosts": "http://mnist.example.com", "token": TOKEN}


def spec(**fields: Any) -> ServingSpec:
    return ServingSpec.model_validate({**LEAST, **fields})


def enveloped(data: Any) -> Response:
    return Response(200, {}, json.dumps({"status": {"code": 0, "msg": "success"}, "data": data}).encode())


def serving_of(data: Any) -> Serving:
    return get_serving("asked").read(enveloped(data), PLATFORM)


@pytest.mark.parametrize(
    "fields",
    [
        {"replica": 2},
        {"replicas": 0},
        {"image": ""},
        {"protocols": []},
        {"protocols": [{"port": 0}]},
        {"protocols": [{"port": 65536}]},
        {"commands": []},
        {"config": {}},
        {"envs": {"MODEL_PATH": 7}},
        {"resource": {"cpuNumber": 2}},
        {"resource": {"cpu": 0}},
        {"model": {"path": "/models/u/m"}},
    ],
)
def test_what_the_platform_would_not_understand_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**fields)


@pytest.mark.parametrize("name", ["", "Mnist", "mnist_1", "-mnist", "mnist-", "a/b", "x" * 50])
def test_names_that_cannot_be_part_of_a_host_name_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        spec(name=name)


def test_the_longest_name() -> None:
    assert len(spec(name="x" * 49).name + "-testinference") == 63


def test_config_is_sent_as_null_and_no_accelerator_not_at_all() -> None:
    body = spec().body()
    assert body["config"] is None
    assert body["resource"] == {"cpu": 2, "memory": 4096}
    assert body["model"] == {"kind": "nfs", "path": "/models/u/m", "mountPath": "/model/u/m"}


@pytest.mark.parametrize(
    ("call", "method", "path", "query", "safe"),
    [
        (create_serving(spec()), "POST", SERVINGS, {}, False),
        (list_servings(), "GET", SERVINGS, {}, True),
        (get_serving("m"), "GET", f"{SERVINGS}/m", {"version": "v1"}, True),
        (get_serving("m", "v2"), "GET", f"{SERVINGS}/m", {"version": "v2"}, True),
        (update_serving(spec(name="m", version="v2")), "PUT", f"{SERVINGS}/m", {"version": "v2"}, True),
        (scale_serving("m", "v2", 3), "PATCH", f"{SERVINGS}/m", {"version": "v2"}, True),
        (start_serving("m", "v2"), "PUT", f"{SERVINGS}/m/start", {"version": "v2"}, True),
        (stop_serving("m", "v2"), "PUT", f"{SERVINGS}/m/stop", {"version": "v2"}, True),
        (delete_serving("m", "v2"), "DELETE", f"{SERVINGS}/m", {"version": "v2"}, False),
        (get_serving_log("m", "v2", 7), "GET", f"{SERVINGS}/m/log", {"version": "v2", "tailLines": "7"}, True),
    ],
)
def test_where_each_call_goes_and_whether_it_may_be_repeated(
    call: Any, method: str, path: str, query: dict[str, str], safe: bool
) -> None:
    assert PLATFORM.locate(call.request.operation, call.request.names) == (method, path)
    assert call.request.query == query
    assert call.safe_to_repeat is safe


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("http://mnist.example.com", "http://mnist.example.com"),
        ("https://mnist.example.com/", "https://mnist.example.com/"),
        ("mnist.example.com", "http://mnist.example.com"),
        (["http://a.example.com", "http://b.example.com"], "http://a.example.com"),
        ([], ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_address_in_every_plausible_form(hosts: Any, url: str) -> None:
    assert serving_of({**DATA, "hosts": hosts}).url == url


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("Running", ServingStatus.RUNNING),
        ("STOPING", ServingStatus.STOPPING),
        ("SUCCEEDED", ServingStatus.STOPPED),
        ("MOVING", ServingStatus.UNKNOWN),
    ],
)
def test_states(word: str, status: ServingStatus) -> None:
    assert serving_of({**DATA, "status": word}).status is status


@pytest.mark.parametrize(
    ("said", "pods"),
    [
        ([], ()),
        (None, ()),
        ({"m-0": "Running"}, ()),
        (["Running", {}, {"phase": {}}, 7], ()),
        (
            [{"name": "m-0", "phase": "FAILED", "message": "exit code 3"}],
            (Pod(name="m-0", raw_state="FAILED", message="exit code 3"),),
        ),
        ([{"podName": "m-0", "status": "Running", "message": 7}], (Pod(name="m-0", raw_state="Running", message=""),)),
        (
            [{"metadata": {"name": "m-0"}, "status": {"phase": "Pending", "reason": "Unschedulable"}}],
            (Pod(name="m-0", raw_state="Pending", message="Unschedulable"),),
        ),
    ],
)
def test_what_replicas_say_is_read_as_far_as_it_is_understood(said: Any, pods: tuple[Pod, ...]) -> None:
    assert serving_of({**DATA, "podstatuses": said}).pods == pods


def test_what_replicas_say_is_shortened() -> None:
    [pod] = serving_of({**DATA, "podstatuses": [dict.fromkeys(("name", "phase", "message"), "x" * 10**6)]}).pods
    assert max(map(len, (pod.name, pod.raw_state, pod.message))) < 10_000


def test_a_servings_log_is_read_as_a_jobs_is() -> None:
    call = get_serving_log("m", tail_lines=2)
    assert call.read(enveloped({"log": "a\nb\nc\n"}), PLATFORM) == "b\nc"


@pytest.mark.parametrize("word", [None, "", 7])
def test_an_answer_without_a_readable_status_is_no_answer(word: Any) -> None:
    with pytest.raises(UnexpectedResponseError, match="contains no status"):
        serving_of({**DATA, "status": word})


def test_little_is_enough() -> None:
    assert serving_of({"state": "RUNNING"}) == Serving(name="asked", status=ServingStatus.RUNNING, raw_state="RUNNING")


def test_the_access_token_is_neither_printed_nor_dumped() -> None:
    serving = serving_of(DATA)
    shown = [repr(serving), str(serving), str(serving.model_dump()), serving.model_dump_json()]
    shown += [repr(call) for call in (probe_serving(serving), invoke_serving(serving, "/image"))]
    assert serving.token == TOKEN
    assert not any(TOKEN in text for text in shown)


@pytest.mark.parametrize("token", [None, 7, "", "two words", "a\nb", "\u00e4"])
def test_what_could_not_be_sent_is_no_access_token(token: Any) -> None:
    assert serving_of({**DATA, "token": token}).token == ""


def test_the_access_token_goes_to_the_serving_that_has_it() -> None:
    serving = serving_of(DATA)
    assert probe_serving(serving).request.token == invoke_serving(serving, "/image").request.token == TOKEN
    assert get_serving("mnist").request.token == ""


@pytest.mark.parametrize("data", [None, [], "RUNNING"])
def test_an_answer_without_a_serving_says_so(data: Any) -> None:
    with pytest.raises(UnexpectedResponseError, match="'asked' contains no serving"):
        serving_of(data)


@pytest.mark.parametrize("collection", [[DATA], {"items": [DATA], "totalItems": 1}, {"servings": [DATA]}])
def test_every_shape_of_a_list(collection: Any) -> None:
    assert list_servings().read(enveloped(collection), PLATFORM) == [serving_of(DATA)]


def test_a_serving_in_words() -> None:
    assert str(serving_of({**DATA, "message": "no such image"})) == "serving 'mnist' is RUNNING: no such image"
    assert str(Serving(name="m", status=ServingStatus.WAITING)) == "serving 'm' is WAITING"


# The served program ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path", "joined"),
    [
        ("http://a", "/image", "http://a/image"),
        ("http://a/", "image", "http://a/image"),
        ("http://a/base/", "/image", "http://a/base/image"),
        ("http://a", "/", "http://a/"),
    ],
)
def test_a_path_is_put_behind_the_address(url: str, path: str, joined: str) -> None:
    assert join(url, path) == joined


@pytest.mark.parametrize(
    ("path", "status", "answers"),
    [
        *(("/", status, status < 500) for status in (200, 302, 404, 405, 500, 503)),
        *(("/health", status, status < 400) for status in (200, 302, 400, 404, 500, 503)),
    ],
)
def test_which_answers_show_a_program_that_runs(path: str, status: int, answers: bool) -> None:
    call = probe_serving(SERVING, path)
    assert call.request.operation == f"GET http://mnist.example.com:8080/base{path}"
    assert call.read(Response(status, {}, b""), PLATFORM) is answers


def test_asking_the_program_is_not_repeated_and_goes_to_its_own_address() -> None:
    files = [("files", ("7.png", b"PNG"))]
    call = invoke_serving(SERVING, "/image", form={"a": "b"}, files=files, timeout=5)
    assert call.request.operation == "POST http://mnist.example.com:8080/base/image"
    assert call.request.is_foreign
    assert (call.request.form, call.request.files, call.request.timeout) == ({"a": "b"}, files, 5)
    assert not call.safe_to_repeat


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"data": {"predictions": [7]}, "status": {"code": 0, "msg": "success"}}, {"predictions": [7]}),
        ({"data": [7]}, [7]),
        ({"predictions": [7]}, {"predictions": [7]}),
        ([7], [7]),
        (0, 0),
        *(({"data": [7], "status": {"code": code, "msg": "ok"}}, [7]) for code in (0, "0", 200, "200", "S000")),
        ({"message": {"code": 0}, "data": [7]}, [7]),
        ({"code": "A12", "score": 0.5}, {"code": "A12", "score": 0.5}),
    ],
)
def test_the_programs_answer(body: Any, answer: Any) -> None:
    response = Response(200, {}, json.dumps(body).encode())
    assert invoke_serving(SERVING, "/image").read(response, PLATFORM) == answer


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"status": {"code": 1, "msg": "not a picture"}, "data": null}', "not a picture (code 1, HTTP 200)"),
        (400, b'{"status": {"code": 0, "msg": "success"}, "data": null}', "success (code 0, HTTP 400)"),
        (500, b"<h1>Internal\nError</h1>", "<h1>Internal Error</h1> (code None, HTTP 500)"),
        (200, b'{"status": {"code": "1", "msg": "no picture"}}', "no picture (code 1, HTTP 200)"),
        (200, b'{"message": {"code": 1400, "message": "busy"}}', "busy (code 1400, HTTP 200)"),
        (302, b"{}", "{} (code None, HTTP 302)"),
        (200, b"", "nothing (code None, HTTP 200)"),
        (200, b"<html>", "<html> (code None, HTTP 200)"),
    ],
)
def test_a_program_that_refuses(status: int, body: bytes, said: str) -> None:
    with pytest.raises(InvokeError) as caught:
        invoke_serving(SERVING, "/image").read(Response(status, {}, body), PLATFORM)
    assert said in str(caught.value)
    assert "Could not call serving 'mnist' at http://mnist.example.com:8080/base/image" in str(caught.value)
    assert caught.value.serving_name == "mnist"
    assert type(caught.value) is InvokeError


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("inside", [True, False])
def test_a_program_that_does_not_answer_yet(status: int, *, inside: bool) -> None:
    body = json.dumps({"status": {"code": status, "msg": "loading"}}).encode() if inside else b"loading"
    with pytest.raises(ServingUnavailableError, match=r"It said: loading .* does not answer yet, or no longer"):
        invoke_serving(SERVING, "/image").read(Response(200 if inside else status, {}, body), PLATFORM)


@pytest.mark.parametrize(("token", "advice"), [("", "set the password"), (TOKEN, "did not accept the access token")])
def test_what_to_do_about_a_serving_that_wants_a_token_is_told(token: str, advice: str) -> None:
    serving = SERVING.model_copy(update={"token": token})
    with pytest.raises(InvokeError, match=advice) as caught:
        invoke_serving(serving, "/image").read(Response(401, {}, b""), PLATFORM)
    assert TOKEN not in str(caught.value)

"""Asking a served model."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.servings import delete_serving
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.exceptions import (
    InvokeError,
    NotFoundError,
    ServingFailedError,
    ServingUnavailableError,
    StorageError,
)
from airflow_bitahub.links import BitaHubServingLink
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.masking import AirflowMask
from tests.conftest import Asked, Gateway, TaskRun, until
from tests.operators.served_program import ask, foreign_serving, put_models

_numbers = count(1)

PICTURE = b"\x89PNG, more or less"


@pytest.fixture(scope="module", autouse=True)
def _models(shared_platform: Emulator) -> None:
    put_models(shared_platform)


@pytest.fixture(scope="module")
def served(shared_platform: Emulator) -> Iterator[str]:
    """The name of a serving that answers."""
    client = BitaHubClient(shared_platform.url, auth=BearerToken(shared_platform.token))
    name = f"served-{next(_numbers)}"
    foreign_serving(client, name)
    url = until(lambda: shared_platform.state.serving(ServingKey("inference", name, "v1")).url)

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return ask(url) == "v1"
        return False

    until(answers)
    yield name
    client.send(delete_serving(name))
    client.close()


def invoke(name: str, **arguments: Any) -> BitaHubInvokeServingOperator:
    return BitaHubInvokeServingOperator(**{"task_id": "task", "serving_name": name, **arguments})


def body_of(answer: Any) -> bytes:
    return base64.b64decode(answer["body"])


def form_of(answer: Any) -> dict[str, list[str]]:
    assert answer["type"] == "application/x-www-form-urlencoded"
    return parse_qs(body_of(answer).decode())


@pytest.mark.usefixtures("connection")
def test_picture_is_given_by_its_address(served: str, task_run: TaskRun) -> None:
    answer = invoke(served, image_url="https://example.com/7.png?a=1&b=2").execute(task_run.context())
    assert answer["path"] == "/image"
    assert form_of(answer) == {"urls": ["https://example.com/7.png?a=1&b=2"]}


@pytest.mark.usefixtures("connection")
def test_picture_is_given_as_base64_as_the_command_of_that_name_wraps_it(served: str, task_run: TaskRun) -> None:
    text = "data:image/png;base64," + base64.encodebytes(PICTURE * 10).decode()
    assert "\n" in text.strip()
    answer = invoke(served, image_base64=text).execute(task_run.context())
    assert form_of(answer) == {"base64s": [text.replace("\n", "")]}


@pytest.mark.usefixtures("connection")
def test_several_pictures_are_one_request(served: str, task_run: TaskRun, tmp_path: Path) -> None:
    answer = invoke(served, image_url=["u", "v"], field="f").execute(task_run.context())
    assert form_of(answer) == {"f": ["u", "v"]}
    for name in ("7.png", "1.png"):
        (tmp_path / name).write_bytes(PICTURE + name.encode())
    files = [f"{tmp_path}/7.png", f"{tmp_path}/1.png"]
    body = body_of(invoke(served, image_file=files, allow_any_image_file=True).execute(task_run.context()))
    for part in (b'name="files"; filename="7.png"', PICTURE + b"7.png", b'name="files"; filename="1.png"'):
        assert part in body


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("body", [{"x": (1, None)}, '{"x": [1, null]}'])
def test_json_is_sent_as_it_is(body: Any, served: str, task_run: TaskRun) -> None:
    answer = invoke(served, json=body, path="/predict", expected_prediction=7).execute(task_run.context())
    assert (answer["path"], answer["type"]) == ("/predict", "application/json")
    assert json.loads(body_of(answer)) == {"x": [1, None]}


@pytest.mark.usefixtures("connection")
def test_mapped_task_asks_about_its_own_picture(served: str, task_run: TaskRun) -> None:
    with DAG("d", params={"served": served}) as dag:
        mapped = BitaHubInvokeServingOperator.partial(
            task_id="task", serving_name="{{ params.served }}", warmup_timeout=5
        ).expand_kwargs([{"image_url": "u", "expected_prediction": 7}, {"json": {"x": "{{ params.served }}"}}])
    sent = []
    for task_run.map_index in (0, 1):
        context = task_run.context()
        context["dag_run"].conf = {}
        context |= {"dag": dag, "task": mapped, "params": {"served": served}}
        context["ti"].task = mapped
        mapped.render_template_fields(context)
        sent.append(body_of(context["task"].execute(context)))
    assert sent == [b"urls=u", json.dumps({"x": served}, separators=(",", ":")).encode()]


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("where", ["on the platform", "on this worker", "behind an address"])
def test_picture_is_given_as_a_file(
    where: str, served: str, task_run: TaskRun, platform: Emulator, tmp_path: Path
) -> None:
    server_path = f"{FOLDERS.dataset('MNIST')[0]}/seven.png"
    for file in (platform.storage / server_path.lstrip("/"), tmp_path / "seven.png"):
        file.write_bytes(PICTURE)
    picture = {
        "on the platform": server_path.replace(FOLDERS.user_id, "{user_id}"),
        "on this worker": str(tmp_path / "seven.png"),
        "behind an address": f"file://{tmp_path}/seven.png",
    }[where]
    is_foreign = where != "on the platform"
    answer = invoke(served, image_file=picture, allow_any_image_file=is_foreign).execute(task_run.context())
    body = body_of(answer)
    assert answer["type"].startswith("multipart/form-data")
    assert b'name="files"; filename="seven.png"' in body
    assert PICTURE in body


@pytest.mark.usefixtures("connection")
def test_path_and_field_belong_to_the_program(served: str, task_run: TaskRun) -> None:
    answer = invoke(served, image_url="u", path="v2/predict", field="picture").execute(task_run.context())
    assert (answer["path"], form_of(answer)) == ("/v2/predict", {"picture": ["u"]})


@pytest.mark.usefixtures("connection")
def test_link_leads_to_the_serving(served: str, task_run: TaskRun, platform: Emulator) -> None:
    invoke(served, image_url="u").execute(task_run.context())
    url = platform.state.serving(ServingKey("inference", served, "v1")).url
    assert task_run.xcoms["bitahub_serving_url"] == url
    assert invoke(served).operator_extra_links == (BitaHubServingLink(),)


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("expected", [7, 7.0, "7", [7], {"path": "/image", "predictions": ["7"]}, None, ""])
def test_answer_may_be_checked(expected: Any, served: str, task_run: TaskRun) -> None:
    answer = invoke(served, image_url="u", expected_prediction=expected).execute(task_run.context())
    assert answer["predictions"] == [7]
    assert isinstance(task_run.xcoms["seconds"], float)


@pytest.mark.usefixtures("connection")
def test_wrong_prediction_fails(served: str, task_run: TaskRun) -> None:
    with pytest.raises(InvokeError, match="answered 7; expected was 8"):
        invoke(served, image_url="u", expected_prediction=8).execute(task_run.context())


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/refuse", r"It said: not a picture \(code 1, HTTP 200\)"),
        ("/broken", r"code 0, HTTP 500"),
        ("/text", r"It said: hello \(code None, HTTP 200\)"),
    ],
)
def test_programs_error_fails_the_task_even_inside_http_200(
    path: str, says: str, served: str, task_run: TaskRun
) -> None:
    with pytest.raises(InvokeError, match=says):
        invoke(served, image_url="u", path=path).execute(task_run.context())


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(
    "pictures",
    [{}, {"image_url": ""}, {"image_url": "u", "image_file": "f"}, {"json": {}, "image_base64": "Zg=="}],
)
def test_anything_but_exactly_one_question_is_refused(pictures: dict[str, str], task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match="exactly one of image_url, image_file, image_base64 and json"):
        invoke("never-asked", **pictures).execute(task_run.context())


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "http://127.0.0.1/", "file:///datasets/x", "/datasets/../etc/passwd", "7.png"]
)
def test_only_the_platforms_files_are_sent_unless_the_author_says_otherwise(path: str, task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match="is not below /projects, /datasets or /models"):
        invoke("never-asked", image_file=path).execute(task_run.context())


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("path", ["/datasets/{user_id}/MNIST/none.png", "/nowhere/none.png"])
def test_missing_picture_is_told_in_a_sentence(path: str, task_run: TaskRun) -> None:
    with pytest.raises(StorageError, match=r"^image_file: .*none\.png does not exist"):
        invoke("never-asked", image_file=path, allow_any_image_file=True).execute(task_run.context())


@pytest.mark.usefixtures("connection")
def test_serving_that_does_not_exist_fails_the_try(task_run: TaskRun) -> None:
    """Another try may find it: only the refusal of a submission is final."""
    with pytest.raises(NotFoundError, match="there is no serving 'never-created'"):
        invoke("never-created", image_url="u").execute(task_run.context())


def test_serving_without_an_address_is_told_clearly(gateway: Gateway, task_run: TaskRun) -> None:
    serving = {"name": "x", "status": "WAITING", "hosts": ""}
    gateway.answer = lambda _: (200, {"status": {"code": 0}, "data": serving})
    with pytest.raises(ServingFailedError, match="'x' is WAITING: it has no address"):
        invoke("x", image_url="u").execute(task_run.context())


@pytest.mark.parametrize(("warmup_timeout", "answers"), [(60, 3), (0, 1)])
def test_program_that_does_not_answer_yet_is_asked_again(
    warmup_timeout: float, answers: int, gateway: Gateway, task_run: TaskRun
) -> None:
    serving = {"name": "x", "status": "RUNNING", "hosts": gateway.url}

    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.method == "GET":
            return 200, {"status": {"code": 0}, "data": serving}
        ready = [each.method for each in gateway.asked].count("POST") > 2
        return (200, {"predictions": [7]}) if ready else (503, "no program listens")

    gateway.answer = answer
    operator = invoke("x", image_url="u", expected_prediction=7, warmup_timeout=warmup_timeout)
    if warmup_timeout:
        assert operator.execute(task_run.context()) == {"predictions": [7]}
    else:
        with pytest.raises(ServingUnavailableError, match="no program listens"):
            operator.execute(task_run.context())
    assert [asked.method for asked in gateway.asked].count("POST") == answers


@pytest.mark.usefixtures("connection")
def test_access_token_is_masked_where_the_program_repeats_it(gateway: Gateway, task_run: TaskRun) -> None:
    serving = {"name": "x", "status": "RUNNING", "hosts": gateway.url, "token": "sesame-of-the-serving"}

    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.method == "POST":
            return 400, {"message": f"I got {asked.headers['Authorization']}"}
        return 200, {"status": {"code": 0}, "data": serving}

    gateway.answer = answer
    with pytest.raises(InvokeError) as caught:
        invoke("x", image_url="u", warmup_timeout=0).execute(task_run.context())
    assert "Bearer ***" in AirflowMask().hide(str(caught.value))

"""Servings really run, each on a port of its own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_bitahub.emulator.server import DrivenClock, Emulator
from tests.emulator.conftest import SERVINGS, Api, assert_refused, is_alive

SERVER = "python -m http.server --bind $HOST $PORT"
# The fields of the document's answer, in its spellings.
FIELDS = [
    "name",
    "id",
    "namespace",
    "hosts",
    "replicas",
    "status",
    "token",
    "createdTime",
    "stopedTime",
    "updatedTime",
    "meteringDetail",
    "launchedTime",
    "podstatuses",
]


def ask(url: str) -> str:
    try:
        return httpx.get(url, trust_env=False, verify=False).text
    except httpx.TransportError:
        return ""


def test_serving_lives_and_stops(api: Api) -> None:
    name = api.serve("cd /model/u/dense; echo $MODEL_PATH >&2", SERVER)
    serving = api.wait_serving(name, "RUNNING")
    assert list(serving) == FIELDS
    assert serving["name"] == name
    assert (serving["id"], serving["namespace"], serving["replicas"]) == ("", "inference", 1)
    assert serving["hosts"].startswith("http://127.0.0.1:")
    assert len(serving["token"]) == 32
    assert serving["token"].isalnum()
    assert serving["podstatuses"] == []
    assert serving["stopedTime"] == 0
    assert serving["launchedTime"] % 1000 == 0

    (api.emulator.storage / "models/u/dense/weights").write_text("1, 2, 3")
    assert api.until(lambda: ask(serving["hosts"] + "/weights"), bool) == "1, 2, 3"
    log = api.http.get(f"{SERVINGS}/{name}/log").json()["data"]["log"]
    assert log.startswith("/tmp/bh-"), "MODEL_PATH is mapped"
    assert log.splitlines()[0].endswith("/dense")

    assert api.http.put(f"{SERVINGS}/{name}/stop", params={"version": "v1"}).json()["status"]["code"] == 0
    stopped = api.wait_serving(name, "STOPPED")
    assert stopped["stopedTime"] >= serving["createdTime"]
    assert stopped["updatedTime"] >= stopped["stopedTime"]
    assert ask(serving["hosts"]) == ""
    assert api.http.put(f"{SERVINGS}/{name}/stop").status_code == 200, "stopping twice is no error"
    assert api.serving(name)["status"] == "STOPPED"

    assert api.http.delete(f"{SERVINGS}/{name}").status_code == 200
    assert_refused(api.http.get(f"{SERVINGS}/{name}"), 404, name)
    assert_refused(api.http.delete(f"{SERVINGS}/{name}"), 404, name)
    assert_refused(api.http.put(f"{SERVINGS}/{name}/stop"), 404, name)


def test_delete_ends_a_live_one(api: Api, tmp_path: Path) -> None:
    name = api.serve(f"echo $$ > '{tmp_path}/pid'; exec {SERVER}")
    pid = api.pid_from(tmp_path / "pid")
    assert api.http.delete(f"{SERVINGS}/{name}", params={"version": "v1"}).status_code == 200
    assert not is_alive(pid)
    assert_refused(api.http.get(f"{SERVINGS}/{name}"), 404)
    api.serve(SERVER, name=name)  # the name is free at once
    api.http.delete(f"{SERVINGS}/{name}")


def test_several_at_once_and_versions(api: Api) -> None:
    name = api.serve(SERVER)
    api.serve(SERVER, name=name, version="v2")
    assert_refused(api.http.post(SERVINGS, json=api.serving_body(SERVER, name=name)), 409, name, "'v1'")
    first = api.wait_serving(name, "RUNNING")
    second = api.until(lambda: api.serving(name, "v2"), lambda serving: serving["status"] == "RUNNING")
    assert first["hosts"] != second["hosts"]
    assert first["token"] != second["token"]
    for serving in (first, second):
        api.until(lambda url=serving["hosts"]: ask(url), bool)  # type: ignore[misc]
    data = api.http.get(SERVINGS).json()["data"]
    assert [item["name"] for item in data["items"]][:2] == [name, name]
    assert data["totalItems"] == len(data["items"])
    for version in ("v1", "v2"):
        assert api.http.delete(f"{SERVINGS}/{name}", params={"version": version}).status_code == 200


def test_one_that_ends_by_itself_failed(api: Api) -> None:
    name = api.serve("echo no such model; exit 0")
    serving = api.wait_serving(name, "FAILED")
    assert list(serving) == FIELDS
    assert serving["stopedTime"]
    assert "no such model" in serving["podstatuses"][0]["message"]
    assert api.http.put(f"{SERVINGS}/{name}/stop").status_code == 200
    assert api.serving(name)["status"] == "FAILED"


def test_one_that_ends_by_itself_is_started_again_after_longer_and_longer_pauses(
    images_file: Path, tmp_path: Path
) -> None:
    clock = DrivenClock()
    with Emulator(tmp_path, images=images_file, serving_restarts=2, clock=clock) as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            name = api.serve("echo tried; exit 4")
            for number, pause in ((1, 1), (2, 2)):
                message = f"restart {number} of 2 in {pause} s: the program ended by itself with exit code 4"
                api.until(lambda: api.serving(name)["podstatuses"], lambda pods: pods and message in pods[0]["message"])  # noqa: B023
                assert api.serving(name)["status"] == "WAITING"
                clock.advance(pause)
            assert "exit code 4" in api.wait_serving(name, "FAILED")["podstatuses"][0]["message"]
        [log] = emulator.home.glob("servings/**/log")
        assert log.read_text() == "tried\n" * 3


def test_one_that_waits_for_its_restart_can_be_stopped(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, clock=DrivenClock()) as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            name = api.serve("exit 4")
            api.until(lambda: api.serving(name)["podstatuses"], bool)
            api.http.put(f"{SERVINGS}/{name}/stop")
            api.wait_serving(name, "STOPPED")


def test_who_has_the_port_that_a_program_insists_on_is_told(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    protocols = [{"kind": "http", "port": port}]
    insists = f"python -m http.server --bind 127.0.0.1 {port}"
    first = api.serve(f"exec {insists}", protocols=protocols)
    api.until(lambda: ask(f"http://127.0.0.1:{port}"), bool)
    second = api.wait_serving(api.serve(insists, protocols=protocols), "FAILED")
    assert f"port {port} is taken, it seems by serving '{first}'" in second["podstatuses"][0]["message"]
    api.http.delete(f"{SERVINGS}/{first}")


def test_own_port_wins_over_envs(api: Api) -> None:
    name = api.serve(SERVER, envs={"PORT": "1", "HOST": "192.0.2.1", "MODE": "/model/u/dense:/in-image"})
    api.until(lambda: ask(api.wait_serving(name, "RUNNING")["hosts"]), bool)
    api.http.delete(f"{SERVINGS}/{name}")


def test_metering(images_file: Path, tmp_path: Path) -> None:
    emulator = Emulator(tmp_path, images=images_file, grace=1)
    with emulator:
        api = Api(emulator)
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        name = api.serve(SERVER)
        launched = api.wait_serving(name, "RUNNING")["launchedTime"] / 1000
        emulator.state._clock = lambda: launched + 55.17 * 60
        assert api.serving(name)["meteringDetail"] == {
            "usedCpuCoreMinutes": 110.34,
            "usedMemoryGBMinutes": 220.68,
            "runningMinutes": 55.17,
            "accDeviceMetering": [{"accDeviceNumMinutes": 55.17, "accDeviceType": "gtx-1080-ti"}],
        }
        api.http.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"kind": "nfs", "path": "/models/u/none", "mountPath": "/m"}}, "model '/models/u/none' does not"),
        ({"model": {"kind": "nfs", "path": "/models/../../etc", "mountPath": "/m"}}, "not below"),
        ({"model": {"kind": "nfs", "path": "/models/u/dense", "mountPath": "/"}}, "nothing can be mounted"),
        ({"image": "unheard-of"}, "image 'unheard-of' is unknown"),
        ({"version": "../../x"}, "version"),
        ({"version": ""}, "version"),
        ({"envs": {"A=B": "c"}}, "envs: 'A=B'"),
        ({"envs": {"A": "\0"}}, "envs.A"),
        ({"commands": []}, "commands"),
        ({"commands": ["\0"]}, "commands"),
        ({"name": "x" * 50}, "name"),
        ({"name": "../x"}, "name"),
        ({"protocols": [{"kind": "http", "port": 0}]}, "protocols.0.port"),
        ({"replicaCount": 2}, "replicaCount"),
    ],
)
def test_refused(api: Api, changes: dict[str, Any], words: str) -> None:
    before = api.http.get(SERVINGS).json()["data"]["totalItems"]
    assert_refused(api.http.post(SERVINGS, json={**api.serving_body("true"), **changes}), 400, words)
    assert api.http.get(SERVINGS).json()["data"]["totalItems"] == before

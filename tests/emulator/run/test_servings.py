"""Servings really run, each on its own port."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_bitahub.emulator.server import DrivenClock, Emulator
from tests.emulator.conftest import SERVINGS, TELL_PID, Api, ask, assert_refused, is_alive

SERVER = "python -m http.server --bind $HOST $PORT"
# The fields of the document's answer, spelled as there.
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


def test_serving_lives_and_stops(api: Api) -> None:
    name = api.serve("cd /model/u/dense; echo $MODEL_PATH >&2", SERVER)
    serving = api.wait_served(name)
    assert list(serving) == FIELDS
    assert serving["name"] == name
    assert (serving["id"], serving["namespace"], serving["replicas"]) == ("", "inference", 1)
    assert serving["hosts"].startswith("http://127.0.0.1:")
    assert len(serving["token"]) == 32
    assert serving["token"].isalnum()
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
    assert list(serving) == [*FIELDS, "message"]
    assert serving["stopedTime"]
    [pod] = serving["podstatuses"]
    assert (pod["name"], pod["phase"], pod["exitCode"]) == (f"{name}-0", "FAILED", 0)
    assert "no such model" in pod["message"] == serving["message"]
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


def test_own_port_wins_over_envs(api: Api) -> None:
    name = api.serve(SERVER, envs={"PORT": "1", "HOST": "192.0.2.1", "MODE": "/model/u/dense:/in-image"})
    api.until(lambda: ask(api.wait_serving(name, "RUNNING")["hosts"]), bool)
    api.http.delete(f"{SERVINGS}/{name}")


def test_metering(images_file: Path, tmp_path: Path) -> None:
    clock = DrivenClock()
    with Emulator(tmp_path, images=images_file, grace=1, clock=clock, mounts="links") as emulator:
        api = Api(emulator)
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        with api.http:
            name = api.serve(f"echo $$ > /model/u/dense/pid; exec {SERVER}")
            api.wait_serving(name, "RUNNING")
            clock.advance(55.17 * 60)
            metered = {
                "usedCpuCoreMinutes": 110.34,
                "usedMemoryGBMinutes": 220.68,
                "runningMinutes": 55.17,
                "accDeviceMetering": [{"accDeviceNumMinutes": 55.17, "accDeviceType": "gtx-1080-ti"}],
            }
            assert api.serving(name)["meteringDetail"] == metered

            os.kill(api.pid_from(emulator.storage / "models/u/dense/pid"), signal.SIGKILL)
            api.wait_serving(name, "WAITING")
            assert api.serving(name)["meteringDetail"] == metered, "what has run is not forgotten"
            api.http.put(f"{SERVINGS}/{name}/stop")
            api.wait_serving(name, "STOPPED")
            clock.advance(1000)
            assert api.serving(name)["meteringDetail"] == metered


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


# Stopped, started, updated, scaled --------------------------------------------------------------------------------


def pids_of(api: Api, name: str, number: int) -> set[int]:
    """Wait until `number` programs of a serving answer in turn, and return their process ids."""

    def look() -> list[str]:
        url = api.serving(name)["hosts"]
        return [ask(url) for _ in range(2 * number)]

    answers = api.until(look, lambda pids: len(set(pids) - {""}) == number and pids[:number] == pids[number:])
    return {int(pid) for pid in answers}


def scale(api: Api, name: str, replicas: Any) -> httpx.Response:
    return api.http.patch(f"{SERVINGS}/{name}", params={"version": "v1"}, json={"replicas": replicas})


@pytest.fixture
def name(api: Api) -> Iterator[str]:
    """A serving whose program answers with its process id."""
    name = api.serve(TELL_PID)
    yield name
    api.http.delete(f"{SERVINGS}/{name}")


def test_stopped_one_can_be_started_at_the_same_address(api: Api, name: str) -> None:
    before = api.wait_served(name)
    [pid] = pids_of(api, name, 1)
    api.act_on_serving(name, "start")
    assert pids_of(api, name, 1) == {pid}, "starting one that is alive changes nothing"
    api.act_on_serving(name, "stop")
    api.act_on_serving(name, "start")  # it waits until the stop is over
    assert not is_alive(pid)
    after = api.wait_served(name)
    for field in ("hosts", "token", "createdTime", "stopedTime"):
        assert after[field] == before[field]
    assert pids_of(api, name, 1) != {pid}
    assert_refused(api.http.put(f"{SERVINGS}/none/start"), 404, "'none'")


def test_failed_one_can_be_started(api: Api) -> None:
    flag = api.emulator.storage / "models/u/dense/mended"
    name = api.serve(f"[ -e /model/u/dense/mended ] || exit 3; {SERVER}")
    api.wait_serving(name, "FAILED")
    flag.touch()
    api.act_on_serving(name, "start")
    assert api.wait_served(name)["stopedTime"] == 0
    api.http.delete(f"{SERVINGS}/{name}")


def test_as_many_programs_run_as_it_has_replicas_and_are_asked_in_turn(api: Api, name: str) -> None:
    [first] = pids_of(api, name, 1)
    assert scale(api, name, 3).json()["data"] == {"name": name, "version": "v1"}
    assert api.serving(name)["replicas"] == 3
    assert api.serving(name)["status"] == "RUNNING"
    three = pids_of(api, name, 3)
    assert first in three, "who runs already goes on"
    assert all(is_alive(pid) for pid in three)
    scale(api, name, 1)
    [last] = pids_of(api, name, 1)
    assert last in three
    api.until(lambda: [is_alive(pid) for pid in three], lambda alive: sum(alive) == 1)
    api.act_on_serving(name, "stop")
    api.wait_serving(name, "STOPPED")
    assert not is_alive(last)


@pytest.mark.parametrize(
    ("replicas", "words"), [(0, "replicas"), ("2", "replicas"), (None, "replicas"), (65, "at most 64")]
)
def test_scaling_that_cannot_be_is_refused(api: Api, name: str, replicas: Any, words: str) -> None:
    assert_refused(scale(api, name, replicas), 400, words)
    assert_refused(scale(api, "none", 2), 404, "'none'")
    assert api.serving(name)["replicas"] == 1


def test_update_runs_another_program_at_the_same_address(api: Api, name: str) -> None:
    before = api.wait_serving(name, "RUNNING")
    [pid] = pids_of(api, name, 1)

    def update(*commands: str, **changes: Any) -> httpx.Response:
        return api.http.put(f"{SERVINGS}/{name}", json=api.serving_body(*commands, **{"name": name, **changes}))

    assert_refused(update(TELL_PID, name="other"), 400, "'other'", name)
    assert_refused(update(TELL_PID, version="v2"), 400, "'v2'", name)
    assert_refused(update(TELL_PID, image="unheard-of"), 400, "image 'unheard-of' is unknown")
    assert update(TELL_PID, replicas=2).status_code == 200
    assert pid in pids_of(api, name, 2), "where only the number changes, programs go on"

    (api.emulator.storage / "models/u/dense/new").write_text("another")
    assert update(f"cd /model/u/dense; {SERVER}").status_code == 200
    after = api.wait_served(name)
    assert ask(before["hosts"] + "/new") == "another"
    for field in ("hosts", "token", "createdTime"):
        assert after[field] == before[field]
    assert after["replicas"] == 1
    assert not is_alive(pid)


def test_one_that_is_over_is_updated_and_runs_once_it_is_started(api: Api) -> None:
    name = api.serve("exit 3")
    api.wait_serving(name, "FAILED")
    api.http.put(f"{SERVINGS}/{name}", json=api.serving_body(TELL_PID, name=name))
    assert api.serving(name)["status"] == "FAILED"
    api.act_on_serving(name, "start")
    pids_of(api, name, 1)
    api.http.delete(f"{SERVINGS}/{name}")


def test_replica_that_ends_is_started_again_while_the_others_answer(images_file: Path, tmp_path: Path) -> None:
    clock = DrivenClock()
    with Emulator(tmp_path, images=images_file, serving_restarts=1, clock=clock, mounts="links") as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            name = api.serve(TELL_PID, replicas=2)
            first, second = pids_of(api, name, 2)
            os.kill(first, signal.SIGKILL)
            [told] = api.until(lambda: api.serving(name)["podstatuses"], bool)
            assert told["phase"] == "WAITING"
            assert "restart 1 of 1 in 1 s: the program ended by itself with exit code 137" in told["message"]
            assert api.serving(name)["status"] == "RUNNING"
            assert pids_of(api, name, 1) == {second}
            clock.advance(1)
            [third] = pids_of(api, name, 2) - {second}
            os.kill(third, signal.SIGKILL)
            api.until(lambda: api.serving(name)["podstatuses"], lambda pods: pods and pods[0]["phase"] == "FAILED")
            assert api.serving(name)["status"] == "RUNNING", "as long as one of them runs"
            assert pids_of(api, name, 1) == {second}

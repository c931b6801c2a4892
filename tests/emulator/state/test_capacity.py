"""Jobs wait until what they request is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import DrivenClock, Emulator
from airflow_bitahub.emulator.state.capacity import parse_accelerators
from airflow_bitahub.exceptions import ConfigurationError
from tests.emulator.conftest import JOBS, Api, assert_refused

MakeApi = Callable[..., Api]


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def make_api(tmp_path: Path, clock: DrivenClock) -> Iterator[MakeApi]:
    """Return a function that starts an emulator with this capacity; every job runs for an hour of the test's clock."""
    started: list[Emulator] = []

    def make(**capacity: Any) -> Api:
        emulator = Emulator(tmp_path, clock=clock, **{"max_running": 100, **capacity})
        emulator.start()
        started.append(emulator)
        emulator.scripts.add(ScriptedJob(run_seconds=3600))
        return Api(emulator)

    yield make
    for emulator in started:
        emulator.stop()


def submit(api: Api, gpus: int = 0, *, device: str = "gtx-1080-ti", queue: str = "default", **role: Any) -> str:
    accelerator = {"kind": "gpu", "requests": gpus, "deviceType": device}
    wanted = {**api.job_body()["taskRoles"][0], **({"accDevice": accelerator} if gpus else {}), **role}
    return api.submit(taskRoles=[wanted], queue=queue)


def state(api: Api, name: str) -> tuple[str, str]:
    job = api.job(name)
    return job["state"], job["jobStatus"]["appExitDiagnostics"]


def test_job_waits_until_what_it_asks_for_is_free(make_api: MakeApi, clock: DrivenClock) -> None:
    api = make_api(accelerators={"gtx-1080-ti": 2, "rtx-3090": 1})
    first = submit(api, 2)
    api.wait_job(first, "RUNNING")
    second, other, plain = submit(api, 1), submit(api, 1, device="rtx-3090", queue="big"), submit(api, queue="cpu")
    api.wait_job(other, "RUNNING")
    api.wait_job(plain, "RUNNING")
    assert state(api, second) == ("WAITING", "waiting: 1 gtx-1080-ti requested, 0 free")
    clock.advance(3600)
    job = api.wait_job(second, "RUNNING")
    assert job["launchedTime"] - job["createdTime"] == 3_600_000
    assert api.job(first)["launchedTime"] == api.job(first)["createdTime"]


@pytest.mark.parametrize(
    ("capacity", "wanted", "missing"),
    [
        ({"cores": 4}, {"cpuNumber": 3}, "3 cores requested, 1 free"),
        ({"memory_mb": 16384}, {"memoryMB": 8193, "shmMB": 0}, "8193 MB of memory requested, 8191 free"),
        ({"accelerators": {"gtx-1080-ti": 3}}, {"gpus": 2}, "2 gtx-1080-ti requested, 1 free"),
    ],
)
def test_everything_that_was_declared_is_shared(
    capacity: dict[str, Any], wanted: dict[str, Any], missing: str, make_api: MakeApi
) -> None:
    api = make_api(**capacity)
    api.wait_job(submit(api, **wanted), "RUNNING")
    assert state(api, submit(api, **wanted)) == ("WAITING", f"waiting: {missing}")


def test_replicas_take_what_they_ask_for_each(make_api: MakeApi) -> None:
    api = make_api(accelerators={"gtx-1080-ti": 4})
    api.wait_job(submit(api, 1, taskNumber=3), "RUNNING")
    api.wait_job(submit(api, 1), "RUNNING")
    assert state(api, submit(api, 1))[0] == "WAITING"


def test_a_small_job_does_not_overtake_a_large_one_of_its_queue(make_api: MakeApi, clock: DrivenClock) -> None:
    api = make_api(accelerators={"gtx-1080-ti": 2})
    first = submit(api, 1)
    api.wait_job(first, "RUNNING")
    large, small, elsewhere = submit(api, 2), submit(api, 1), submit(api, 1, queue="other")
    api.wait_job(elsewhere, "RUNNING")
    assert [state(api, name)[0] for name in (large, small)] == ["WAITING", "WAITING"]
    assert state(api, small)[1] == "waiting: behind 1 in queue 'default'"
    clock.advance(3600)
    api.wait_job(large, "RUNNING")
    assert state(api, small)[0] == "WAITING"


def test_a_stopped_job_gives_back_what_it_had_and_one_that_waits_its_turn(make_api: MakeApi) -> None:
    api = make_api(accelerators={"gtx-1080-ti": 1})
    names = [submit(api, 1) for _ in range(3)]
    api.wait_job(names[0], "RUNNING")
    for name in names[:2]:
        api.http.delete(f"{JOBS}/{name}")
    api.wait_job(names[2], "RUNNING")


def test_job_for_which_there_can_never_be_room_is_refused(make_api: MakeApi) -> None:
    api = make_api(accelerators={"gtx-1080-ti": 2}, cores=8)
    role = api.job_body()["taskRoles"][0]
    for wanted, words in (
        (
            {"accDevice": {"kind": "gpu", "requests": 3, "deviceType": "gtx-1080-ti"}},
            "3 gtx-1080-ti requested, 2 in total",
        ),
        ({"accDevice": {"kind": "gpu", "requests": 1, "deviceType": "a100"}}, "1 a100 requested, 0 in total"),
        ({"cpuNumber": 5, "taskNumber": 2}, "10 cores requested, 8 in total"),
    ):
        response = api.post_job(api.job_body(taskRoles=[{**role, **wanted}]))
        assert_refused(response, 400, "can never run", words)
    assert api.emulator.state.ledger() == []


def test_job_for_which_there_can_never_be_room_is_underpowered_where_that_is_wished_for(make_api: MakeApi) -> None:
    api = make_api(accelerators={}, oversized_fail=True)
    name = submit(api, 1)
    api.wait_job(name, "UNDERPOWERED")
    assert state(api, name) == ("UNDERPOWERED", "the job can never run: 1 gtx-1080-ti requested, 0 in total")
    assert api.job(name)["launchedTime"] == 0


def test_waiting_job_for_which_there_is_no_more_room_after_a_restart_holds_nobody_up(
    tmp_path: Path, clock: DrivenClock
) -> None:
    names = []
    for gpus in (4, 2):
        with Emulator(tmp_path, clock=clock, accelerators={"gtx-1080-ti": gpus}) as emulator:
            emulator.scripts.add(ScriptedJob(queue_seconds=3600))
            api = Api(emulator)
            with api.http:
                names.append(submit(api, gpus))
                if gpus == 2:
                    assert state(api, names[0])[0] in ("STOPPED", "UNDERPOWERED")
                    clock.advance(3600)
                    assert api.wait_job(names[1])["state"] == "SUCCEEDED"


def test_without_a_declaration_there_is_as_much_as_is_asked_for(make_api: MakeApi) -> None:
    api = make_api()
    api.wait_job(submit(api, 1000, cpuNumber=1000), "RUNNING")


def test_accelerators_as_they_are_declared_in_the_shell() -> None:
    assert parse_accelerators("gtx-1080-ti=2, rtx-3090=1") == {"gtx-1080-ti": 2, "rtx-3090": 1}
    for wrong in ("", "gtx", "gtx=", "=2", "gtx=two", "gtx=-1", "gtx=1,"):
        with pytest.raises(ConfigurationError, match="is not a list of accelerators"):
            parse_accelerators(wrong)

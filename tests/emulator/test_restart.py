"""What survives when the emulator is killed as by ``kill -9``, and another one starts on the same home."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulator.conftest import JOBS, SERVINGS, TELL_PID, ask, is_alive
from tests.emulator.killable import KillableEmulator


def assert_ends(killable: KillableEmulator, pid: int) -> None:
    """Check that a process ends; it may take a moment until a dead orphan disappears."""
    killable.api.until(lambda: is_alive(pid), lambda alive: not alive)


@pytest.fixture
def killable(images_file: Path, tmp_path: Path) -> Iterator[KillableEmulator]:
    killable = KillableEmulator(tmp_path / "a home with spaces", images_file)
    yield killable
    killable.stop()


def test_finished_jobs_are_kept_with_their_logs_and_what_was_asked_about_them(killable: KillableEmulator) -> None:
    name = killable.submit("echo hello")
    before = killable.api.wait_job(name)
    killable.restart()
    assert killable.api.job(name) == before
    assert killable.api.log(name) == "hello\n"
    [entry] = killable.api.http.get("/emulator/ledger").json()["data"]
    assert (entry["name"], entry["requests"][0]["method"]) == (name, "POST")


def test_removed_jobs_stay_removed_and_in_the_ledger(killable: KillableEmulator) -> None:
    name = killable.submit("true")
    killable.api.wait_job(name)
    killable.api.http.delete(f"{JOBS}/{name}")
    killable.restart()
    assert killable.api.http.get(f"{JOBS}/{name}").status_code == 404
    [entry] = killable.api.http.get("/emulator/ledger").json()["data"]
    assert entry["removedTime"] > 0


def test_running_job_lives_on_and_is_found_again(killable: KillableEmulator) -> None:
    name, pid = killable.running("echo done; exit 3")
    killable.restart()
    assert is_alive(pid)
    assert killable.api.job(name)["state"] == "RUNNING"
    killable.let_go()
    job = killable.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 3)
    assert killable.api.log(name) == "done\n"


def test_end_of_a_found_job_is_told_and_what_it_left_behind_ends(killable: KillableEmulator) -> None:
    name, _ = killable.running("setsid sleep 60 & echo $! > /output/left; exit 3")
    killable.restart()
    killable.let_go()
    job = killable.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 3)
    left = killable.api.pid_from(killable.output / "left")
    killable.api.until(lambda: is_alive(left), lambda alive: not alive)


def test_found_job_that_fails_is_restarted(killable: KillableEmulator) -> None:
    command = (
        "echo $$ > /output/pid; [ -e /output/second ] || { until [ -e /output/go ]; do sleep 0.02; done; exit 3; }"
    )
    name = killable.api.submit(command, code=None, datasets=[], retryCount=1)
    killable.api.pid_from(killable.output / "pid")
    killable.restart()
    (killable.output / "second").touch()
    killable.let_go()
    job = killable.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["retries"]) == ("SUCCEEDED", 1)


def test_end_of_a_job_that_nobody_watched_is_told(killable: KillableEmulator) -> None:
    name, pid = killable.running("echo 1 > /output/result")
    killable.kill()
    killable.let_go()
    assert_ends(killable, pid)
    killable.start()
    assert killable.api.wait_job(name)["state"] == "SUCCEEDED"
    assert (killable.output / "result").read_text() == "1\n"


def test_job_that_died_with_the_emulator_has_failed(killable: KillableEmulator) -> None:
    name, pid = killable.running("true")
    killable.kill()
    os.killpg(os.getpgid(pid), signal.SIGKILL)
    killable.start()
    job = killable.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 137)


def test_waiting_job_waits_on_for_the_place_of_the_one_that_runs(killable: KillableEmulator) -> None:
    first, _ = killable.running("true")
    second = killable.submit("true")
    killable.restart()
    assert killable.api.job(second)["state"] == "WAITING"
    killable.let_go()
    assert killable.api.wait_job(first)["state"] == "SUCCEEDED"
    assert killable.api.wait_job(second)["state"] == "SUCCEEDED"


def test_found_job_can_be_stopped(killable: KillableEmulator) -> None:
    name, pid = killable.running("true")
    killable.restart()
    killable.api.http.delete(f"{JOBS}/{name}")
    assert killable.api.wait_job(name)["state"] == "STOPPED"
    assert_ends(killable, pid)


def test_stop_that_was_under_way_is_completed(killable: KillableEmulator) -> None:
    name = killable.submit("trap '' TERM; echo $$ > /output/pid; while :; do sleep 0.02; done")
    pid = killable.api.pid_from(killable.output / "pid")
    killable.api.http.delete(f"{JOBS}/{name}")
    killable.restart()
    assert killable.api.wait_job(name)["state"] == "STOPPED"
    assert_ends(killable, pid)


def pids_of(killable: KillableEmulator, url: str, number: int) -> set[int]:
    """Wait until `number` programs answer in turn at an address, and return their process ids."""
    answers = killable.api.until(lambda: {ask(url) for _ in range(number)}, lambda seen: len(seen - {""}) == number)
    return {int(pid) for pid in answers}


def test_servings_programs_live_on_and_answer_again_at_the_same_address(killable: KillableEmulator) -> None:
    name = killable.api.serve(TELL_PID, replicas=2)
    before = killable.api.wait_serving(name, "RUNNING")
    pids = pids_of(killable, before["hosts"], 2)
    killable.restart()
    assert all(is_alive(pid) for pid in pids)
    after = killable.api.serving(name)
    same = ("status", "hosts", "token", "createdTime", "launchedTime")
    assert [after[field] for field in same] == [before[field] for field in same]
    assert after["meteringDetail"]["usedCpuCoreMinutes"] >= before["meteringDetail"]["usedCpuCoreMinutes"]
    assert pids_of(killable, before["hosts"], 2) == pids

    killable.api.http.patch(f"{SERVINGS}/{name}", json={"replicas": 1})
    killable.api.until(lambda: [is_alive(pid) for pid in pids], lambda alive: sum(alive) == 1)
    killable.api.http.delete(f"{SERVINGS}/{name}")
    for pid in pids:
        assert_ends(killable, pid)


def test_stopped_serving_can_be_started_by_another_emulator(killable: KillableEmulator) -> None:
    name = killable.api.serve(TELL_PID)
    url = killable.api.wait_serving(name, "RUNNING")["hosts"]
    killable.api.http.put(f"{SERVINGS}/{name}/stop")
    killable.api.wait_serving(name, "STOPPED")
    killable.restart()
    killable.api.http.put(f"{SERVINGS}/{name}/start")
    assert killable.api.until(lambda: ask(url), bool)


def test_what_a_serving_was_to_do_without_when_the_emulator_was_killed_is_ended(killable: KillableEmulator) -> None:
    # The program ignores SIGTERM, so the emulator is killed before it can end the program.
    name = killable.api.serve(f"trap '' TERM; echo $$ > /model/u/dense/pid; {TELL_PID}")
    killable.api.wait_served(name)
    pid = killable.api.pid_from(killable.home / "storage/models/u/dense/pid")
    killable.api.http.put(f"{SERVINGS}/{name}", json=killable.api.serving_body(TELL_PID, name=name))
    killable.api.until(lambda: killable.api.serving(name)["podstatuses"][0]["phase"], lambda word: word == "STOPPING")
    killable.restart()
    assert_ends(killable, pid)
    assert ask(killable.api.wait_served(name)["hosts"])


def test_nothing_is_left_of_a_job_that_was_found_again(killable: KillableEmulator) -> None:
    name = killable.submit("pwd > /output/place; until [ -e /output/go ]; do sleep 0.02; done")
    place = killable.output / "place"
    folder = Path(killable.api.until(lambda: place.read_text() if place.exists() else "", bool).strip()).parent
    killable.restart()
    assert folder.is_dir()
    killable.let_go()
    killable.api.wait_job(name)
    killable.api.until(folder.exists, lambda there: not there)


def test_stopping_the_emulator_in_peace_ends_what_runs(killable: KillableEmulator) -> None:
    name, pid = killable.running("true")
    killable.restart()
    killable.stop()
    assert_ends(killable, pid)
    killable.start()
    assert killable.api.job(name)["state"] == "STOPPED"

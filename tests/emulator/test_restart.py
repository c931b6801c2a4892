"""What survives the emulator: it is killed as by ``kill -9``, and another one starts on the same home."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.emulator.server import Emulator, run_until_signal
from tests.emulator.conftest import JOBS, SERVINGS, TELL_PID, Api, ask, is_alive, mount

TOKEN = "known"
# Each emulator is forked off a process that has loaded everything, which saves a second and a half every time.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


def live(home: Path, images: Path, mounts: str, urls: Connection) -> None:
    """Be an emulator."""
    emulator = Emulator(home, images=images, token=TOKEN, grace=0.5, max_running=1, mounts=mounts)
    run_until_signal(emulator, lambda: urls.send(emulator.url))


class Mortal:
    """An emulator in a process of its own, on a home that it shares with those that come after it.

    Only where programs run without a sandbox are the process ids that they write down the machine's.
    """

    def __init__(self, home: Path, images: Path, mounts: str = "links") -> None:
        self.home = home
        self.output = home / "storage/projects/u/p/outputs/1"
        (home / "storage/models/u/dense").mkdir(parents=True)
        self._images = images
        self._mounts = mounts
        self.start()

    def start(self) -> None:
        urls, far_end = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=live, args=(self.home, self._images, self._mounts, far_end))
        self._process.start()
        url = httpx.URL(urls.recv())
        self.api = Api(Emulator(self.home / "other", images=self._images, token=TOKEN, port=url.port or 0))

    def kill(self) -> None:
        self._process.kill()
        self._gone()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        self._process.terminate()
        self._gone()

    def _gone(self) -> None:
        self._process.join(20)
        assert self._process.exitcode is not None
        self.api.http.close()

    def submit(self, command: str) -> str:
        return self.api.submit(command, code=None, datasets=[], output=mount("/projects/u/p/outputs/1", "/output"))

    def running(self, command: str) -> tuple[str, int]:
        """Submit a job that goes on until ``/output/go`` is there, and give its name and its process id."""
        name = self.submit(f"echo $$ > /output/pid; until [ -e /output/go ]; do sleep 0.02; done; {command}")
        return name, self.api.pid_from(self.output / "pid")

    def let_go(self) -> None:
        (self.output / "go").touch()


def assert_ends(mortal: Mortal, pid: int) -> None:
    """Check that a process is over; a dead orphan may take a moment to leave."""
    mortal.api.until(lambda: is_alive(pid), lambda alive: not alive)


@pytest.fixture
def mortal(images_file: Path, tmp_path: Path) -> Iterator[Mortal]:
    mortal = Mortal(tmp_path / "a home with spaces", images_file)
    yield mortal
    mortal.stop()


def test_finished_jobs_are_kept_with_their_logs_and_what_was_asked_about_them(mortal: Mortal) -> None:
    name = mortal.submit("echo hello")
    before = mortal.api.wait_job(name)
    mortal.restart()
    assert mortal.api.job(name) == before
    assert mortal.api.log(name) == "hello\n"
    [entry] = mortal.api.http.get("/emulator/ledger").json()["data"]
    assert (entry["name"], entry["requests"][0]["method"]) == (name, "POST")


def test_removed_jobs_stay_removed_and_in_the_ledger(mortal: Mortal) -> None:
    name = mortal.submit("true")
    mortal.api.wait_job(name)
    mortal.api.http.delete(f"{JOBS}/{name}")
    mortal.restart()
    assert mortal.api.http.get(f"{JOBS}/{name}").status_code == 404
    [entry] = mortal.api.http.get("/emulator/ledger").json()["data"]
    assert entry["removedTime"] > 0


def test_running_job_lives_on_and_is_found_again(mortal: Mortal) -> None:
    name, pid = mortal.running("echo done; exit 3")
    mortal.restart()
    assert is_alive(pid)
    assert mortal.api.job(name)["state"] == "RUNNING"
    mortal.let_go()
    job = mortal.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 3)
    assert mortal.api.log(name) == "done\n"


def test_end_of_a_found_job_is_told_although_what_it_left_behind_lives_on(mortal: Mortal) -> None:
    name, _ = mortal.running("setsid sleep 60 & echo $! > /output/left; exit 3")
    mortal.restart()
    mortal.let_go()
    job = mortal.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 3)
    os.kill(mortal.api.pid_from(mortal.output / "left"), signal.SIGKILL)


def test_found_job_that_fails_is_restarted(mortal: Mortal) -> None:
    command = (
        "echo $$ > /output/pid; [ -e /output/second ] || { until [ -e /output/go ]; do sleep 0.02; done; exit 3; }"
    )
    name = mortal.api.submit(command, code=None, datasets=[], retryCount=1)
    mortal.api.pid_from(mortal.output / "pid")
    mortal.restart()
    (mortal.output / "second").touch()
    mortal.let_go()
    job = mortal.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["retries"]) == ("SUCCEEDED", 1)


def test_end_of_a_job_that_nobody_watched_is_told(mortal: Mortal) -> None:
    name, pid = mortal.running("echo 1 > /output/result")
    mortal.kill()
    mortal.let_go()
    assert_ends(mortal, pid)
    mortal.start()
    assert mortal.api.wait_job(name)["state"] == "SUCCEEDED"
    assert (mortal.output / "result").read_text() == "1\n"


def test_job_that_died_with_the_emulator_has_failed(mortal: Mortal) -> None:
    name, pid = mortal.running("true")
    mortal.kill()
    os.killpg(os.getpgid(pid), signal.SIGKILL)
    mortal.start()
    job = mortal.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 137)


def test_waiting_job_waits_on_for_the_place_of_the_one_that_runs(mortal: Mortal) -> None:
    first, _ = mortal.running("true")
    second = mortal.submit("true")
    mortal.restart()
    assert mortal.api.job(second)["state"] == "WAITING"
    mortal.let_go()
    assert mortal.api.wait_job(first)["state"] == "SUCCEEDED"
    assert mortal.api.wait_job(second)["state"] == "SUCCEEDED"


def test_found_job_can_be_stopped(mortal: Mortal) -> None:
    name, pid = mortal.running("true")
    mortal.restart()
    mortal.api.http.delete(f"{JOBS}/{name}")
    assert mortal.api.wait_job(name)["state"] == "STOPPED"
    assert_ends(mortal, pid)


def test_stop_that_was_under_way_is_completed(mortal: Mortal) -> None:
    name = mortal.submit("trap '' TERM; echo $$ > /output/pid; while :; do sleep 0.02; done")
    pid = mortal.api.pid_from(mortal.output / "pid")
    mortal.api.http.delete(f"{JOBS}/{name}")
    mortal.restart()
    assert mortal.api.wait_job(name)["state"] == "STOPPED"
    assert_ends(mortal, pid)


def pids_of(mortal: Mortal, url: str, number: int) -> set[int]:
    """Wait until so many programs answer in turn at an address, and give their process ids."""
    answers = mortal.api.until(lambda: {ask(url) for _ in range(number)}, lambda seen: len(seen - {""}) == number)
    return {int(pid) for pid in answers}


def test_servings_programs_live_on_and_answer_again_at_the_same_address(mortal: Mortal) -> None:
    name = mortal.api.serve(TELL_PID, replicas=2)
    before = mortal.api.wait_serving(name, "RUNNING")
    pids = pids_of(mortal, before["hosts"], 2)
    mortal.restart()
    assert all(is_alive(pid) for pid in pids)
    after = mortal.api.serving(name)
    same = ("status", "hosts", "token", "createdTime", "launchedTime")
    assert [after[field] for field in same] == [before[field] for field in same]
    assert after["meteringDetail"]["usedCpuCoreMinutes"] >= before["meteringDetail"]["usedCpuCoreMinutes"]
    assert pids_of(mortal, before["hosts"], 2) == pids

    mortal.api.http.patch(f"{SERVINGS}/{name}", json={"replicas": 1})
    mortal.api.until(lambda: [is_alive(pid) for pid in pids], lambda alive: sum(alive) == 1)
    mortal.api.http.delete(f"{SERVINGS}/{name}")
    for pid in pids:
        assert_ends(mortal, pid)


def test_stopped_serving_can_be_started_by_another_emulator(mortal: Mortal) -> None:
    name = mortal.api.serve(TELL_PID)
    url = mortal.api.wait_serving(name, "RUNNING")["hosts"]
    mortal.api.http.put(f"{SERVINGS}/{name}/stop")
    mortal.api.wait_serving(name, "STOPPED")
    mortal.restart()
    mortal.api.http.put(f"{SERVINGS}/{name}/start")
    assert mortal.api.until(lambda: ask(url), bool)


def test_what_a_serving_was_to_do_without_when_the_emulator_was_killed_is_ended(mortal: Mortal) -> None:
    # It does not end by itself when it is asked to, so that the emulator is killed before it has ended it.
    name = mortal.api.serve("trap '' TERM; echo $$ > /model/u/dense/pid; while :; do sleep 0.02; done")
    pid = mortal.api.pid_from(mortal.home / "storage/models/u/dense/pid")
    mortal.api.http.put(f"{SERVINGS}/{name}", json=mortal.api.serving_body(TELL_PID, name=name))
    mortal.restart()
    assert_ends(mortal, pid)
    assert mortal.api.until(lambda: ask(mortal.api.serving(name)["hosts"]), bool)


def test_nothing_is_left_of_a_job_that_was_found_again(mortal: Mortal) -> None:
    name = mortal.submit("pwd > /output/place; until [ -e /output/go ]; do sleep 0.02; done")
    place = mortal.output / "place"
    folder = Path(mortal.api.until(lambda: place.read_text() if place.exists() else "", bool).strip()).parent
    mortal.restart()
    assert folder.is_dir()
    mortal.let_go()
    mortal.api.wait_job(name)
    mortal.api.until(folder.exists, lambda there: not there)


def test_stopping_the_emulator_in_peace_ends_what_runs(mortal: Mortal) -> None:
    name, pid = mortal.running("true")
    mortal.restart()
    mortal.stop()
    assert_ends(mortal, pid)
    mortal.start()
    assert mortal.api.job(name)["state"] == "STOPPED"

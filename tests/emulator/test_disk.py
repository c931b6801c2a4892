"""What happens when the emulator's disk is full, its records are in use, or they are damaged."""

from __future__ import annotations

import resource
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.emulator.conftest import JOBS, SERVINGS, assert_refused, is_alive
from tests.emulator.killable import KillableEmulator


@contextmanager
def locked_records(killable: KillableEmulator) -> Iterator[None]:
    """Hold the lock of another process that writes."""
    database = sqlite3.connect(killable.home / "records.sqlite", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    yield
    database.close()


@contextmanager
def full_disk(killable: KillableEmulator) -> Iterator[None]:
    """Let the emulator write no more to any file, which fails just like a write to a full disk."""
    pid = killable.pid
    old = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    yield
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, old)


Trouble = Callable[[KillableEmulator], AbstractContextManager[None]]
either_trouble = pytest.mark.parametrize(
    "trouble",
    [
        locked_records,
        pytest.param(
            full_disk, marks=pytest.mark.skipif(sys.platform != "linux", reason="no other system has prlimit")
        ),
    ],
)


@pytest.fixture
def killable(images_file: Path, tmp_path: Path) -> Iterator[KillableEmulator]:
    killable = KillableEmulator(tmp_path, images_file)
    yield killable
    killable.stop()


@either_trouble
def test_job_is_stopped_even_if_that_cannot_be_recorded(killable: KillableEmulator, trouble: Trouble) -> None:
    api = killable.api
    name, pid = killable.running("true")
    with trouble(killable):
        assert_refused(api.http.delete(f"{JOBS}/{name}"), 503, "is being stopped", "cannot be written")
        api.until(lambda: is_alive(pid), lambda alive: not alive)
        assert_refused(api.http.delete(f"{JOBS}/{name}"), 503)
        assert api.job(name)["state"] == "RUNNING", "that is what is on disk"
    assert api.wait_job(name)["state"] == "STOPPED"
    assert api.wait_job(api.submit("true", code=None, datasets=[]))["state"] == "SUCCEEDED", "its place is free"


@either_trouble
def test_result_and_submission_are_believed_once_they_are_recorded(
    killable: KillableEmulator, trouble: Trouble
) -> None:
    api = killable.api
    name, pid = killable.running("true")
    refused = api.job_body(code=None, datasets=[])
    with trouble(killable):
        killable.let_go()
        api.until(lambda: is_alive(pid), lambda alive: not alive)
        assert_refused(api.post_job(refused), 503, "cannot be written")
        assert_refused(api.http.post(SERVINGS, json=api.serving_body("sleep 60")), 503, "cannot")
        assert api.job(name)["state"] == "RUNNING"
    assert api.wait_job(name)["state"] == "SUCCEEDED"
    assert api.http.get(f"{JOBS}/{refused['jobName']}").status_code == 404
    killable.restart()
    assert [job["name"] for job in killable.api.http.get(JOBS).json()["data"]["items"]] == [name]


@either_trouble
def test_shutdown_ends_what_runs(killable: KillableEmulator, trouble: Trouble) -> None:
    name, pid = killable.running("true")
    with trouble(killable):
        killable.stop()
        assert not is_alive(pid)
    killable.start()
    assert killable.api.wait_job(name)["state"] == "FAILED"

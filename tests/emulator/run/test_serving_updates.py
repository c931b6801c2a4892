"""A serving that gets another specification while it serves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError
from tests.emulator.conftest import SERVINGS, TELL_PID, Api, ask, is_alive
from tests.emulator.killable import KillableEmulator

# Answers with its word and its process id; after a moment, if that is asked for, which is shorter than the grace.
TELL = """python -c '
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open("{started}", "w").close() if self.path == "/slow" else None
        time.sleep(0.7 if self.path == "/slow" else 0)
        self.send_response(200); self.end_headers(); self.wfile.write(b"{word} %d" % os.getpid())
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()'"""


def put(api: Api, name: str, *commands: str, **changes: Any) -> None:
    body = api.serving_body(*commands, name=name, **changes)
    response = api.http.put(f"{SERVINGS}/{name}", json=body)
    assert response.status_code == 200, response.text


def pid_at(api: Api, url: str) -> int:
    return int(api.until(lambda: ask(url), bool).split()[-1])


@pytest.fixture
def serving(api: Api, tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    """A serving that answers; its name, its address, and a file that appears when a slow request has begun."""
    name = api.serve(TELL.format(word="old", started=tmp_path / "started"))
    yield name, api.wait_served(name)["hosts"], tmp_path / "started"
    api.http.delete(f"{SERVINGS}/{name}")


def test_every_request_is_answered_while_programs_change(api: Api, serving: tuple[str, str, Path]) -> None:
    name, url, started = serving
    before, answers, slow = api.serving(name), list[str](), list[str]()
    is_over = threading.Event()

    def ask_on() -> None:
        with httpx.Client(trust_env=False, verify=False) as http:
            while not is_over.is_set():
                answers.append(http.get(url).text.split()[0])

    threads = [threading.Thread(target=ask_on), threading.Thread(target=lambda: slow.append(ask(f"{url}/slow")))]
    for thread in threads:
        thread.start()
    api.until(started.exists, bool)
    put(api, name, TELL.format(word="new", started=started))
    assert api.serving(name)["podstatuses"] != []
    after = api.wait_served(name)
    assert ask(url).startswith("new")
    is_over.set()
    for thread in threads:
        thread.join()
    assert slow[0].startswith("old")
    assert set(answers) == {"old", "new"}
    assert {key: after[key] for key in ("hosts", "token", "createdTime", "launchedTime")} == {
        key: before[key] for key in ("hosts", "token", "createdTime", "launchedTime")
    }
    assert after["updatedTime"] > before["updatedTime"]


def test_old_program_goes_on_if_the_new_one_fails(api: Api, serving: tuple[str, str, Path]) -> None:
    name, url, started = serving
    pid = pid_at(api, url)
    put(api, name, "echo no such model; exit 3")
    shown = api.until(
        lambda: api.serving(name), lambda one: [pod["phase"] for pod in one["podstatuses"]] == ["RUNNING", "FAILED"]
    )
    old, new = shown["podstatuses"]
    assert shown["status"] == "RUNNING"
    assert (old["name"], new["name"], new["exitCode"]) == (f"{name}-0", f"{name}-1", 3)
    assert "no such model" in new["message"]
    assert pid_at(api, url) == pid
    put(api, name, TELL.format(word="old", started=started))
    assert api.serving(name)["podstatuses"] == [], "nothing was restarted"
    assert pid_at(api, url) == pid


def test_recreating_ends_the_old_program_before_the_new_one_starts(images_file: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"images": images_file, "serving_restarts": 0, "mounts": "links"}
    with Emulator(tmp_path, serving_update="recreate", grace=1.0, **settings) as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            lock = "/model/u/dense/lock"
            name = api.serve(f"trap 'sleep 0.2; rm {lock}; exit' TERM; touch {lock}; {TELL_PID} & wait")
            url = api.wait_served(name)["hosts"]
            pid = pid_at(api, url)
            put(api, name, f"[ -e {lock} ] && exit 9; {TELL_PID}")
            assert api.serving(name)["status"] == "WAITING"
            api.wait_served(name)
            assert pid_at(api, url) != pid
    with pytest.raises(ConfigurationError, match="serving_update is 'slow'; choose one of rolling, recreate"):
        Emulator(tmp_path, serving_update="slow")


def test_update_goes_on_after_the_emulator_was_killed(images_file: Path, tmp_path: Path) -> None:
    killable = KillableEmulator(tmp_path, images_file)
    model = tmp_path / "storage/models/u/dense"
    try:
        name = killable.api.serve(TELL_PID)
        url = killable.api.wait_served(name)["hosts"]
        old = pid_at(killable.api, url)
        waits = "echo $$ > /model/u/dense/pid; until [ -e /model/u/dense/go ]; do sleep 0.02; done"
        put(killable.api, name, waits, f"exec {TELL_PID}")
        new = killable.api.pid_from(model / "pid")
        killable.restart()
        assert pid_at(killable.api, url) == old
        assert [pod["name"] for pod in killable.api.serving(name)["podstatuses"]] == [f"{name}-0", f"{name}-1"]
        (model / "go").touch()
        killable.api.wait_served(name)
        killable.restart()
        assert pid_at(killable.api, url) == new
        killable.api.until(lambda: is_alive(old), lambda alive: not alive)
    finally:
        killable.stop()

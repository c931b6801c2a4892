"""An emulator on a real socket. Its images use the interpreter that runs the tests, so nothing is installed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from airflow_bitahub.emulator.server import Emulator

T = TypeVar("T")

JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"
SERVINGS = "/lapis/inference.leinao.ai/v1/workspaces/bitahub/namespaces/inference/serving"
IMAGE = "10.11.3.8:5000/bitahub/tensorflow-2.3-cuda-11.0-py3:v1.0"
# The program of a serving that answers with its process id.
TELL_PID = """python -c '
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(str(os.getpid()).encode())
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()'"""
_numbers = count(1)


def mount(path: str, mount_path: str) -> dict[str, Any]:
    return {"kind": "nfs", "mountSource": {"path": path, "mountPath": mount_path}}


class Api:
    """The platform's API, with requests and answers exactly as in the document."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.http = httpx.Client(
            base_url=emulator.url,
            headers={"Authorization": f"Bearer {emulator.token}"},
            timeout=30,
            trust_env=False,
            verify=False,  # there is no TLS here, and reading the certificates takes longer than most tests
        )

    def until(self, look: Callable[[], T], is_done: Callable[[T], bool], seconds: float = 60) -> T:
        deadline = time.monotonic() + seconds
        while not is_done(seen := look()):
            if time.monotonic() > deadline:
                pytest.fail(f"still {seen!r} after {seconds} s")
            time.sleep(0.02)
        return seen

    # Jobs

    def job_body(self, command: str = "true", name: str = "", **changes: Any) -> dict[str, Any]:
        role = {"cpuNumber": 2, "memoryMB": 16384, "shmMB": 8192, "taskRoleName": "task1", "taskNumber": 1}
        return {
            "jobName": name or f"job-{next(_numbers)}",
            "apiVersion": "2.0",
            "kind": "training",
            "capabilities": [],
            "code": mount("/projects/u/p/code", "/code"),
            "datasets": [mount("/datasets/u/MNIST", "/data/u/MNIST")],
            "output": mount("/projects/u/p/outputs/1", "/output"),
            "models": [],
            "taskRoles": [{**role, "image": IMAGE, "command": command}],
            "queue": "default",
            **changes,
        }

    def post_job(self, body: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"{JOBS}/{body['jobName']}", json=body)

    def submit(self, command: str = "true", **changes: Any) -> str:
        body = self.job_body(command, **changes)
        response = self.post_job(body)
        assert response.status_code == 200, response.text
        assert response.json() == {"status": {"code": 0, "msg": "success"}, "data": {"jobName": body["jobName"]}}
        return str(body["jobName"])

    def job(self, name: str) -> dict[str, Any]:
        response = self.http.get(f"{JOBS}/{name}")
        assert response.status_code == 200, response.text
        data: dict[str, Any] = response.json()["data"]
        return data

    def wait_job(self, name: str, *states: str) -> dict[str, Any]:
        states = states or ("SUCCEEDED", "FAILED", "STOPPED")
        return self.until(lambda: self.job(name), lambda job: job["state"] in states)

    def log(self, name: str, **query: Any) -> str:
        return str(self.http.get(f"{JOBS}/{name}/log", params=query).json()["data"]["log"])

    def run(self, command: str, **changes: Any) -> tuple[dict[str, Any], str]:
        """Submit a job, wait for its end, and return it with its log."""
        name = self.submit(command, **changes)
        return self.wait_job(name), self.log(name)

    def pid_from(self, file: Path) -> int:
        """Return the process id that a command writes into a file."""
        return int(self.until(lambda: file.read_text() if file.exists() else "", lambda text: text.endswith("\n")))

    # Servings

    def serving_body(self, *commands: str, name: str = "", **changes: Any) -> dict[str, Any]:
        return {
            "name": name or f"serving-{next(_numbers)}",
            "kind": "inference",
            "model": {"kind": "nfs", "path": "/models/u/dense", "mountPath": "/model/u/dense"},
            "image": IMAGE,
            "replicas": 1,
            "resource": {
                "cpu": 2,
                "memory": 4096,
                "accDevice": {"kind": "gpu", "requests": 1, "deviceType": "gtx-1080-ti"},
            },
            "protocols": [{"kind": "http", "port": 5000}],
            "config": None,
            "envs": {"MODEL_PATH": "/model/u/dense/dense"},
            "commands": list(commands),
            "version": "v1",
            **changes,
        }

    def serve(self, *commands: str, **changes: Any) -> str:
        body = self.serving_body(*commands, **changes)
        response = self.http.post(SERVINGS, json=body)
        assert response.status_code == 200, response.text
        return str(body["name"])

    def serving(self, name: str, version: str = "v1") -> dict[str, Any]:
        response = self.http.get(f"{SERVINGS}/{name}", params={"version": version})
        assert response.status_code == 200, response.text
        data: dict[str, Any] = response.json()["data"]
        return data

    def wait_serving(self, name: str, status: str) -> dict[str, Any]:
        return self.until(lambda: self.serving(name), lambda serving: serving["status"] == status)

    def wait_served(self, name: str) -> dict[str, Any]:
        """Wait until all replicas run what was asked for last and listen."""
        return self.until(
            lambda: self.serving(name), lambda one: (one["status"], one["podstatuses"]) == ("RUNNING", [])
        )

    def act_on_serving(self, name: str, action: str) -> None:
        """Start or stop a serving."""
        assert self.http.put(f"{SERVINGS}/{name}/{action}").json()["data"] == {"name": name, "version": "v1"}


def ask(url: str, token: str = "") -> str:
    """Return what a serving answers; "" if it does not answer, or refuses."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        response = httpx.get(url, headers=headers, trust_env=False, verify=False)
    except httpx.TransportError:
        return ""
    return response.text if response.is_success else ""


def open_files() -> int:
    """Return the number of files that this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_refused(response: httpx.Response, status: int, *words: str) -> None:
    """Check that an answer is an error in the platform's envelope and says these words."""
    body = response.json()
    assert response.status_code == status, body
    assert body["status"]["code"] == status
    assert body["data"] is None
    for word in words:
        assert word in body["status"]["msg"]


@pytest.fixture(scope="session")
def images_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "in-image").mkdir()
    (folder / "in-image" / "hello.txt").write_text("from the image")
    no_venv = folder / "python"  # as on Debian without the package python3-venv
    no_venv.write_text("#!/bin/sh\necho 'No module named venv' >&2\nexit 1\n")
    no_venv.chmod(0o700)
    file = folder / "images.toml"
    file.write_text(
        f"""
        [[image]]
        pattern = "*tensorflow*"
        python = "{sys.executable}"
        [image.files]
        "/in-image" = "in-image"

        [[image]]
        pattern = "bare"
        requirements = []

        [[image]]
        pattern = "no-venv"
        python = "{no_venv}"
        requirements = []

        [[image]]
        pattern = "broken"
        requirements = ["./no-such-package"]
        """
    )
    return file


@pytest.fixture(scope="module")
def emulator(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    home = tmp_path_factory.mktemp("a home with spaces")
    # Programs in a sandbox do not know their process ids on this machine, which some tests need.
    with Emulator(home, images=images_file, grace=1.0, serving_restarts=0, mounts="links") as emulator:
        for folder in ("projects/u/p/code", "datasets/u/MNIST", "models/u/dense"):
            (emulator.storage / folder).mkdir(parents=True)
        yield emulator


@pytest.fixture(scope="module")
def api(emulator: Emulator) -> Iterator[Api]:
    api = Api(emulator)
    with api.http:
        yield api

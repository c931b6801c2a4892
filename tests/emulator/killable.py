"""An emulator that a test can kill and start again."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from airflow_bitahub.emulator.server import Emulator, run_until_signal
from tests.emulator.conftest import Api, mount

TOKEN = "known"
# Each emulator is forked off a process that has imported everything, which saves a second and a half every time.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


def run_emulator(home: Path, images: Path, mounts: str, serving_tokens: bool, urls: Connection) -> None:
    """Run an emulator in this process until it is killed or stopped."""
    emulator = Emulator(
        home, images=images, token=TOKEN, grace=0.5, max_running=1, mounts=mounts, serving_tokens=serving_tokens
    )
    run_until_signal(emulator, lambda: urls.send(emulator.url))


class KillableEmulator:
    """An emulator in another process, on a home that it shares with the emulators that come after it.

    Only with ``mounts="links"`` do programs know their process ids on this machine.
    """

    def __init__(self, home: Path, images: Path, mounts: str = "links", *, serving_tokens: bool = False) -> None:
        self.home = home
        self.output = home / "storage/projects/u/p/outputs/1"
        (home / "storage/models/u/dense").mkdir(parents=True)
        self._arguments = (home, images, mounts, serving_tokens)
        self.start()

    def start(self) -> None:
        urls, far_end = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=run_emulator, args=(*self._arguments, far_end))
        self._process.start()
        url = httpx.URL(urls.recv())
        self.api = Api(Emulator(self.home / "other", images=self._arguments[1], token=TOKEN, port=url.port or 0))

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def kill(self) -> None:
        self._process.kill()
        self._wait_until_ended()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        self._process.terminate()
        self._wait_until_ended()

    def _wait_until_ended(self) -> None:
        self._process.join(20)
        assert self._process.exitcode is not None
        self.api.http.close()

    def submit(self, command: str) -> str:
        return self.api.submit(command, code=None, datasets=[], output=mount("/projects/u/p/outputs/1", "/output"))

    def running(self, command: str) -> tuple[str, int]:
        """Submit a job that runs until ``/output/go`` exists, and return its name and its process id."""
        name = self.submit(f"echo $$ > /output/pid; until [ -e /output/go ]; do sleep 0.02; done; {command}")
        return name, self.api.pid_from(self.output / "pid")

    def let_go(self) -> None:
        (self.output / "go").touch()

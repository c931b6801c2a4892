"""The emulator as a whole: its home, its token, its socket."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_bitahub.emulator.faults.faults import Faults
from airflow_bitahub.emulator.faults.hangup import hanging_up
from airflow_bitahub.emulator.http.app import create_app
from airflow_bitahub.emulator.http.profiles import find_profile
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.mounts.sandbox import choose_room
from airflow_bitahub.emulator.mounts.shared_storage import Storage
from airflow_bitahub.emulator.run.gateway import LOOPBACK
from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, load_images
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.run.runs import Workshop
from airflow_bitahub.emulator.scripts import Scripts
from airflow_bitahub.emulator.state.capacity import Capacity
from airflow_bitahub.emulator.state.state import State
from airflow_bitahub.emulator.state.store import Store
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "BITAHUB_EMULATOR_TOKEN"  # noqa: S105  the name of a variable
PASSWORD_VARIABLE = "BITAHUB_EMULATOR_PASSWORD"  # noqa: S105  likewise
_START_SECONDS = 30


class EmulatorError(BitaHubError):
    """The emulator cannot run; the text is one sentence for the user."""


class DrivenClock:
    """A clock that stands still until it is told to go on: seconds since the epoch, from now."""

    def __init__(self) -> None:
        self._now = time.time()

    def __call__(self) -> float:
        """Give the time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class Emulator:
    """The platform's API on a real socket, served from a thread of this process.

        with Emulator() as emulator:
            httpx.get(emulator.url + "/healthz")

    Leaving the block stops it, and with it every job and serving it runs. It has one life: to start again, make
    another one on the same home. That one has all the records; and should the first have been killed, what it ran
    lives on and is found again. What is added to `faults` goes wrong from then on, but not in the next life.

    :param home: its records, logs and built environments; None: a temporary folder, removed by `stop`
    :param host: the address to listen on; anything but the loopback lets others run commands on this machine
    :param port: 0: a free one
    :param storage: the platform's folders; None: ``storage`` in the home
    :param images: what stands for container images, an images.toml; None: the one shipped with the package
    :param image_cache: built environments, which several emulators may share; None: ``images`` in the home
    :param token: required for everything that changes state; None: a random one
    :param max_running: so many jobs run at once, the others wait
    :param accelerators: how many there are of each device type, such as ``{"gtx-1080-ti": 2}``; jobs wait until what
        they ask for is free; None: as many as are asked for, of any type
    :param cores: likewise
    :param memory_mb: likewise
    :param oversized_fail: a job for which there can never be room becomes UNDERPOWERED, instead of being refused
    :param serving_restarts: so often each program of a serving that has ended is started again, after 1, 2, 4 ...
        seconds
    :param serving_tokens: servings answer 401 to who does not bring their access token
    :param grace: seconds between SIGTERM and SIGKILL for what is stopped
    :param expire: seconds after its end at which a job or serving is removed; None: it is kept
    :param allowed_hosts: names, other than the loopback's and `host`, by which clients may call it
    :param mounts: how programs see theirs: ``bubblewrap``, at their real paths and with little else of this machine;
        ``links``, through links; or ``auto``, the first where it works
    :param clock: seconds since the epoch, for records, scripted jobs and faults, such as a `DrivenClock`
    :param profile: the shape in which it answers queries of jobs: default, flat, openpai, octopus, volcano or business
    :param sign_in: who may sign in, as at KubeSphere; then queries need a token as well; None: nobody
    :raises ConfigurationError: the images file is wrong, there is no such profile, or bubblewrap was asked for and does
        not work
    """

    def __init__(
        self,
        home: Path | str | None = None,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        storage: Path | str | None = None,
        images: Path | str | None = None,
        image_cache: Path | str | None = None,
        token: str | None = None,
        max_running: int = 8,
        accelerators: Mapping[str, int] | None = None,
        cores: int | None = None,
        memory_mb: int | None = None,
        oversized_fail: bool = False,
        serving_restarts: int = 3,
        serving_tokens: bool = False,
        grace: float = 5.0,
        expire: float | None = None,
        allowed_hosts: Iterable[str] = (),
        mounts: str = "auto",
        clock: Callable[[], float] = time.time,
        profile: str = "default",
        sign_in: SignIn | None = None,
    ) -> None:
        if token == "":
            raise ConfigurationError("The emulator's token is empty.")
        self._profile, self._sign_in = find_profile(profile), sign_in
        room, self._mounts = choose_room(mounts)
        entries = load_images(Path(images or DEFAULT_IMAGES))
        self._is_temporary = home is None
        self.home = Path(home or tempfile.mkdtemp(prefix="bitahub-emulator-")).resolve()
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = Storage(Path(storage) if storage else self.home / "storage")
        self.storage = store.root
        self.token = token or secrets.token_urlsafe(32)
        self.state = State(clock)
        self.scripts = Scripts()
        self.faults = Faults()
        cache = Path(image_cache).resolve() if image_cache else self.home / "images"
        self._runner = Runner(
            Workshop(self.state, store, Images(entries, cache, grace), room, self.scripts, self.home, grace),
            Capacity(max_running, accelerators=accelerators, cores=cores, memory_mb=memory_mb),
            expire=expire,
            oversized_fail=oversized_fail,
            serving_restarts=serving_restarts,
            serving_tokens=serving_tokens,
        )
        self._host, self._port = host, port
        self._known_as = ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host, *allowed_hosts]
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL. While a port of 0 was asked for and nothing was started yet, it has no meaning."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._host, self._host)  # noqa: S104  compared, not bound
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, in a thread; returns once requests are answered.

        :raises EmulatorError: the port or the home is in use, or the address is not this machine's
        :raises ConfigurationError: the home is another version's
        """
        self._pid = os.getpid()
        self._lock = self._lock_home()
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.close)
            self._store = Store(self.home / "records.sqlite")
            undo.callback(self._store.close)
            listener = self._listen()
            self.state.restore(self._store)
            undo.pop_all()
        self._port = listener.getsockname()[1]
        app = create_app(
            self.state, self._runner, self.faults, self.token, self._known_as, self._profile, self._sign_in
        )
        config = uvicorn.Config(
            app,
            http=hanging_up(AutoHTTPProtocol),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(server, listener)), name="bitahub-emulator", daemon=True
        )
        self._thread.start()
        atexit.register(self.stop)
        self._await_started(server)
        log.info("programs see their mounts %s", self._mounts)

    def stop(self) -> None:
        """Stop every job and serving and end the server. Does nothing when it does not run."""
        if self._server is None or self._thread is None or os.getpid() != self._pid:  # a fork has none of the threads
            return
        self.faults.clear()  # what they hold would keep the server from ending
        self._server.should_exit = True
        self._thread.join()
        self._server = self._thread = None
        atexit.unregister(self.stop)
        self._store.close()
        self._lock.close()
        if self._is_temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def clear(self) -> None:
        """Stop and remove every job and serving; returns once nothing of them runs. Storage and ledger stay."""
        asyncio.run_coroutine_threadsafe(self._runner.clear(), self._loop).result()

    @property
    def is_running(self) -> bool:
        """Whether it serves."""
        return self._thread is not None and self._thread.is_alive()

    async def _serve(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._runner.resume()
        try:
            await server.serve(sockets=[listener])
        finally:
            listener.close()
            await self._runner.close()

    def _await_started(self, server: uvicorn.Server) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if not self.is_running or time.monotonic() > deadline:
                self.stop()
                raise EmulatorError("The emulator's server did not start; its output tells more.")
            time.sleep(0.01)

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Not socket.create_server: only where the protocol is named does asyncio turn off Nagle's algorithm, which
        # would delay every answer by 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            listener.listen(512)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise EmulatorError(f"Port {self._port} of {self._host} is in use; choose another one.") from None
            raise EmulatorError(f"Cannot listen on {self._host} port {self._port}: {error.strerror}.") from None
        except OverflowError:
            listener.close()
            raise EmulatorError(f"There is no port {self._port}.") from None
        return listener

    def _lock_home(self) -> IO[str]:
        """Keep a second emulator off this home: their logs and records would be mixed up."""
        lock = (self.home / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise EmulatorError(f"Another emulator uses the home {self.home}.") from None
        return lock


def keep_token(home: Path) -> str:
    """Give the token kept in this home, readable by its owner only; the first time, a random one is made."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = home / "token"
    with (
        contextlib.suppress(FileExistsError),
        os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new,
    ):
        new.write(secrets.token_urlsafe(32) + "\n")
    return read_secret(file, "token")


def read_secret(file: Path, what: str) -> str:
    """Give the secret in a file, without blanks around it. Raises ConfigurationError when there is none.

    :param what: ``token`` or ``password``
    """
    try:
        secret = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read the emulator's {what} from {file}: {error}.") from None
    if not secret:
        raise ConfigurationError(f"The emulator's {what} file {file} is empty.")
    return secret


def choose_token(home: Path, file: Path | None) -> str:
    """Give the token for a run from the shell: the environment's, else the file's, else the home's."""
    return _from_environment(TOKEN_VARIABLE) or (read_secret(file, "token") if file else keep_token(home))


def choose_password(file: Path | None) -> str:
    """Give the password of the user who may sign in: the environment's, else the file's.

    :raises ConfigurationError: there is neither
    """
    password = _from_environment(PASSWORD_VARIABLE) or (read_secret(file, "password") if file else None)
    if password is None:
        raise ConfigurationError(f"--sign-in needs a password: in {PASSWORD_VARIABLE}, or in a --password-file.")
    return password


def _from_environment(variable: str) -> str | None:
    if variable not in os.environ:
        return None
    value = os.environ[variable].strip()
    if not value:
        raise ConfigurationError(f"The environment variable {variable} is empty.")
    return value


def run_until_signal(emulator: Emulator, on_start: Callable[[], None]) -> None:
    """Let an emulator run until the process is asked to end (Ctrl-C, SIGTERM, closed terminal), or its server dies."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())  # before anything is started that would have to be ended
    with emulator:
        on_start()
        while emulator.is_running and not asked.wait(0.5):
            pass

"""The emulator as a whole, for use from Python: its home, its token, its socket."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import fcntl
import logging
import os
import re
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
from typing import IO, Any

from airflow_bitahub.api.platform import Platform
from airflow_bitahub.emulator.connection import connection_to
from airflow_bitahub.emulator.console.access import ROOT as CONSOLE
from airflow_bitahub.emulator.console.app import Console
from airflow_bitahub.emulator.console.pages import ConsoleContext
from airflow_bitahub.emulator.credentials import make_private
from airflow_bitahub.emulator.faults.faults import Faults
from airflow_bitahub.emulator.http.access import ANY, AUTHS, BASIC, KUBESPHERE
from airflow_bitahub.emulator.http.app import create_app
from airflow_bitahub.emulator.http.profiles import find_profile
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.listener import LOOPBACK, QuietAccepting, Server, listen, server_config
from airflow_bitahub.emulator.mounts.sandbox import SandboxWorkdir, choose_workdir
from airflow_bitahub.emulator.mounts.shared_storage import SharedStorage
from airflow_bitahub.emulator.origins import Origins
from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, load_images
from airflow_bitahub.emulator.run.memory import MemoryLimits
from airflow_bitahub.emulator.run.runner import ROLLING, SERVING_UPDATES, Runner
from airflow_bitahub.emulator.run.runs import RunContext
from airflow_bitahub.emulator.scripts import Scripts
from airflow_bitahub.emulator.state.capacity import Capacity
from airflow_bitahub.emulator.state.state import State
from airflow_bitahub.emulator.state.store import Store
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError

log = logging.getLogger(__name__)

_START_TIMEOUT = 30  # seconds


class EmulatorError(BitaHubError):
    """The emulator cannot run; the text is one sentence for the user."""


class DrivenClock:
    """A clock that only advances when a test says so; it returns seconds since the epoch and starts at the present."""

    def __init__(self) -> None:
        self._now = time.time()

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the time."""
        self._now += seconds


class Emulator:
    """The platform's API on a real socket, served from a thread of this process.

        with Emulator() as emulator:
            httpx.get(emulator.url + "/healthz")

    Leaving the block stops the emulator and every job and serving that it runs. An emulator cannot be started twice; to
    start again, create another one on the same home. The new one has all the records. If the first one was killed, its
    programs still run, and the new one finds them. Faults added to `faults` are active from then on, but not in the
    new emulator.

    :param home: the folder for records, logs and built environments; None: a temporary folder, removed by `stop`
    :param host: the address to listen on; any other than the loopback lets others run commands on this machine
    :param port: 0: any free port
    :param storage: the platform's folders; None: ``storage`` in the home
    :param images: an images.toml, which describes container images; None: the package's own
    :param image_cache: the folder for built environments, which emulators may share; None: ``images`` in the home
    :param token: required for every change; None: a random one
    :param token_for_reading: queries need a token, too, so that other users of this machine and jobs read nothing
    :param max_running: how many jobs may run at once; the others wait
    :param accelerators: number of devices per type, such as ``{"gtx-1080-ti": 2}``; jobs wait until enough are free;
        None: unlimited, of any type
    :param cores: CPU cores for all running jobs together; None: unlimited
    :param memory_mb: megabytes of memory for all running jobs together; None: unlimited
    :param oversized_fail: a job that can never run becomes UNDERPOWERED instead of being refused
    :param serving_restarts: how often a program of a serving is restarted after it has ended, with delays of 1, 2, 4
        ... seconds
    :param serving_tokens: servings answer 401 to requests without their access token
    :param serving_update: how an updated serving changes its programs: ``rolling``: each old one ends when a new one
        listens; ``recreate``: all old ones end first
    :param grace: seconds between SIGTERM and SIGKILL when a program is stopped
    :param expire: seconds after its end at which a job or serving is removed; None: never
    :param allowed_hosts: further host names that clients may use, besides the loopback's and `host`
    :param mounts: how programs see their mounts: ``bubblewrap`` for their real paths and little else of this machine,
        ``links`` for symbolic links, ``auto`` for bubblewrap where it works
    :param clock: returns seconds since the epoch, for records, scripted jobs and faults; for example a `DrivenClock`
    :param profile: the shape in which it answers queries of jobs: default, flat, openpai, octopus, volcano or business
    :param sign_in: the users who may sign in, as at KubeSphere; queries then need a token, too; None: there are none
    :param prefix: the first part of the addresses of jobs and servings, since installations differ in it
    :param auth: the only way of signing requests that the platform's API accepts, one of `access.AUTHS`
    :raises ConfigurationError: the images file is wrong, there is no such profile, serving_update or auth, the prefix
        is not one part of an address, the home belongs to another user, or bubblewrap is required and does not work
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
        token_for_reading: bool = False,
        max_running: int = 8,
        accelerators: Mapping[str, int] | None = None,
        cores: int | None = None,
        memory_mb: int | None = None,
        oversized_fail: bool = False,
        serving_restarts: int = 3,
        serving_tokens: bool = False,
        serving_update: str = ROLLING,
        grace: float = 5.0,
        expire: float | None = None,
        allowed_hosts: Iterable[str] = (),
        mounts: str = "auto",
        clock: Callable[[], float] = time.time,
        profile: str = "default",
        sign_in: SignIn | None = None,
        prefix: str = Platform.prefix,
        auth: str = ANY,
    ) -> None:
        if token == "":
            raise ConfigurationError("The emulator's token is empty.")
        if serving_update not in SERVING_UPDATES:
            choices = ", ".join(SERVING_UPDATES)
            raise ConfigurationError(f"serving_update is {serving_update!r}; choose one of {choices}.")
        if not re.fullmatch(r"[\w-]+", prefix) or prefix in ("emulator", "oauth"):
            raise ConfigurationError(f"prefix is {prefix!r}; it is one part of an address, such as 'lapis' or 'kapis'.")
        if auth not in AUTHS:
            raise ConfigurationError(f"auth is {auth!r}; choose one of {', '.join(AUTHS)}.")
        if auth in (BASIC, KUBESPHERE) and sign_in is None:
            raise ConfigurationError(f"auth is {auth!r}, and there is no user who may sign in.")
        self._prefix, self._auth = prefix, auth
        self._profile, self._sign_in = find_profile(profile), sign_in
        workdir_type, self._mounts_description = choose_workdir(mounts)
        self.is_sandboxed = workdir_type is SandboxWorkdir  # otherwise, programs see the other processes of this user
        entries = load_images(Path(images or DEFAULT_IMAGES))
        self._is_temporary = home is None
        self.home = Path(home or tempfile.mkdtemp(prefix="bitahub-emulator-")).resolve()
        make_private(self.home)
        shared_storage = SharedStorage(Path(storage) if storage else self.home / "storage")
        self.storage = shared_storage.root
        self._shared_storage = shared_storage
        self.token = token or secrets.token_urlsafe(32)
        self.state = State(clock)
        self.scripts = Scripts()
        self.faults = Faults()
        names = ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host, *allowed_hosts]
        self._origins = Origins(names)
        self._token_for_reading = token_for_reading
        cache = Path(image_cache).resolve() if image_cache else self.home / "images"
        self._runner = Runner(
            RunContext(
                self.state,
                shared_storage,
                Images(entries, cache, grace),
                workdir_type,
                self.scripts,
                MemoryLimits(),
                self._origins,
                self.home,
                grace,
            ),
            Capacity(max_running, accelerators=accelerators, cores=cores, memory_mb=memory_mb),
            expire=expire,
            oversized_fail=oversized_fail,
            serving_restarts=serving_restarts,
            serving_tokens=serving_tokens,
            serving_update=serving_update,
        )
        self._host, self._port = host, port
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL; only valid after `start` if the port is 0."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._host, self._host)  # noqa: S104  compared, not bound
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def console_url(self) -> str:
        """The address of the pages for people."""
        return self.url + CONSOLE

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start serving in a thread, and return when requests are answered.

        :raises EmulatorError: the port or the home is in use, or the address does not belong to this machine
        :raises ConfigurationError: the records in the home are damaged, or of another version of the emulator
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
            self.state,
            self._runner,
            self.faults,
            self.token,
            self._origins,
            self._profile,
            self._sign_in,
            token_for_reading=self._token_for_reading,
            prefix=self._prefix,
            auth=self._auth,
        )
        console = Console(
            app,
            ConsoleContext(self.state, self._runner, self.faults, self._shared_storage),
            self.token,
            self._origins,
            for_reading=self._token_for_reading or self._sign_in is not None,
        )
        config = server_config(console)
        server = self._server = Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(server, listener)), name="bitahub-emulator", daemon=True
        )
        self._thread.start()
        atexit.register(self.stop)
        self._wait_until_started(server)
        log.info("programs see their mounts %s", self._mounts_description)
        if os.geteuid() == 0:
            log.warning("the emulator runs as root, and so do the programs of jobs: start it as an ordinary user")

    def stop(self) -> None:
        """Stop every job and serving and end the server. Do nothing if it does not run."""
        # A forked process has a copy of this object, but none of the threads.
        if self._server is None or self._thread is None or os.getpid() != self._pid:
            return
        self.faults.clear()  # the server could not end while a fault delays a request
        self._server.should_exit = True
        self._thread.join()
        self._server = self._thread = None
        atexit.unregister(self.stop)
        self._store.close()
        self._lock.close()
        if self._is_temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def clear(self) -> None:
        """Stop and remove every job and serving, and return when they have ended. Storage and ledger stay."""
        asyncio.run_coroutine_threadsafe(self._runner.clear(), self._loop).result()

    def connection(self, *, login: str = "user", user_id: str = "_user", **extra: Any) -> dict[str, Any]:
        """Return an Airflow connection to this emulator. As JSON it is the value of an ``AIRFLOW_CONN_...`` variable.

        :param login: the user's name on the platform
        :param user_id: the user's id on the platform, which names the user's folders in the storage
        :param extra: further fields of the connection's extra, such as ``default_image``
        """
        return connection_to(
            self.url,
            self.token,
            self.storage.as_uri(),
            prefix=self._prefix,
            auth=self._auth,
            console_url=self.console_url,
            login=login,
            extra={"user_id": user_id, **extra},
        )

    @property
    def is_running(self) -> bool:
        """Whether the emulator is serving."""
        return self._thread is not None and self._thread.is_alive()

    async def _serve(self, server: Server, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(QuietAccepting())
        self._runner.resume()
        try:
            await server.serve(sockets=[listener])
        finally:
            listener.close()
            await self._runner.close()

    def _wait_until_started(self, server: Server) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not server.started:
            if not self.is_running or time.monotonic() > deadline:
                self.stop()
                raise EmulatorError("The emulator's server did not start; see its output.")
            time.sleep(0.01)

    def _listen(self) -> socket.socket:
        try:
            return listen(self._host, self._port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EmulatorError(f"Port {self._port} of {self._host} is in use; choose another one.") from None
            raise EmulatorError(f"Cannot listen on {self._host} port {self._port}: {error.strerror}.") from None
        except OverflowError:
            raise EmulatorError(f"There is no port {self._port}.") from None

    def _lock_home(self) -> IO[str]:
        """Lock the home against a second emulator, otherwise their logs and records would be mixed up."""
        lock = (self.home / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise EmulatorError(f"Another emulator uses the home {self.home}.") from None
        return lock


def run_until_signal(emulator: Emulator, on_start: Callable[[], None]) -> None:
    """Run an emulator until the process is asked to end (Ctrl-C, SIGTERM, closed terminal), or its server dies.

    :param on_start: called once requests are answered
    """
    end_requested = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: end_requested.set())  # set up before any program starts
    with emulator:
        on_start()
        while emulator.is_running and not end_requested.wait(0.5):
            pass

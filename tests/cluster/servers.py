"""PostgreSQL and Redis of this machine's packages, on the loopback interface, with folders of their own."""

from __future__ import annotations

import base64
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

_DEBIAN = "/usr/lib/postgresql"  # where Debian's packages have the programs that users do not call
_SECONDS = 60


def programs() -> dict[str, str]:
    """Return where the programs are that these servers need, by their names; "" for a missing one."""
    places = os.pathsep.join([os.environ["PATH"], *(str(path) for path in sorted(Path(_DEBIAN).glob("*/bin")))])
    names = ("redis-server", "redis-cli", "initdb", "postgres", "pg_dump")
    return {name: shutil.which(name, path=places) or "" for name in names}


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL with an empty database, and give the database's address: ``//user@host:port/database``."""
    programs_ = programs()
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to be run by root
    with tempfile.TemporaryDirectory(prefix="postgres-") as home:
        if user is not None:
            os.chown(home, pwd.getpwnam(user).pw_uid, -1)
        data, port = Path(home, "data"), free_port()
        initialize = [programs_["initdb"], "--auth=trust", "--username=airflow", "--no-sync", f"--pgdata={data}"]
        subprocess.run(initialize, check=True, stdout=subprocess.DEVNULL, user=user, cwd=home)
        settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "fsync=off"]
        command = [programs_["postgres"], "-D", str(data), *(f"-c{setting}" for setting in settings)]
        with _server(command, Path(home, "postgres.log"), user=user):
            address = f"//airflow@127.0.0.1:{port}/postgres"
            _wait_until(lambda: dump(address) is not None, "PostgreSQL")
            yield address


def dump(address: str) -> bytes | None:
    """Return the content of a database as SQL; None while the server does not answer."""
    done = subprocess.run([programs()["pg_dump"], "--inserts", f"postgresql:{address}"], capture_output=True)
    return done.stdout if done.returncode == 0 else None


@contextmanager
def redis() -> Iterator[tuple[str, Path]]:
    """Run Redis, which keeps nothing on disk, and give its address and a file for `commands`."""
    programs_, port = programs(), free_port()
    client = [programs_["redis-cli"], "-p", str(port)]
    with tempfile.TemporaryDirectory(prefix="redis-") as home:
        command = [programs_["redis-server"], "--bind", "127.0.0.1", "--port", str(port), "--dir", home, "--save", ""]
        with _server(command, Path(home, "redis.log")):
            _wait_until(lambda: subprocess.run([*client, "ping"], capture_output=True).returncode == 0, "Redis")
            sent = Path(home, "commands")
            with _server([*client, "monitor"], sent):
                _wait_until(lambda: sent.stat().st_size > 0, "Redis's monitor")
                yield f"redis://127.0.0.1:{port}/0", sent


def commands(sent: Path) -> bytes:
    """Return all that clients have sent to Redis; the bodies of Celery's messages as text instead of base64."""
    return re.sub(rb'(?<=\\"body\\": \\")[\w+/]+=*(?=\\")', lambda body: base64.b64decode(body[0]), sent.read_bytes())


@contextmanager
def _server(command: Sequence[str], log: Path, user: str | None = None) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, user=user, cwd=log.parent, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()  # PostgreSQL waits for its clients: they have ended
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(is_ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_ready():
        assert time.monotonic() < deadline, f"{what} did not start"
        time.sleep(0.2)

"""Searches for secrets in everything that Airflow wrote, and in the arguments of processes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from types import TracebackType

import psutil


def leaks(home: Path, secrets: Mapping[str, str]) -> list[str]:
    """Return each place in an Airflow home that holds one of these secrets: a log, or a table of the database.

    :param secrets: what each is, and the secret
    """
    return leaks_in(chain(files(home), _tables(home / "airflow.db")), secrets)


def leaks_in(contents: Iterable[tuple[str, bytes]], secrets: Mapping[str, str]) -> list[str]:
    """Return each place that holds one of these secrets.

    :param contents: places, and what is there
    """
    return [
        f"{what} is in {place}"
        for place, content in contents
        for what, secret in secrets.items()
        if secret.encode() in content or secret.encode().hex() in content.decode("utf-8", "replace").lower()
    ]


def files(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an Airflow home, without the database."""
    for file in home.rglob("*"):
        if file.is_file() and not file.name.startswith("airflow.db"):
            yield str(file.relative_to(home)), file.read_bytes()


def _tables(path: Path) -> Iterator[tuple[str, bytes]]:
    # Read by SQL, because a value may be split over several pages of the file. XComs, rendered fields, the task state
    # store, triggers, connections, variables and the audit log are tables.
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = database.execute(f'SELECT * FROM "{table}"').fetchall()
            yield f"the table {table}", b"\n".join(_bytes(value) for row in rows for value in row)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class ProcessArguments:
    """Collects the arguments of every process that runs while the ``with`` block lasts."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> ProcessArguments:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(1):
            # Whole command lines: a secret may be part of an argument.
            self.seen |= {" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}

"""Where records outlive the emulator: one SQLite file. What was written is there after a kill -9."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from airflow_bitahub.exceptions import ConfigurationError

_VERSION = 2  # to be raised with every change of the tables or of what a record holds
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, record TEXT NOT NULL, removed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS servings (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    job INTEGER NOT NULL REFERENCES jobs (id), time INTEGER NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
    status INTEGER NOT NULL, reached INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS requests_of_job ON requests (job);
"""


class Store:
    """Keeps records as text; what they mean is the business of `state.py`. Safe to use from any thread.

    :param file: created when it does not exist; None: in memory, kept by nobody
    :raises ConfigurationError: it was written by another version
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        if file is not None:
            file.touch(mode=0o600)  # servings have access tokens
        self._database = sqlite3.connect(file or ":memory:", check_same_thread=False, isolation_level=None)
        # In this mode a write is a few microseconds, and survives the death of the process, if not of the machine.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        [(version,)] = self._database.execute("PRAGMA user_version")
        if version not in (0, _VERSION):  # 0: it is new
            self._database.close()
            raise ConfigurationError(
                f"The records in {file} are another version's of the emulator. Choose another home, or remove them."
            )
        self._database.executescript(_SCHEMA)
        self._database.execute(f"PRAGMA user_version = {_VERSION}")

    def add_job(self, record: str) -> int:
        """Keep a new job, and give its number, which grows from one to the next."""
        return int(self._write("INSERT INTO jobs (record) VALUES (?)", record).lastrowid or 0)

    def update_job(self, number: int, record: str, removed: int) -> None:
        """Keep what has become of a job."""
        self._write("UPDATE jobs SET record = ?, removed = ? WHERE id = ?", record, removed, number)

    def jobs(self) -> Iterator[tuple[int, str, int]]:
        """Give number, record and time of removal of every job, oldest first."""
        yield from self._write("SELECT id, record, removed FROM jobs ORDER BY id")

    def put_serving(self, key: str, record: str) -> None:
        """Keep a serving. One that is new comes last."""
        self._write(
            "INSERT INTO servings (key, record) VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
            key,
            record,
        )

    def remove_serving(self, key: str) -> None:
        """Keep a serving no longer."""
        self._write("DELETE FROM servings WHERE key = ?", key)

    def servings(self) -> list[str]:
        """Give the record of every serving, oldest first."""
        return [record for (record,) in self._write("SELECT record FROM servings ORDER BY id")]

    def add_request(self, job: int, time: int, method: str, path: str, status: int, reached: bool) -> None:
        """Keep a request that concerned a job."""
        self._write("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", job, time, method, path, status, reached)

    def requests(self, job: int) -> list[tuple[int, str, str, int, bool]]:
        """Give time, method, path, status and reach of every request that concerned a job, oldest first."""
        query = "SELECT time, method, path, status, reached FROM requests WHERE job = ? ORDER BY rowid"
        return [(*asked, bool(reached)) for *asked, reached in self._write(query, job)]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._database.close()

    def _write(self, statement: str, *values: str | int) -> sqlite3.Cursor:
        with self._lock:
            return self._database.execute(statement, values)

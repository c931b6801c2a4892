"""Stores records on disk, in one SQLite file. What was written survives a ``kill -9`` of the emulator."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from airflow_bitahub.exceptions import ConfigurationError

_VERSION = 2  # increase it with every change of the tables or of the fields of a record
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
    """Stores records as text; only `state.py` knows what the text means. Safe to use from any thread.

    :param file: created if it does not exist; None: in memory only
    :raises ConfigurationError: the file was written by another version of the emulator
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        if file is not None:
            file.touch(mode=0o600)  # it holds the servings' access tokens
        self._database = sqlite3.connect(file or ":memory:", check_same_thread=False, isolation_level=None)
        # In this mode a write takes a few microseconds. It survives the death of the process, but not of the machine.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        [(version,)] = self._database.execute("PRAGMA user_version")
        if version not in (0, _VERSION):  # 0: a new file
            self._database.close()
            raise ConfigurationError(
                f"The records in {file} belong to another version of the emulator. Choose another home or remove them."
            )
        self._database.executescript(_SCHEMA)
        self._database.execute(f"PRAGMA user_version = {_VERSION}")

    def add_job(self, record: str) -> int:
        """Store a new job and return its number; numbers increase."""
        return int(self._execute("INSERT INTO jobs (record) VALUES (?)", record).lastrowid or 0)

    def update_job(self, number: int, record: str, removed: int) -> None:
        """Replace the record of a job, and the time of its removal; 0: not removed."""
        self._execute("UPDATE jobs SET record = ?, removed = ? WHERE id = ?", record, removed, number)

    def jobs(self) -> Iterator[tuple[int, str, int]]:
        """Yield number, record and time of removal of every job, oldest first."""
        yield from self._execute("SELECT id, record, removed FROM jobs ORDER BY id")

    def put_serving(self, key: str, record: str) -> None:
        """Store a serving, or replace its record."""
        self._execute(
            "INSERT INTO servings (key, record) VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
            key,
            record,
        )

    def remove_serving(self, key: str) -> None:
        """Remove a serving."""
        self._execute("DELETE FROM servings WHERE key = ?", key)

    def servings(self) -> list[str]:
        """Return the record of every serving, oldest first."""
        return [record for (record,) in self._execute("SELECT record FROM servings ORDER BY id")]

    def add_request(self, job: int, time: int, method: str, path: str, status: int, reached: bool) -> None:
        """Store a request about a job."""
        self._execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", job, time, method, path, status, reached)

    def requests(self, job: int) -> list[tuple[int, str, str, int, bool]]:
        """Return time, method, path, status and `reached` of every request about a job, oldest first."""
        query = "SELECT time, method, path, status, reached FROM requests WHERE job = ? ORDER BY rowid"
        return [(*request, bool(reached)) for *request, reached in self._execute(query, job)]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _execute(self, statement: str, *values: str | int) -> sqlite3.Cursor:
        with self._lock:
            return self._database.execute(statement, values)

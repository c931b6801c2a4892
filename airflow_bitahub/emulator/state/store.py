"""Stores records on disk, in one SQLite file. What was written survives a ``kill -9`` of the emulator."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any, TypeAlias

from airflow_bitahub.emulator.state.errors import NotWritten
from airflow_bitahub.exceptions import ConfigurationError

log = logging.getLogger(__name__)

_Statement: TypeAlias = tuple[str, tuple[str | int, ...]]
_OPENING_SECONDS = 2  # how long to wait for another process' lock on the file before the emulator starts
_VERSION = 5  # increase it with every change of the tables or of the fields of a record
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, record TEXT NOT NULL, removed INTEGER NOT NULL DEFAULT 0,
    forgotten INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS servings (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    job INTEGER NOT NULL REFERENCES jobs (id), time INTEGER NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
    status INTEGER NOT NULL, reached INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS requests_of_job ON requests (job);
"""


class Store:
    """Stores records as text; only `state.py` knows what the text means. Safe to use from any thread.

    Every change is written as a whole or not at all, and never waits for another process: the event loop would wait,
    too. Each method raises NotWritten when the file cannot be used, for example because the disk is full.

    :param file: created if it does not exist; None: in memory only
    :raises ConfigurationError: the file is damaged or in use, or was written by another version of the emulator
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._is_failing = False
        try:
            self._open(file)
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(
                f"The records in {file} cannot be used: {error}. Start the emulator with another home, or move this "
                "file away: it then starts without the jobs and servings in it."
            ) from None

    def _open(self, file: Path | None) -> None:
        if file is not None:
            file.touch(mode=0o600)  # it holds the servings' access tokens
        database = sqlite3.connect(file or ":memory:", _OPENING_SECONDS, check_same_thread=False, isolation_level=None)
        with contextlib.ExitStack() as undo:
            undo.callback(database.close)
            # In this mode a write takes a few microseconds. It survives the death of the process, but not of the
            # machine.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            [(version,)] = database.execute("PRAGMA user_version")
            if version not in (0, _VERSION):  # 0: a new file
                raise ConfigurationError(
                    f"The records in {file} belong to another version of the emulator. Choose another home or remove "
                    "them."
                )
            [(damage,)] = database.execute("PRAGMA quick_check(1)")
            if damage != "ok":
                raise sqlite3.DatabaseError(f"the database is damaged ({' '.join(damage.split())})")
            [(tables,)] = database.execute("SELECT COUNT(*) FROM sqlite_master")
            if version == 0 and tables:
                raise sqlite3.DatabaseError("the database belongs to another program")
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT")
            database.execute("PRAGMA busy_timeout = 0")
            undo.pop_all()
        self._database = database

    def add_job(self, record: str) -> int:
        """Store a new job and return its number; numbers increase."""
        return int(self._execute(("INSERT INTO jobs (record) VALUES (?)", (record,))).lastrowid or 0)

    def update_job(self, number: int, record: str, removed: int) -> None:
        """Replace the record of a job, and the time of its removal; 0: not removed."""
        self._execute(("UPDATE jobs SET record = ?, removed = ? WHERE id = ?", (record, removed, number)))

    def jobs(self) -> list[tuple[int, str, int, int]]:
        """Return number, record, time of removal and number of forgotten requests of every job, oldest first."""
        return self._rows(("SELECT id, record, removed, forgotten FROM jobs ORDER BY id", ()))

    def put_serving(self, key: str, record: str) -> None:
        """Store a serving, or replace its record."""
        change = "INSERT INTO servings (key, record) VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record"
        self._execute((change, (key, record)))

    def remove_serving(self, key: str) -> None:
        """Remove a serving."""
        self._execute(("DELETE FROM servings WHERE key = ?", (key,)))

    def servings(self) -> list[tuple[str, str]]:
        """Return key and record of every serving, oldest first."""
        return self._rows(("SELECT key, record FROM servings ORDER BY id", ()))

    def add_request(
        self, job: int, time: int, method: str, path: str, status: int, reached: bool, forget: int | None = None
    ) -> int:
        """Store a request about a job and return its number; numbers increase.

        :param forget: the number of an older request about the job, which is removed and only counted from now on
        """
        values = (job, time, method, path, status, reached)
        added: _Statement = ("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", values)
        if forget is None:
            return int(self._execute(added).lastrowid or 0)
        removed: _Statement = ("DELETE FROM requests WHERE rowid = ?", (forget,))
        counted: _Statement = ("UPDATE jobs SET forgotten = forgotten + 1 WHERE id = ?", (job,))
        return int(self._execute(removed, counted, added).lastrowid or 0)

    def requests(self, job: int) -> list[tuple[int, int, str, str, int, bool]]:
        """Return number, time, method, path, status and `reached` of the requests about a job, oldest first."""
        query = "SELECT rowid, time, method, path, status, reached FROM requests WHERE job = ? ORDER BY rowid"
        return [(*request, bool(reached)) for *request, reached in self._rows((query, (job,)))]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _rows(self, query: _Statement) -> list[Any]:
        with self._lock:
            try:
                return self._database.execute(*query).fetchall()
            except sqlite3.Error as error:
                raise NotWritten(f"the emulator's records cannot be read: {error}") from error

    def _execute(self, *statements: _Statement) -> sqlite3.Cursor:
        """Execute statements, all of them or none, and return the last one's cursor."""
        with self._lock:
            try:
                if len(statements) > 1:
                    self._database.execute("BEGIN IMMEDIATE")
                cursor = [self._database.execute(*statement) for statement in statements][-1]
                if self._database.in_transaction:
                    self._database.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                if not self._is_failing:  # once, as this may happen many times a second
                    log.error("the emulator's records cannot be written until further notice: %s", error)
                self._is_failing = True
                raise NotWritten(f"the emulator's records cannot be written: {error}") from error
            if self._is_failing:
                log.warning("the emulator's records can be written again")
            self._is_failing = False
            return cursor

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")

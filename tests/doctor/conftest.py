"""Emulators of many kinds of installation, and the doctor as a person starts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_bitahub.cli import main
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.hooks.sessions import sessions_of

USER, PASSWORD = "ann", "correct-horse"
CONN_ID = "bitahub_bare"


class Outcome(NamedTuple):
    """What a doctor printed."""

    code: int
    text: str

    @property
    def extras(self) -> dict[str, Any]:
        """The extras to set."""
        _, _, rest = self.text.partition("all others stay as they are:\n")
        lines = [line for line in rest.splitlines() if line.startswith("  ")]
        return json.loads("\n".join(lines)) if lines else {}

    def row(self, what: str) -> str:
        """Return the first line of the table about something."""
        return next(line for line in self.text.splitlines() if line[10:32].strip() == what).strip()


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Callable[..., Emulator]]:
    """A function that starts an emulator, in which every image stands for this interpreter."""
    images = tmp_path / "images.toml"
    images.write_text(f'[[image]]\npattern = "*"\npython = {json.dumps(sys.executable)}\n')
    with ExitStack() as stack:

        def start(**options: Any) -> Emulator:
            options = {"sign_in": SignIn({USER: PASSWORD}), "serving_restarts": 0, **options}
            return stack.enter_context(Emulator(images=images, mounts="links", grace=1.0, **options))

        yield start


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """A function that runs the doctor on a connection with these fields; without any, on the one in the database."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")  # the command sets it for its own process
    sessions_of.cache_clear()

    def run(*options: str, extra: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        if fields:
            connection = {"conn_type": "bitahub", **fields, "extra": extra or {}}
            monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(connection))
        code = main(["doctor", CONN_ID, *options])
        captured = capsys.readouterr()
        return Outcome(code, captured.out + captured.err)

    yield run
    sessions_of.cache_clear()


def secret_of(emulator: Emulator, auth: str) -> str:
    """Return what a person has as the password, where requests are signed in this way."""
    return PASSWORD if auth in ("basic", "kubesphere") else emulator.token


@pytest.fixture(scope="session")
def _tables() -> Iterator[None]:
    """The tables of Airflow's database that the doctor reads and writes, in the home of these tests."""
    from airflow import settings
    from airflow.models.connection import Connection
    from airflow.models.team import Team
    from airflow.models.variable import Variable

    tables = [Team.__table__, Connection.__table__, Variable.__table__]
    Connection.metadata.create_all(settings.engine, tables=tables)
    yield
    Connection.metadata.drop_all(settings.engine, tables=tables)


@pytest.fixture
def database(_tables: None) -> Iterator[Any]:
    """Airflow's database, without connections and Variables: a function that opens a session."""
    from airflow.models.connection import Connection
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session

    yield create_session
    with create_session() as session:
        session.query(Connection).delete()
        session.query(Variable).delete()

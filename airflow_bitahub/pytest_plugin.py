"""Fixtures with which users test their DAGs against the emulator. pytest finds them wherever this package is installed.

.. code-block:: python

    def test_a_bad_model_is_not_deployed(bitahub_emulator, bitahub_connection):
        result = {"evaluation_result.json": {"accuracy": 0.5}}
        bitahub_emulator.scripts.add(ScriptedJob(command="*evaluate.py*", outputs=result))
        run = dag.test()
        assert run.get_task_instance("deploy").state == "skipped"
        assert bitahub_emulator.state.servings() == []

Everything is imported when a fixture is used, since pytest loads this module also for tests that have no use for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_bitahub.emulator.server import Emulator

CONNECTION = "bitahub_default"


@pytest.fixture
def bitahub_emulator() -> Iterator[Emulator]:
    """An emulator of the test's own, on which every job succeeds at once and every serving answers ``{}``.

    ``bitahub_emulator.scripts.add`` lets some jobs fail, take their time or write results, and servings answer
    something: see `emulator.scripts`. ``bitahub_emulator.state`` tells what was submitted.
    """
    from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
    from airflow_bitahub.emulator.server import Emulator

    with Emulator() as emulator:
        emulator.scripts.add(ScriptedJob())
        emulator.scripts.add(ScriptedServing())
        yield emulator


@pytest.fixture
def bitahub_connection(bitahub_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of an Airflow connection to `bitahub_emulator`, which is ``bitahub_default``."""
    connection = bitahub_emulator.connection(login="tester", user_id="_tester", default_image="any")
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", json.dumps(connection))
    return CONNECTION

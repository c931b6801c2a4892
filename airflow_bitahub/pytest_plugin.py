"""Fixtures for testing DAGs against the emulator. pytest finds them wherever this package is installed.

.. code-block:: python

    def test_a_bad_model_is_not_deployed(bitahub_emulator, bitahub_connection):
        result = {"evaluation_result.json": {"accuracy": 0.5}}
        bitahub_emulator.scripts.add(ScriptedJob(command="*evaluate.py*", outputs=result))
        run = dag.test()
        assert run.get_task_instance("deploy").state == "skipped"
        assert bitahub_emulator.state.servings() == []

pytest loads this module for every test run, so the fixtures import what they need only when they are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from airflow_bitahub.hooks import DEFAULT_CONN_ID

if TYPE_CHECKING:
    from airflow_bitahub.emulator.server import Emulator


@pytest.fixture
def bitahub_emulator() -> Iterator[Emulator]:
    """A new emulator for each test. Every job on it succeeds immediately, and every serving answers ``{}``.

    Use ``bitahub_emulator.scripts.add`` to make jobs fail, take time or write results, and to set the answers of
    servings; see `emulator.scripts`. ``bitahub_emulator.state`` contains what was submitted.
    """
    from airflow_bitahub.exceptions import MissingExtraError

    try:
        from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
        from airflow_bitahub.emulator.server import Emulator
    except MissingExtraError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None

    with Emulator() as emulator:
        emulator.scripts.add(ScriptedJob())
        emulator.scripts.add(ScriptedServing())
        yield emulator


@pytest.fixture
def bitahub_connection(bitahub_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of an Airflow connection to `bitahub_emulator`: ``bitahub_default``."""
    # Scripted jobs need no inputs.
    connection = bitahub_emulator.connection(login="tester", user_id="_tester", default_image="any", preflight=False)
    monkeypatch.setenv(f"AIRFLOW_CONN_{DEFAULT_CONN_ID.upper()}", json.dumps(connection))
    return DEFAULT_CONN_ID

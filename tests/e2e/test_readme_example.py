"""The README's example of a user's own test passes. It needs no running Airflow, only its database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import readme_example

pytestmark = pytest.mark.e2e


def test_the_example_of_a_users_own_test_passes(tmp_path: Path) -> None:
    (tmp_path / "test_checked.py").write_text(readme_example("python", "def test_"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("airflow", "db", "migrate")
    assert "2 passed" in run("pytest", "-q", "test_checked.py")

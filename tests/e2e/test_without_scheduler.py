"""What users run without a scheduler: tests of their DAGs, and the quickstart. It needs only a database."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.emulator.http.profiles import PROFILES
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.server import Emulator
from tests.conftest import REPOSITORY, documented_example

pytestmark = [pytest.mark.e2e, pytest.mark.long]

Run = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for Airflow."""
    return tmp_path_factory.mktemp("without scheduler")


@pytest.fixture(scope="module")
def _database(home: Path) -> None:
    """Airflow's database in the folder, made as users make it."""
    run_in(home)("-m", "airflow", "db", "migrate")


@pytest.fixture
def run(home: Path) -> Run:
    """Run Python with these arguments and the folder's Airflow, and return what it prints."""
    return run_in(home)


def run_in(home: Path) -> Run:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    (home / "dags").mkdir(exist_ok=True)

    def run(*arguments: str, program: str = sys.executable) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=home / "dags", env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.usefixtures("_database")
def test_the_documented_example_of_a_users_own_test_passes(run: Run, home: Path) -> None:
    (home / "dags/test_checked.py").write_text(documented_example("docs/en/testing.md", "python", "def test_"))
    assert "2 passed" in run("-m", "pytest", "-q", "test_checked.py")


def test_the_examples_run_with_sign_in_and_every_form_of_answers(run: Run, home: Path) -> None:
    for example in ("mnist_lifecycle", "nightly_check", "python_function"):
        shutil.copy(REPOSITORY / "dags" / f"{example}.py", home / "dags")
    printed = run(str(REPOSITORY / "tests/e2e/run_examples.py"), str(home / "dags"), str(home), *PROFILES)
    results: dict[str, Any] = json.loads(printed.splitlines()[-1])
    assert list(results) == list(PROFILES)
    for profile, dags in results.items():
        for name, tasks in dags.items():
            expected = {task: {"skipped" if task == "roll_back" else "success"} for task in tasks}
            assert {task: set(states) for task, states in tasks.items()} == expected, (profile, name)


@pytest.mark.usefixtures("_database")
def test_the_quickstart_leads_from_an_address_to_a_trained_model(run: Run, home: Path, image_cache: Path) -> None:
    text = (REPOSITORY / "docs/en/quickstart.md").read_text()
    install, *commands = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert "pip install airflow-bitahub\n" in install
    sign_in = SignIn({"ann": "quick-correct-horse"})
    with Emulator(
        home / "emulator", image_cache=image_cache, profile="volcano", prefix="kapis", sign_in=sign_in
    ) as emulator:
        script = "\n".join(("set -e", *commands))
        for placeholder, value in {
            "https://kubesphere.example.com": emulator.url,
            "your user name": "ann",
            "your password": "quick-correct-horse",
            "airflow/dags": ".",
        }.items():
            assert placeholder in script
            script = script.replace(placeholder, value)
        printed = run("-c", script, program="bash")
        assert "The model is at /models/" in printed
        assert "Written to the Airflow connection 'bitahub_default'." in printed
        models = emulator.storage.glob("models/*/line/*/line/model.json")
        assert [json.loads(model.read_text())["slope"] for model in models] == [pytest.approx(3, abs=0.1)]

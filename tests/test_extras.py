"""Where the packages of an extra are missing, one sentence says what to install.

Each test runs a process in which importing them fails, as it does where they are not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_bitahub.extras import MODULES

MISSING = "import sys; sys.modules.update(dict.fromkeys({modules!r})); "
MAIN = "from airflow_bitahub.cli import main; sys.exit(main({arguments!r}))"


def run_without(modules: tuple[str, ...], program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that cannot import `modules`."""
    return subprocess.run(
        [sys.executable, "-c", MISSING.format(modules=modules) + program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("emulator", ("fastapi",)),
        ("emulator", MODULES["emulator"]),
        ("demo", MODULES["demo"]),
        ("demo", ("sklearn",)),
        ("demo", ("uvicorn",)),
    ],
)
def test_a_command_says_in_one_sentence_what_to_install(command: str, missing: tuple[str, ...], tmp_path: Path) -> None:
    done = run_without(missing, MAIN.format(arguments=[command, "--home", str(tmp_path / "home")]))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"The {command} needs packages that are not installed ({', '.join(missing)}): "
        f"pip install 'airflow-bitahub[{command}]'\n"
    )
    assert not (tmp_path / "home").exists()


def test_the_emulator_does_not_need_what_only_the_demo_needs() -> None:
    only_demo = tuple(set(MODULES["demo"]) - set(MODULES["emulator"]))
    done = run_without(only_demo, MAIN.format(arguments=["emulator", "--accelerators", "nonsense"]))
    assert "needs packages" not in done.stderr
    assert "nonsense" in done.stderr


def test_it_is_an_import_error_too() -> None:
    program = """
try:
    import airflow_bitahub.emulator.server
except ImportError as error:
    print(error)
"""
    assert run_without(("starlette",), program).stdout.startswith("The emulator needs packages")


def test_without_the_extra_the_plugin_fails_only_tests_that_use_the_emulator(tmp_path: Path) -> None:
    test = tmp_path / "test_theirs.py"
    test.write_text(
        "def test_without_it(): pass\n"
        "def test_with_it(bitahub_emulator): pass\n"
        "def test_with_a_connection(bitahub_connection): pass\n"
    )
    done = run_without(
        MODULES["emulator"],
        f"import pytest; sys.exit(pytest.main(['-q', '-rN', '-p', 'airflow_bitahub.pytest_plugin', {str(test)!r}, "
        f"'--rootdir', {str(tmp_path)!r}, '-p', 'no:cacheprovider']))",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    assert "1 passed, 2 errors" in done.stdout
    assert done.stdout.count("pip install 'airflow-bitahub[emulator]'") == 2
    assert "Traceback" not in done.stdout
    assert "pytest_plugin.py" not in done.stdout

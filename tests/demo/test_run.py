"""The demo reports in one sentence why it cannot run. Running it is tested end to end."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port


def demo(home: Path, *arguments: str) -> str:
    """Run the demo, which must fail, and return its error message."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow_bitahub.cli", "demo", "--home", str(home), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    [sentence] = done.stderr.splitlines()
    return sentence


@pytest.mark.parametrize(("option", "owner"), [("--port", "Airflow"), ("--emulator-port", "emulator")])
def test_a_port_in_use_is_reported_before_anything_is_prepared(option: str, owner: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = demo(tmp_path / "home", option, port)
    assert port in sentence
    assert owner in sentence
    assert not (tmp_path / "home").exists()


def test_a_folder_without_mnist_is_reported_and_the_home_is_private(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "home").mkdir(mode=0o755)
    assert str(tmp_path / "empty") in demo(
        tmp_path / "home",
        "--mnist",
        str(tmp_path / "empty"),
        "--port",
        str(free_port()),
        "--emulator-port",
        str(free_port()),
    )
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700

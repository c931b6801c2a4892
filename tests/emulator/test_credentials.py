"""The token and the password for an emulator that is started from the shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_bitahub.emulator.credentials import choose_password, choose_token, load_or_create_token
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError


def test_token_is_kept_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITAHUB_EMULATOR_TOKEN", raising=False)
    token = load_or_create_token(tmp_path / "home")
    assert len(token) >= 32
    assert load_or_create_token(tmp_path / "home") == token
    assert (tmp_path / "home" / "token").stat().st_mode & 0o777 == 0o600
    assert choose_token(tmp_path / "home", None) == token

    (tmp_path / "mine").write_text("of-the-file\n")
    assert choose_token(tmp_path / "home", tmp_path / "mine") == "of-the-file"
    monkeypatch.setenv("BITAHUB_EMULATOR_TOKEN", "of-the-environment")
    assert choose_token(tmp_path / "home", tmp_path / "mine") == "of-the-environment"


def test_no_empty_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text(" \n")
    monkeypatch.delenv("BITAHUB_EMULATOR_TOKEN", raising=False)
    for file in ("empty", "none"):
        with pytest.raises(ConfigurationError, match=file):
            choose_token(tmp_path, tmp_path / file)
    monkeypatch.setenv("BITAHUB_EMULATOR_TOKEN", "")
    with pytest.raises(ConfigurationError, match="empty"):
        choose_token(tmp_path, None)
    with pytest.raises(ConfigurationError, match="empty"):
        Emulator(tmp_path, token="")


def test_the_password_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITAHUB_EMULATOR_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match=r"BITAHUB_EMULATOR_PASSWORD.*--password-file"):
        choose_password(None)
    with pytest.raises(ConfigurationError, match=r"password from .*none"):
        choose_password(tmp_path / "none")
    (tmp_path / "mine").write_text("of the file\n")
    assert choose_password(tmp_path / "mine") == "of the file"
    monkeypatch.setenv("BITAHUB_EMULATOR_PASSWORD", "of the environment")
    assert choose_password(tmp_path / "mine") == "of the environment"
    monkeypatch.setenv("BITAHUB_EMULATOR_PASSWORD", "")
    with pytest.raises(ConfigurationError, match="BITAHUB_EMULATOR_PASSWORD is empty"):
        choose_password(tmp_path / "mine")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc with the memory of processes")
def test_the_emulators_environment_can_be_hidden_from_its_jobs() -> None:
    """Root sees it all the same, so this asks the kernel instead of looking from a job."""
    program = (
        "import ctypes; from airflow_bitahub.emulator.credentials import hide_environment; "
        "libc = ctypes.CDLL(None); before = libc.prctl(3); hide_environment(); print(before, libc.prctl(3))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]

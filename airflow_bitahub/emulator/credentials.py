"""What only the user of an emulator may know: its home, and the token and the password for a start from the shell."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import stat
import sys
from pathlib import Path

from airflow_bitahub.exceptions import ConfigurationError

TOKEN_VARIABLE = "BITAHUB_EMULATOR_TOKEN"  # noqa: S105  the name of a variable
PASSWORD_VARIABLE = "BITAHUB_EMULATOR_PASSWORD"  # noqa: S105  the name of a variable
_PR_SET_DUMPABLE = 4  # of Linux' prctl


def choose_token(home: Path, file: Path | None) -> str:
    """Return the token from the environment variable, otherwise from the file, otherwise from the home."""
    return _from_environment(TOKEN_VARIABLE) or (_read_secret(file, "token") if file else load_or_create_token(home))


def choose_password(file: Path | None) -> str:
    """Return the password of the user who may sign in: from the environment variable, otherwise from the file.

    :raises ConfigurationError: there is neither
    """
    password = _from_environment(PASSWORD_VARIABLE) or (_read_secret(file, "password") if file else None)
    if password is None:
        raise ConfigurationError(f"--sign-in needs a password: in {PASSWORD_VARIABLE}, or in a --password-file.")
    return password


def load_or_create_token(home: Path) -> str:
    """Return the token stored in a home. If there is none, create a random one that only the owner can read."""
    make_private(home)
    file = home / "token"
    with (
        contextlib.suppress(FileExistsError),
        os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new,
    ):
        new.write(secrets.token_urlsafe(32) + "\n")
    return _read_secret(file, "token")


def make_private(home: Path) -> None:
    """Create a folder that only its owner can use, or make an existing one so.

    :raises ConfigurationError: it is no folder, belongs to another user, or is shared as ``/tmp`` is
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"Cannot create the folder {home}: {error.strerror}; choose another home.") from None
    status = home.stat()
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_ISVTX:
        raise ConfigurationError(f"{home} is not a folder of yours alone; choose another home.")
    if status.st_mode & 0o077:
        home.chmod(0o700)


def hide_environment() -> None:
    """Hide this process' first environment and memory, where secrets are, from other processes of the same user.

    Linux only, and no help against root. It also hides the open files, through which bubblewrap makes mounts.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _read_secret(file: Path, what: str) -> str:
    """Return the secret in a file, without surrounding whitespace. Raises ConfigurationError when there is none.

    :param what: ``token`` or ``password``
    """
    try:
        secret = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read the emulator's {what} from {file}: {error}.") from None
    if not secret:
        raise ConfigurationError(f"The emulator's {what} file {file} is empty.")
    return secret


def _from_environment(variable: str) -> str | None:
    if variable not in os.environ:
        return None
    value = os.environ[variable].strip()
    if not value:
        raise ConfigurationError(f"The environment variable {variable} is empty.")
    return value

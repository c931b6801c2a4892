"""The doctor finds the right extras of every kind of installation by itself, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api import candidates
from airflow_bitahub.api.platform import ENDPOINTS
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match, Records
from airflow_bitahub.emulator.http.profiles import PROFILES
from airflow_bitahub.emulator.http.signin import SignIn, user_id_of
from airflow_bitahub.emulator.server import Emulator
from tests.conftest import until
from tests.doctor.conftest import PASSWORD, USER, Outcome, secret_of

Start = Callable[..., Emulator]
Doctor = Callable[..., Outcome]
# Profiles whose answers say to whom a job belongs.
NAMES_OWNER = ("default", "openpai", "octopus", "volcano")
PREFIX_OF = dict(zip(PROFILES, ("kapis", "lapis", "apis", "kapi", "api", "kapis"), strict=True))

pytestmark = pytest.mark.usefixtures("variables")


def assert_nothing_left(emulator: Emulator) -> None:
    assert emulator.state.jobs() == []
    assert emulator.state.servings() == []
    assert not list(emulator.storage.glob("projects/*/bitahub-doctor*"))


@pytest.mark.parametrize("auth", ["bearer", "header", "basic", "kubesphere"])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_bare_connection_to_every_kind_of_installation(
    profile: str, auth: str, installation: Start, doctor: Doctor
) -> None:
    emulator = installation(profile=profile, auth=auth, prefix=PREFIX_OF[profile])
    secret = secret_of(emulator, auth)
    outcome = doctor(host=emulator.url, login=USER, password=secret)
    expected = {"default_image": candidates.IMAGE}
    if auth != "bearer":
        expected["auth"] = auth
    if PREFIX_OF[profile] != "lapis":
        expected["prefix"] = PREFIX_OF[profile]
    if profile in NAMES_OWNER and auth in ("basic", "kubesphere"):
        expected["user_id"] = user_id_of(USER)
    assert (outcome.code, outcome.extras) == (0, expected), outcome.text
    assert "FAILS" not in outcome.text
    assert secret not in outcome.text
    assert_nothing_left(emulator)
    # With what it found, nothing is left to find.
    again = doctor("--no-job", host=emulator.url, login=USER, password=secret, extra=outcome.extras)
    assert "No extra has to be set." in again.text

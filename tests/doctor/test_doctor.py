"""The doctor finds the right extras of every kind of installation by itself, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.secrets import BaseSecretsBackend
from airflow.secrets.metastore import MetastoreBackend

from airflow_bitahub.api import candidates
from airflow_bitahub.api.platform import ENDPOINTS
from airflow_bitahub.doctor.connections import origin_of
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match, Records
from airflow_bitahub.emulator.http.profiles import PROFILES
from airflow_bitahub.emulator.http.signin import SignIn, user_id_of
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from tests.conftest import until
from tests.doctor.conftest import CONN_ID, PASSWORD, USER, Outcome, secret_of

Start = Callable[..., Emulator]
Doctor = Callable[..., Outcome]
# Profiles whose answers say to whom a job belongs.
NAMES_OWNER = ("default", "openpai", "octopus", "volcano")
AUTHS = ("bearer", "header", "basic", "kubesphere")
PREFIX_OF = dict(zip(PROFILES, ("kapis", "lapis", "apis", "kapi", "api", "kapis"), strict=True))

pytestmark = pytest.mark.usefixtures("database")


def assert_nothing_left(emulator: Emulator) -> None:
    assert emulator.state.jobs() == []
    assert emulator.state.servings() == []
    assert not list(emulator.storage.glob("projects/*/bitahub-doctor*"))


@pytest.mark.parametrize(
    ("profile", "auth"),
    [
        # Each profile and each way of signing in once; the other pairs are long.
        pytest.param(profile, auth, marks=() if place % len(AUTHS) == other else pytest.mark.long)
        for place, profile in enumerate(PROFILES)
        for other, auth in enumerate(AUTHS)
    ],
)
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
    if auth != "kubesphere":
        return
    # With what it found, nothing is left to find.
    again = doctor("--no-job", host=emulator.url, login=USER, password=secret, extra=outcome.extras)
    assert "No extra has to be set." in again.text


def test_one_wrong_password_is_sent_once(installation: Start, doctor: Doctor) -> None:
    sign_in = SignIn({USER: PASSWORD})
    emulator = installation(sign_in=sign_in)
    for auth in ({}, {"auth": "basic"}, {"auth": "kubesphere"}):
        sign_in._failures[USER].clear()
        outcome = doctor(host=emulator.url, login=USER, password=f"wrong-{auth}", extra=auth)
        assert outcome.code == 1
        assert "Wrong: password." in outcome.row("signing in")
        assert len(sign_in._failures[USER]) == 1
        # Whoever runs it again has not been told that the password is right.
        again = doctor(host=emulator.url, login=USER, password=f"wrong-{auth}", extra=auth)
        assert again.code == 1
        assert len(sign_in._failures[USER]) == 1 + (auth == {"auth": "basic"})
    assert emulator.state.ledger() == []


@pytest.mark.parametrize("profile", ["default", "octopus"])
def test_a_serving_and_the_storage(profile: str, installation: Start, doctor: Doctor) -> None:
    emulator = installation(profile=profile, auth="kubesphere")
    outcome = doctor(
        "--serving",
        host=emulator.url,
        login=USER,
        password=PASSWORD,
        extra={"storage_uri": emulator.storage.as_uri(), "endpoints": {"get_job": ENDPOINTS["get_job"]}},
    )
    assert outcome.code == 0
    assert "FAILS" not in outcome.text
    assert outcome.extras["endpoints"] == {"update_serving": ENDPOINTS["update_serving"]}
    for what in ("write and read", "same storage", "serve", "update a serving", "scale a serving", "start a serving"):
        assert outcome.row(what).startswith("works"), what
    assert_nothing_left(emulator)


def test_a_storage_that_is_not_the_platforms(installation: Start, doctor: Doctor, tmp_path: Path) -> None:
    emulator = installation()
    extra = {"storage_uri": (tmp_path / "elsewhere").as_uri(), "user_id": "_ann"}
    (tmp_path / "elsewhere" / "projects" / "_someone").mkdir(parents=True)
    outcome = doctor(host=emulator.url, login=USER, password=PASSWORD, extra=extra)
    assert "Wrong: storage_uri, or user_id." in outcome.row("same storage")
    assert "No such file" in outcome.text, "what the job printed"
    assert "'_someone'" in outcome.text, "whom that storage knows"
    [left] = emulator.storage.glob("projects/_ann/bitahub-doctor*")
    assert f"stays on the platform: /projects/_ann/{left.name}" in outcome.text
    assert not list((tmp_path / "elsewhere").glob("projects/*/bitahub-doctor*"))


def test_what_is_found_is_written_and_nothing_else_is_lost(installation: Start, doctor: Doctor, database: Any) -> None:
    from airflow.models.connection import Connection

    emulator = installation(auth="kubesphere", prefix="kapis")
    mine = {"team": "vision", "prefix": "lapi", "endpoints": json.dumps({"get_job": ENDPOINTS["get_job"]})}
    with database() as session:
        fields: dict[str, Any] = {"conn_type": "bitahub", "host": emulator.url, "login": USER, "password": PASSWORD}
        session.add(Connection(conn_id=CONN_ID, **fields, extra=json.dumps(mine)))
    assert f"To set them: airflow-bitahub doctor {CONN_ID} --write" in doctor("--no-job").text
    outcome = doctor("--write")
    assert outcome.code == 0
    assert f"Written to the Airflow connection '{CONN_ID}'." in outcome.text
    with database() as session:
        [stored] = session.query(Connection).all()
        assert stored.extra_dejson == {**mine, **outcome.extras}
        assert {key: getattr(stored, key) for key in fields} == fields
    assert outcome.extras["prefix"] == "kapis"
    assert PASSWORD not in outcome.text
    again = doctor("--no-job", "--write")
    assert "No extra has to be set." in again.text
    assert "'team' is not known" in again.text


def test_a_connection_from_the_environment_cannot_be_written(installation: Start, doctor: Doctor) -> None:
    emulator = installation(prefix="kapis")
    outcome = doctor("--write", "--no-job", host=emulator.url, login=USER, password=emulator.token)
    assert f"cannot be written: the connection comes from the environment variable AIRFLOW_CONN_{CONN_ID.upper()}" in (
        outcome.text
    )
    assert outcome.extras == {"prefix": "kapis"}


def test_a_connection_from_a_secrets_backend_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Vault(BaseSecretsBackend):
        def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:  # noqa: ARG002
            return object() if conn_id == "in_the_vault" else None

    monkeypatch.setattr("airflow.configuration.secrets_backend_list", [Vault(), MetastoreBackend(), Vault()])
    assert origin_of("in_the_vault") == "the secrets backend Vault"
    assert origin_of("nowhere") == "a place that Airflow's commands do not read"


@pytest.mark.parametrize("when", ["*/jobs/*-1", "*/jobs/*-2", "*/serving/*"])
def test_ctrl_c_removes_what_was_started(when: str, installation: Start, doctor: Doctor) -> None:
    emulator = installation()
    # The question for something that was just started is answered late, and meanwhile the person gives up.
    fault = emulator.faults.add(Fault(match=Match(method="GET", path=when, times=1), effect=Effect(delay=1)))

    def give_up() -> None:
        until(lambda: fault.applied or None)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=give_up)
    # The first questions are about a job that does not exist.
    thread.start()
    outcome = doctor(
        "--serving",
        host=emulator.url,
        login=USER,
        password=emulator.token,
        extra={"user_id": "_ann", "storage_uri": emulator.storage.as_uri()},
    )
    thread.join()
    assert outcome.code == 130
    assert "Removing " in outcome.text
    assert_nothing_left(emulator)


def says(emulator: Emulator, path: str, state: str, word: str) -> None:
    records = Records(where={"state": state}, patch={"state": word, "jobStatus": None})
    emulator.faults.add(Fault(match=Match(method="GET", path=path), effect=Effect(records=records)))


def test_words_for_states_that_nobody_knows(
    installation: Start, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.procedures.probing.SETTLING", 0.3)
    emulator = installation()
    for number, state, word in ((1, "SUCCEEDED", "DONE"), (2, "RUNNING", "BUSY"), (2, "STOPPED", "HALTED")):
        says(emulator, f"*/jobs/*-{number}", state, word)
    outcome = doctor(host=emulator.url, login=USER, password=emulator.token)
    assert outcome.extras["status_words"] == {"DONE": "SUCCEEDED", "HALTED": "STOPPED", "BUSY": "RUNNING"}
    assert outcome.code == 0
    assert_nothing_left(emulator)


def test_a_word_for_a_job_that_runs_is_none_for_one_that_succeeded(
    installation: Start, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.procedures.probing.SETTLING", 0.3)
    emulator = installation()
    # The platform shows late that the first job has ended.
    says(emulator, "*/jobs/*-1", "SUCCEEDED", "BUSY")
    says(emulator, "*/jobs/*-2", "RUNNING", "BUSY")
    outcome = doctor(host=emulator.url, login=USER, password=emulator.token)
    assert "status_words" not in outcome.extras
    assert outcome.row("state").startswith("FAILS")


def test_an_installation_that_lacks_what_is_only_assumed(installation: Start, doctor: Doctor) -> None:
    emulator = installation()
    for path in ("*/jobs", "*/jobs/*/log*", "*/retrylog"):
        missing = Effect(before=Answer(status=404, body="404 page not found"))
        emulator.faults.add(Fault(match=Match(method="GET", path=path), effect=missing))
    outcome = doctor(host=emulator.url, login=USER, password=emulator.token)
    assert outcome.code == 0
    assert outcome.extras == {"watch": "single", "default_image": candidates.IMAGE}
    assert outcome.row("log of a job").startswith("FAILS")
    assert outcome.row("stop a job").startswith("works")


@pytest.mark.parametrize("auth", ["basic", "kubesphere"])
def test_a_namespace_that_the_user_may_not_enter(auth: str, installation: Start, doctor: Doctor) -> None:
    emulator = installation(auth=auth)
    outcome = doctor(host=emulator.url, login=USER, password=PASSWORD, extra={"job_namespace": "bita"})
    assert outcome.code == 1
    assert "Wrong: namespace. The gateway knows the user" in outcome.row("permission")
    assert outcome.extras == {"auth": auth}, "what is certain is worth knowing"


def test_a_program_that_nobody_can_run(installation: Start, doctor: Doctor) -> None:
    emulator = installation()
    emulator.scripts.add(ScriptedJob(exit_code=1, log="no such image"))
    extra = {"default_image": "mine:1"}
    outcome = doctor(host=emulator.url, login=USER, password=emulator.token, extra=extra)
    assert outcome.code == 1
    assert "FAILED, exit code 1" in outcome.row("run a job")
    assert "Its log ends with: no such image" in outcome.text
    assert "the image 'mine:1'; otherwise set 'default_image'" in outcome.text
    assert_nothing_left(emulator)


def test_a_failure_in_the_middle_does_not_hide_what_was_found(installation: Start, doctor: Doctor) -> None:
    emulator = installation(prefix="kapis")
    broken = Effect(before=Answer(status=502, body="bad gateway"))
    emulator.faults.add(Fault(match=Match(method="DELETE", path="*/jobs/*-2", times=2), effect=broken))
    outcome = doctor(host=emulator.url, login=USER, password=emulator.token)
    assert outcome.row("stop a job").startswith("FAILS")
    assert outcome.extras == {"prefix": "kapis", "default_image": candidates.IMAGE}
    assert_nothing_left(emulator)

"""Which deployments were left, and ending them. That Airflow's database is read and written is tested end to end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from airflow_bitahub.api.servings import ServingSpec, create_serving, delete_serving, get_serving
from airflow_bitahub.cli import main
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.exceptions import BitaHubError, NotFoundError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import VariableRecords
from airflow_bitahub.procedures.deployments import Deployment, Intent, Owner, Rollout, Version
from tests.conftest import IMAGE
from tests.operators.served_program import model_path, put_models

OWNER = Owner("lifecycle", "deploy", "manual__1")
_numbers = count(1)


@pytest.fixture(autouse=True)
def _models(platform: Any) -> None:
    put_models(platform)


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> set[Owner]:
    """The task instances that Airflow's database says have not finished. The Variables are in it, too."""
    active: set[Owner] = set()
    module = "airflow_bitahub.serving_reaper"
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")  # the command sets it for its own process
    monkeypatch.setattr(f"{module}.DatabaseRecords", VariableRecords)
    monkeypatch.setattr(f"{module}.read_keys", lambda prefix: [key for key in variables if key.startswith(prefix)])
    monkeypatch.setattr(f"{module}.is_active", active.__contains__)
    return active


@pytest.fixture
def name(client: BitaHubClient) -> Iterator[str]:
    name = f"reaped-{next(_numbers)}"
    yield name
    for each in (name, f"{name}-next"):
        with suppress(BitaHubError):
            client.send(delete_serving(each))


def spec(name: str, image: str = IMAGE) -> ServingSpec:
    model = {"path": model_path("v1"), "mount_path": "/model"}
    return ServingSpec.model_validate(
        {"name": name, "model": model, "image": image, "protocols": [{}], "commands": ["exec sleep 300"]}
    )


def created(client: BitaHubClient, name: str) -> float | None:
    client.send(create_serving(spec(name)))
    return client.send(get_serving(name)).created_at


def output(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["servings", *arguments]) == code
    return capsys.readouterr().out


def exists(client: BitaHubClient, name: str) -> bool:
    try:
        client.send(get_serving(name))
    except NotFoundError:
        return False
    return True


def test_what_serves_and_what_was_left(
    name: str, hook: BitaHubHook, client: BitaHubClient, active: set[Owner], capsys: Any, variables: dict[str, str]
) -> None:
    assert "No serving that this Airflow has deployed" in output(capsys, "list")
    assert output(capsys, "reap") == "No deployment was left.\n"
    serves = Version.of(
        spec(name), {}, metrics={"accuracy": 0.93, "note": "x"}, deployed_at=1767225600.0, deployed_by=str(OWNER)
    )
    records = VariableRecords(hook, name, "v1")
    record = Deployment(created_at=created(client, name), exists=True, versions=[serves])
    records.save(record)
    new = replace(serves, digest="fedcba987", metrics={})
    trial = Rollout(
        OWNER, time.time() + 900, new, has_candidate=True, candidate_created_at=created(client, f"{name}-next")
    )
    records.save(replace(record, rollout=replace(trial, replaces=True)))
    variables["bitahub_serving.1234abcd.elsewhere.v1"] = json.dumps({})

    active.add(OWNER)
    listed = output(capsys, "list")
    assert f"{name} v1" in listed
    assert f"serves: {serves}, since 2026-01-01 00:00 UTC, by {OWNER}, accuracy = 0.93\n" in listed
    assert f"under way: the {new} is tried as {name}-next, by {OWNER}\n" in listed
    assert f"candidate: serving '{name}-next' is " in listed
    assert "servings on record for other platforms, or for other addresses of this one: 1." in listed
    assert output(capsys, "reap", "--no-dry-run") == "No deployment was left.\n"

    active.clear()
    assert f"by {OWNER}; this task has left it: reap ends it\n" in output(capsys, "list")
    assert "To end what was left: airflow-bitahub servings reap --no-dry-run" in output(capsys, "reap")
    assert exists(client, f"{name}-next")
    assert "nothing was changed, and the candidate was removed" in output(capsys, "reap", "--no-dry-run")
    assert (exists(client, name), exists(client, f"{name}-next")) == (True, False)
    assert records.load() == record
    assert output(capsys, "reap") == "No deployment was left.\n"


@pytest.mark.parametrize("is_active", [True, False])
def test_a_serving_that_was_left_before_it_was_on_record(
    is_active: bool, name: str, hook: BitaHubHook, client: BitaHubClient, active: set[Owner], capsys: Any
) -> None:
    VariableRecords(hook, name, "v1").save_intent(Intent(OWNER, name, time.time()))
    created(client, name)
    active |= {OWNER} if is_active else set()
    word = "is about to put on record" if is_active else "left: reap removes it"
    assert f"which {OWNER} {word}" in output(capsys, "list")
    output(capsys, "reap", "--no-dry-run")
    assert exists(client, name) is is_active


def test_what_cannot_be_ended_says_why(
    name: str, hook: BitaHubHook, client: BitaHubClient, active: set[Owner], capsys: Any
) -> None:
    assert not active
    serves = replace(Version.of(spec(name), {}), withheld=["LICENCE"])
    new = Version("fedcba", serves.spec)
    rollout = Rollout(OWNER, time.time() + 900, new, phase="restore", placed="new", replaces=True)
    records = VariableRecords(hook, name, "v1")
    records.save(Deployment(created_at=created(client, name), exists=True, versions=[serves], rollout=rollout))
    assert f"the {new} has failed, and the {serves} gets the name back" in output(capsys, "list")
    reaped = output(capsys, "reap", "--no-dry-run", code=1)
    assert f"could not be ended: {OWNER} has left its deployment of serving '{name}' unfinished. Deploy" in reaped
    assert "LICENCE, which are kept nowhere" in reaped
    assert exists(client, name)


def test_a_deployment_that_only_tidies_up_has_succeeded(
    name: str, hook: BitaHubHook, client: BitaHubClient, active: set[Owner], capsys: Any
) -> None:
    active.add(OWNER)
    new = Version.of(spec(name), {})
    rollout = Rollout(OWNER, time.time() + 900, new, phase="tidy", placed="new")
    record = Deployment(created_at=created(client, name), exists=True, versions=[new], rollout=rollout)
    VariableRecords(hook, name, "v1").save(record)
    assert f"under way: the {new} serves; only what the deployment left is still to be removed, by {OWNER}" in output(
        capsys, "list"
    )


def test_a_strangers_serving_is_named(
    name: str, hook: BitaHubHook, client: BitaHubClient, active: set[Owner], capsys: Any
) -> None:
    VariableRecords(hook, name, "v1").save(Deployment())
    assert name not in output(capsys, "list")
    created(client, name)
    assert "exists that this Airflow did not create" in output(capsys, "list")
    assert output(capsys, "reap", "--no-dry-run") == "No deployment was left.\n"
    assert not active

"""From arguments to a specification, without a platform and without Airflow."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest

from airflow_bitahub.api.jobs import Mount
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.job_spec import (
    accelerator,
    exports,
    folder_mount,
    input_mounts,
    job_spec,
    serving_spec,
    task_role,
)
from airflow_bitahub.storage.paths import Folders

FOLDERS = Folders("_2f1f", "pengcheng")
DEFAULTS = {"image": "tensorflow", "command": "python train.py", "cpu": 2, "memory_mb": 4096, "shm_mb": 64}


def test_inputs_are_mounted_where_the_document_has_them() -> None:
    mounts = input_mounts(
        FOLDERS, project="demo", code_path="/projects/{user_id}/{project}/code", datasets=["MNIST"], models=["dense"]
    )
    assert mounts == {
        "code": Mount.of("/projects/_2f1f/demo/code", "/code"),
        "datasets": [Mount.of("/datasets/_2f1f/MNIST", "/data/pengcheng/MNIST")],
        "models": [Mount.of("/models/_2f1f/dense", "/model/pengcheng/dense")],
    }


def test_a_job_without_code_or_models_has_none() -> None:
    mounts = input_mounts(FOLDERS, project="demo", code_path=None, datasets=(), models=None)
    assert mounts == {"code": None, "datasets": [], "models": None}


def test_a_folder_may_be_any() -> None:
    item = {"path": "/datasets/{user_id}/x", "mount_path": "/x"}
    assert folder_mount(FOLDERS, item, FOLDERS.dataset) == Mount.of("/datasets/_2f1f/x", "/x")


def test_a_roles_own_fields_come_before_those_of_all_roles() -> None:
    role = task_role(
        FOLDERS,
        {"task_role_name": "worker", "cpu": 8, "command": "echo {user_id}"},
        defaults=DEFAULTS,
        accelerator=accelerator("gtx-1080-ti", 2),
    )
    assert role == {
        **DEFAULTS,
        "task_role_name": "worker",
        "cpu": 8,
        "command": "echo _2f1f",
        "acc_device": {"device_type": "gtx-1080-ti", "requests": 2},
    }


def test_a_role_needs_an_image() -> None:
    with pytest.raises(ConfigurationError, match="default_image"):
        task_role(FOLDERS, {}, defaults={**DEFAULTS, "image": ""}, accelerator=None)


ROLE = {**DEFAULTS, "task_role_name": "chief"}


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ([{**ROLE, "shm_mb": 8192}], "so nothing was sent: shm_mb 8192 is more than memory_mb 4096"),
        ([{**ROLE, "acc_device": {"requests": 1}}], r"so nothing was sent: acc_device\.device_type: Field required"),
        ([{"image": "i", "command": "c"}, {**ROLE, "memory_mb": "x"}], r"task_roles\[1\]\.memory_mb: Input should be"),
        ([ROLE, ROLE], "so nothing was sent: two task roles have the same name"),
    ],
)
def test_a_complaint_is_in_the_words_of_a_dag(roles: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        job_spec(job_name="job", task_roles=roles)
    assert not re.search("MB|cpuNumber|deviceType|default factory", str(caught.value))
    assert caught.value.__cause__ is None


def test_a_complaint_shows_no_environment_value() -> None:
    with pytest.raises(ConfigurationError, match=r"envs\.TOKEN") as caught:
        serving_spec(name="s", model=None, image="i", protocols=[], envs={"TOKEN": ["hush"]}, commands=["true"])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("shell", [["sh"], ["sh", "-eu"], ["bash", "-euo", "pipefail"]], ids=" ".join)
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ('echo "$A $B"', "a b'c d\n"),
        ("A=own; echo $A", "own\n"),
        ("#!/bin/sh\nset -e\necho $A", "a\n"),
        ("# a comment\ncat <<END\n$A\nEND", "a\n"),
    ],
)
def test_a_command_that_is_given_variables_does_what_it_did(shell: list[str], command: str, said: str) -> None:
    line = exports({"A": "a", "B": "b'c d"}) + command
    done = subprocess.run([*shell, "-c", line], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")

"""From arguments to a specification, without a platform and without Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from airflow_bitahub.api.jobs import Mount
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.job_spec import accelerator, check_extra_body, folder_mount, input_mounts, task_role
from airflow_bitahub.storage import Folders

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


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (None, "None is neither"),
        ({"path": "/datasets/x"}, "lacks 'mount_path'"),
        ({"path": "MNIST", "mount_path": "/x"}, "'MNIST' is not an absolute path"),
    ],
)
def test_a_folder_that_is_incomplete_says_so(item: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        folder_mount(FOLDERS, item, FOLDERS.dataset)


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


@pytest.mark.parametrize("extra_body", [None, {}, {"retryCount": 1}])
def test_any_further_field_may_be_sent(extra_body: Mapping[str, Any] | None) -> None:
    check_extra_body(extra_body)


@pytest.mark.parametrize("extra_body", ["text", ["retryCount"], {"jobName": "other"}])
def test_the_name_is_not_a_further_field(extra_body: Any) -> None:
    with pytest.raises(ConfigurationError, match="extra_body must be a mapping of fields, without jobName"):
        check_extra_body(extra_body)

"""The platform's folders: their paths on the server and in a container."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.storage.paths import Folders, is_server_path, path_part

FOLDERS = Folders("_2f1fe8d0", "PengchengYang")


def test_server_and_container_paths_are_the_documents() -> None:
    assert FOLDERS.code("demo") == "/projects/_2f1fe8d0/demo/code"
    assert FOLDERS.outputs("demo") == "/projects/_2f1fe8d0/demo/outputs"
    assert FOLDERS.dataset("MNIST") == ("/datasets/_2f1fe8d0/MNIST", "/data/PengchengYang/MNIST")
    assert FOLDERS.model("dense") == ("/models/_2f1fe8d0/dense", "/model/PengchengYang/dense")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", ".git", "{user_id}"])
def test_a_name_that_would_be_another_folder_is_refused(name: str) -> None:
    for path_of in (FOLDERS.code, FOLDERS.outputs, FOLDERS.dataset, FOLDERS.model, FOLDERS.model_mount):
        with pytest.raises(ConfigurationError):
            path_of(name)


@pytest.mark.parametrize(
    ("model", "path", "mount_path"),
    [
        ("dense", "/models/_2f1fe8d0/dense", "/model/PengchengYang/dense"),
        ("/models/_2f1fe8d0/dense", "/models/_2f1fe8d0/dense", "/model/PengchengYang/dense"),
        (
            "/models/_2f1fe8d0/dense/20260101-abc-1",
            "/models/_2f1fe8d0/dense/20260101-abc-1",
            "/model/PengchengYang/dense",
        ),
        ("/models/other/dense/1", "/models/other/dense/1", "/model/PengchengYang/dense"),
    ],
)
def test_a_model_is_given_by_name_or_by_the_path_of_a_version(model: str, path: str, mount_path: str) -> None:
    assert FOLDERS.model_mount(model) == (path, mount_path)


@pytest.mark.parametrize("model", ["/models", "/models/u", "/datasets/u/m", "/models/u/../v/m", "/models/u/m/..", "/"])
def test_a_path_that_is_no_models_is_refused(model: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a model"):
        FOLDERS.model_mount(model)


def test_only_the_users_own_braces_are_filled() -> None:
    text = "{user_name}: ls /datasets/{user_id} ${user_id} | awk '{print $1}' > {project} {}"
    filled = "PengchengYang: ls /datasets/_2f1fe8d0 ${user_id} | awk '{print $1}' > {project} {}"
    assert FOLDERS.fill(text) == filled


@pytest.mark.parametrize("value", [None, 7, ["a"]])
def test_what_is_no_text_cannot_be_filled(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="Did the upstream task return no value"):
        FOLDERS.fill(value)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/projects/u/p/outputs/1", True),
        ("/datasets/u/MNIST", True),
        ("/models/u/m", True),
        ("/projects", False),
        ("/data/u/MNIST", False),
        ("projects/u", False),
        ("file:///projects/u", False),
        ("", False),
    ],
)
def test_which_paths_are_the_platforms(path: str, is_one: bool) -> None:
    assert is_server_path(path) is is_one


@pytest.mark.parametrize("value", ["MNIST", "dense-mnist_tf.v1", "数据", "7"])
def test_what_can_be_part_of_a_path(value: str) -> None:
    assert path_part("dataset", value) == value


@pytest.mark.parametrize("value", ["", ".", "..", ".hidden", "a/b", "a b", "a;rm", "$(x)", "a\n", "{user_id}"])
def test_what_cannot_be_part_of_a_path_is_named(value: str) -> None:
    with pytest.raises(ConfigurationError, match="dataset"):
        path_part("dataset", value)

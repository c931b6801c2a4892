"""The platform's folders, and reading what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.storage import Folders, Storage, is_server_path, path_part

FOLDERS = Folders("_2f1fe8d0", "PengchengYang")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Storage as workers see it, with one file in it."""
    root = tmp_path / "a mount with spaces"
    output = root / "projects/u/demo/outputs/1"
    output.mkdir(parents=True)
    (output / "evaluation_result.json").write_text('{"accuracy": 0.903}')
    (output / "broken.json").write_text('{"accuracy": ')
    (output / "binary.json").write_bytes(b"\xff\xfe\x00")
    (root / "secret").write_text("outside")
    return root


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


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_is_read_through_the_workers_view(root: Path, slash: str) -> None:
    storage = Storage(root.as_uri() + slash)
    assert storage.read_json("/projects/u/demo/outputs/1/evaluation_result.json") == {"accuracy": 0.903}
    assert storage.read_bytes("/projects/u/demo/outputs/1/broken.json") == b'{"accuracy": '


def test_a_plain_path_will_do_for_the_workers_view(root: Path) -> None:
    assert Storage(str(root)).read_json("/projects/u/demo/outputs/1/evaluation_result.json") == {"accuracy": 0.903}


def test_a_file_that_is_not_there_is_named_with_where_it_was_looked_for(root: Path) -> None:
    with pytest.raises(StorageError) as caught:
        Storage(root.as_uri()).read_bytes("/projects/u/demo/outputs/2/evaluation_result.json")
    message = str(caught.value)
    assert message.startswith("/projects/u/demo/outputs/2/evaluation_result.json does not exist")
    assert "a mount with spaces" in message
    assert "storage_uri" in message


def test_a_folder_cannot_be_read_as_a_file(root: Path) -> None:
    with pytest.raises(StorageError, match="/projects/u/demo/outputs/1"):
        Storage(root.as_uri()).read_bytes("/projects/u/demo/outputs/1")


def test_numbers_that_json_does_not_know_are_no_numbers(root: Path) -> None:
    (root / "projects/u/demo/outputs/1/odd.json").write_text('{"accuracy": NaN, "loss": -Infinity, "f1": 0.5}')
    read = Storage(root.as_uri()).read_json("/projects/u/demo/outputs/1/odd.json")
    assert read == {"accuracy": None, "loss": None, "f1": 0.5}


@pytest.mark.parametrize("name", ["broken.json", "binary.json"])
def test_a_file_that_is_not_json(root: Path, name: str) -> None:
    with pytest.raises(StorageError, match=f"{name} is not JSON"):
        Storage(root.as_uri()).read_json(f"/projects/u/demo/outputs/1/{name}")


@pytest.mark.parametrize("path", ["/secret", "/projects/../secret", "secret", "", "/projects", "file:///etc/passwd"])
def test_nothing_outside_the_platforms_folders_is_read(root: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match="is not below /projects, /datasets or /models"):
        Storage(root.as_uri()).read_bytes(path)


@pytest.mark.parametrize("value", ["MNIST", "dense-mnist_tf.v1", "数据", "7"])
def test_what_can_be_part_of_a_path(value: str) -> None:
    assert path_part("dataset", value) == value


@pytest.mark.parametrize("value", ["", ".", "..", ".hidden", "a/b", "a b", "a;rm", "$(x)", "a\n", "{user_id}"])
def test_what_cannot_be_part_of_a_path_is_named(value: str) -> None:
    with pytest.raises(ConfigurationError, match="dataset"):
        path_part("dataset", value)

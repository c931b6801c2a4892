"""The platform's folders, and reading what is in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import attach

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.storage import Folders, Storage, is_server_path, path_part, read_anywhere

FOLDERS = Folders("_2f1fe8d0", "PengchengYang")


def read_bytes(storage: Storage, path: str, limit: int = 1000) -> bytes:
    return storage.read_bytes("result_file", path, limit)


def read_json(storage: Storage, path: str, limit: int = 1000) -> Any:
    return storage.read_json("result_file", path, limit)


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
    assert read_json(storage, "/projects/u/demo/outputs/1/evaluation_result.json") == {"accuracy": 0.903}
    assert read_bytes(storage, "/projects/u/demo/outputs/1/broken.json") == b'{"accuracy": '


def test_a_plain_path_will_do_for_the_workers_view(root: Path) -> None:
    assert read_json(Storage(str(root)), "/projects/u/demo/outputs/1/evaluation_result.json") == {"accuracy": 0.903}


def test_a_file_that_is_not_there_is_named_with_where_it_was_looked_for(root: Path) -> None:
    with pytest.raises(StorageError) as caught:
        read_bytes(Storage(root.as_uri()), "/projects/u/demo/outputs/2/evaluation_result.json")
    message = str(caught.value)
    assert message.startswith("result_file: /projects/u/demo/outputs/2/evaluation_result.json does not exist")
    assert "Its folder does not exist" in message
    assert "a mount with spaces" in message
    assert "storage_uri" in message


def test_a_missing_file_is_told_with_what_its_folder_holds(root: Path) -> None:
    says = "does not exist .* Its folder contains 'binary.json', 'broken.json', 'evaluation_result.json'. "
    with pytest.raises(StorageError, match=says):
        read_bytes(Storage(root.as_uri()), "/projects/u/demo/outputs/1/other.json")
    for number in range(20):
        (root / f"projects/u/demo/outputs/1/{number}").touch()
    with pytest.raises(StorageError, match=r"Its folder contains ('[^ ]+', ){9}'[^ ]+' and more\. "):
        read_bytes(Storage(root.as_uri()), "/projects/u/demo/outputs/1/other.json")


def test_a_file_is_read_up_to_a_limit(root: Path) -> None:
    path = "/projects/u/demo/outputs/1/evaluation_result.json"
    assert len(read_bytes(Storage(root.as_uri()), path, 19)) == 19
    with pytest.raises(StorageError, match=f"result_file: {path} cannot be read: its size is 19 bytes, .* limit is 18"):
        read_bytes(Storage(root.as_uri()), path, 18)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("ln -s $1/metrics.json evaluation_result.json", "is a link"),
        ("ln -s best.json evaluation_result.json; echo {} > best.json", "is a link"),
        ("ln -s $1/none evaluation_result.json", "is a link"),
        ("ln -s /dev/zero evaluation_result.json", "is a link"),
        ("cp $1/metrics.json $1/evaluation_result.json; cd ..; rmdir 1; ln -s $1 1", "'1' is a link"),
        (
            "mkdir $1/1; cp $1/metrics.json $1/1/evaluation_result.json; cd ../..; rm -r outputs; ln -s $1 outputs",
            "'outputs' is a link",
        ),
        ("mkfifo evaluation_result.json", "is not a regular file"),
        ("mkdir evaluation_result.json", "is not a regular file"),
    ],
)
def test_only_regular_files_of_the_storage_are_read(command: str, says: str, tmp_path: Path) -> None:
    output, outside = tmp_path / "storage/projects/u/demo/outputs/1", tmp_path / "outside"
    output.mkdir(parents=True)
    outside.mkdir()
    (outside / "metrics.json").write_text("{}")
    subprocess.run(["sh", "-c", f"set -e; {command}", "sh", str(outside)], cwd=output, check=True)
    with pytest.raises(StorageError, match=rf"result_file: .*/evaluation_result\.json cannot be read: .*{says}"):
        read_bytes(Storage((tmp_path / "storage").as_uri()), "/projects/u/demo/outputs/1/evaluation_result.json")


def test_the_storage_itself_and_its_areas_may_be_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/projects").symlink_to(root / "projects")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    path = "/projects/u/demo/outputs/1/evaluation_result.json"
    assert read_json(Storage((tmp_path / "link").as_uri()), path) == {"accuracy": 0.903}


def test_an_object_store_is_read_up_to_a_limit_too() -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")  # comes with Airflow
    attach(protocol="memory", fs=memory.MemoryFileSystem())
    storage = Storage("memory://bucket/bitahub")
    path = storage.path("/projects/u/demo/outputs/1/m.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"a": 1}')
    assert read_json(storage, "/projects/u/demo/outputs/1/m.json", 8) == {"a": 1}
    with pytest.raises(StorageError, match="its size is 8 bytes, and the limit is 7"):
        read_json(storage, "/projects/u/demo/outputs/1/m.json", 7)
    with pytest.raises(StorageError, match=r"does not exist .*Its folder contains 'm\.json'\."):
        read_json(storage, "/projects/u/demo/outputs/1/n.json")


@pytest.mark.parametrize("where", ["{}", "file://{}"])
def test_a_file_anywhere_is_read_up_to_a_limit(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345678")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    assert read_anywhere("image_file", where.format(tmp_path / "link"), 8) == b"12345678"
    for name, limit, says in (
        ("file", 7, "cannot be read: its size is 8 bytes"),
        ("fifo", 7, "cannot be read: it is not a regular file"),
        ("none", 7, "does not exist"),
    ):
        with pytest.raises(StorageError, match=f"image_file: .*/{name} {says}"):
            read_anywhere("image_file", where.format(tmp_path / name), limit)


def test_a_folder_cannot_be_read_as_a_file(root: Path) -> None:
    with pytest.raises(StorageError, match="/projects/u/demo/outputs/1"):
        read_bytes(Storage(root.as_uri()), "/projects/u/demo/outputs/1")


def test_numbers_that_json_does_not_know_are_no_numbers(root: Path) -> None:
    (root / "projects/u/demo/outputs/1/odd.json").write_text('{"accuracy": NaN, "loss": -Infinity, "f1": 0.5}')
    read = read_json(Storage(root.as_uri()), "/projects/u/demo/outputs/1/odd.json")
    assert read == {"accuracy": None, "loss": None, "f1": 0.5}


@pytest.mark.parametrize("name", ["broken.json", "binary.json"])
def test_a_file_that_is_not_json(root: Path, name: str) -> None:
    with pytest.raises(StorageError, match=f"{name} is not JSON"):
        read_json(Storage(root.as_uri()), f"/projects/u/demo/outputs/1/{name}")


@pytest.mark.parametrize("path", ["/secret", "/projects/../secret", "secret", "", "/projects", "file:///etc/passwd"])
def test_nothing_outside_the_platforms_folders_is_read(root: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match="is not below /projects, /datasets or /models"):
        read_bytes(Storage(root.as_uri()), path)


@pytest.mark.parametrize("value", ["MNIST", "dense-mnist_tf.v1", "数据", "7"])
def test_what_can_be_part_of_a_path(value: str) -> None:
    assert path_part("dataset", value) == value


@pytest.mark.parametrize("value", ["", ".", "..", ".hidden", "a/b", "a b", "a;rm", "$(x)", "a\n", "{user_id}"])
def test_what_cannot_be_part_of_a_path_is_named(value: str) -> None:
    with pytest.raises(ConfigurationError, match="dataset"):
        path_part("dataset", value)

"""Reading and writing the platform's files."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import attach

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.storage.files import Entry, NewFile
from airflow_bitahub.storage.storage import Storage, read_anywhere


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


def test_an_object_store_is_read_up_to_a_limit_too(bucket: str) -> None:
    storage = Storage(f"{bucket}/{secrets.token_hex(4)}")
    storage.write_bytes("code", "/projects/u/demo/outputs/1/m.json", b'{"a": 1}')
    assert read_json(storage, "/projects/u/demo/outputs/1/m.json", 8) == {"a": 1}
    with pytest.raises(StorageError, match="its size is 8 bytes, and the limit is 7"):
        read_json(storage, "/projects/u/demo/outputs/1/m.json", 7)
    with pytest.raises(StorageError, match=r"does not exist .*Its folder contains 'm\.json'\."):
        read_json(storage, "/projects/u/demo/outputs/1/n.json")
    with pytest.raises(StorageError, match="is not a regular file"):
        read_json(storage, "/projects/u/demo/outputs/1")
    with pytest.raises(StorageError, match="it is a file"):
        storage.list_folder("code", "/projects/u/demo/outputs/1/m.json")


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


def mounted(folder: Path) -> Path:
    for area in ("projects", "datasets", "models"):
        (folder / area).mkdir()
    return folder


@pytest.fixture(params=["file system", "object store"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Storage of every kind, empty."""
    if request.param == "file system":
        return Storage(mounted(tmp_path).as_uri())
    return Storage(f"{request.getfixturevalue('bucket')}/{secrets.token_hex(4)}")


def test_what_others_write_is_seen_at_once(anywhere: Storage, bucket: str) -> None:
    other = Storage(anywhere.uri.replace(bucket, bucket.replace("aws_test", "aws_other")))
    for content in (b"old", b"newer"):
        other.write_bytes("code", f"/models/u/dense/dense/{content.decode()}", content)
        other.write_bytes("code", "/models/u/dense/dense/a", content)
        assert read_bytes(anywhere, "/models/u/dense/dense/a") == content
        names = [entry.name for entry in anywhere.list_folder("code", "/models/u/dense/dense") or ()]
        assert content.decode() in names
    assert anywhere.list_folder("code", "/models/u/dense") == [Entry("dense", is_folder=True)]


def test_a_large_folder_is_listed_only_in_part(bucket: str) -> None:
    storage = Storage(f"{bucket}/{secrets.token_hex(4)}")
    for number in range(30):
        storage.write_bytes("code", f"/datasets/u/d/{number}", b"")
    listed = storage.path("/datasets/u/d").fs
    assert len(storage.list_folder("code", "/datasets/u/d", limit=5) or ()) == 5
    assert len(listed.dircache[storage.path("/datasets/u/d").path]) < 30
    assert len(storage.list_folder("code", "/datasets/u/d") or ()) == 30


def test_a_bucket_that_does_not_exist_is_named(bucket: str) -> None:
    storage = Storage(f"{bucket}-misspelt/bitahub")
    says = "the bucket of storage_uri, '.*-misspelt', does not exist"
    with pytest.raises(StorageError, match=says):
        storage.list_folder("datasets", "/datasets/u")
    with pytest.raises(StorageError, match=says):
        read_bytes(storage, "/projects/u/a.txt")
    with pytest.raises(StorageError, match=says):
        storage.write_bytes("code", "/projects/u/a.txt", b"")
    assert not storage.path("/projects/u").fs.exists(f"{bucket.rpartition('@')[2]}-misspelt"), "no bucket was made"


def test_an_airflow_connection_has_the_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("airflow.providers.amazon.aws.hooks.s3", reason="its provider has many dependencies")
    endpoint = attach(protocol="s3", conn_id="aws_test").fs.endpoint_url
    connection = {"conn_type": "aws", "login": "any", "password": "any-secret", "extra": {"endpoint_url": endpoint}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_REAL", json.dumps(connection))
    storage = Storage(f"{bucket.replace('aws_test', 'aws_real')}/{secrets.token_hex(4)}")
    storage.write_bytes("code", "/projects/u/a.txt", b"content")
    assert read_bytes(storage, "/projects/u/a.txt") == b"content"


def test_a_scheme_that_no_provider_knows_is_told_with_what_to_install() -> None:
    with pytest.raises(
        ConfigurationError, match=r"nosuch://, which this Airflow cannot open: .*providers-amazon\[s3fs\]"
    ):
        Storage("nosuch://bucket").list_folder("code", "/projects/u")


def test_what_was_written_is_read_listed_and_removed(anywhere: Storage) -> None:
    folder = "/projects/u/demo/new"
    assert anywhere.list_folder("code", folder) is None
    for content in (b"old", b"newer"):
        anywhere.write_bytes("code", f"{folder}/a.txt", content)
    anywhere.write_bytes("code", f"{folder}/inner/b.txt", b"")
    assert read_bytes(anywhere, f"{folder}/a.txt") == b"newer"
    assert anywhere.list_folder("code", folder) == [
        Entry("a.txt", is_folder=False, size=5),
        Entry("inner", is_folder=True),
    ]
    assert len(anywhere.list_folder("code", folder, limit=1) or ()) == 1
    anywhere.remove("code", f"{folder}/a.txt")
    anywhere.remove("code", f"{folder}/a.txt")
    assert anywhere.list_folder("code", folder) == [Entry("inner", is_folder=True)]
    anywhere.remove("code", folder)
    assert anywhere.list_folder("code", folder) is None


def test_files_and_folders_are_looked_up(anywhere: Storage) -> None:
    assert anywhere.list_folder("model", "/models/", 1) in (None, [])
    anywhere.write_bytes("model", "/models/u/dense/v1/weights", b"1")
    places = ("/models/u", "/models/u/dense/v1", "/models/u/dense/v1/weights", "/models/u/dense/v", "/projects/u")
    assert [anywhere.has("model", place) for place in places] == [True, True, True, False, False]
    assert anywhere.list_folder("model", "/models/", 1) == [Entry("u", is_folder=True)]


def test_a_folder_is_created_once(anywhere: Storage, tmp_path: Path) -> None:
    folder = "/projects/u/demo/code-1"
    (tmp_path / "program").write_bytes(b"local")
    files = [NewFile("src/run.sh", tmp_path / "program", is_executable=True), NewFile("a.txt", b"given")]
    assert anywhere.create_folder("code", folder, files)
    assert not anywhere.create_folder("code", folder, [NewFile("src/run.sh", b"other"), NewFile("a.txt", b"other")])
    assert read_bytes(anywhere, f"{folder}/src/run.sh") == b"local"
    assert read_bytes(anywhere, f"{folder}/a.txt") == b"given"
    assert [entry.name for entry in anywhere.list_folder("code", "/projects/u/demo") or ()] == ["code-1"]


def test_a_folder_that_cannot_be_completed_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage(mounted(tmp_path).as_uri())
    files = [NewFile("a.txt", b"given"), NewFile("b.txt", tmp_path / "none")]
    with pytest.raises(StorageError, match=r"code: /projects/u/demo/code-1 cannot be written: .*none"):
        storage.create_folder("code", "/projects/u/demo/code-1", files)
    assert storage.list_folder("code", "/projects/u/demo") == []


def test_a_program_stays_executable(tmp_path: Path) -> None:
    files = [NewFile("run.sh", b"", is_executable=True), NewFile("data", b"")]
    Storage(mounted(tmp_path).as_uri()).create_folder("code", "/projects/u/code", files)
    assert [os.access(tmp_path / "projects/u/code" / name, os.X_OK) for name in ("run.sh", "data")] == [True, False]


@pytest.mark.parametrize("link", ["projects/u/demo", "projects/u"])
def test_nothing_is_written_listed_or_removed_through_a_link(link: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "demo").mkdir(parents=True)
    (outside / "kept").touch()
    place = tmp_path / "storage" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    storage = Storage((tmp_path / "storage").as_uri())
    for attempt in (
        lambda: storage.write_bytes("code", "/projects/u/demo/a.txt", b""),
        lambda: storage.create_folder("code", "/projects/u/demo/new", [NewFile("a.txt", b"")]),
        lambda: storage.list_folder("code", "/projects/u/demo"),
        lambda: storage.remove("code", "/projects/u/demo/kept"),
    ):
        with pytest.raises(StorageError, match="is a link"):
            attempt()
    assert sorted(str(path.relative_to(outside)) for path in outside.rglob("*")) == ["demo", "kept"]


def test_removing_a_folder_leaves_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    folder = tmp_path / "storage/projects/u/demo"
    folder.mkdir(parents=True)
    (folder / "file").symlink_to(tmp_path / "kept")
    (folder / "folder").symlink_to(tmp_path)
    Storage((tmp_path / "storage").as_uri()).remove("code", "/projects/u/demo")
    assert not folder.exists()
    assert (tmp_path / "kept").exists()


def test_nothing_is_written_into_an_empty_mount_point(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no folder 'projects'"):
        Storage(tmp_path.as_uri()).create_folder("code", "/projects/u/demo/code-1", [NewFile("a.txt", b"")])
    assert not list(tmp_path.iterdir())


def test_a_storage_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    storage = Storage((tmp_path / "none").as_uri())
    says = "the folder of storage_uri, .*/none, does not exist on this machine"
    with pytest.raises(StorageError, match=says):
        storage.write_bytes("code", "/projects/u/a.txt", b"")
    with pytest.raises(StorageError, match=says):
        storage.list_folder("code", "/projects/u")

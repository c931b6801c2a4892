from __future__ import annotations

from pathlib import Path

import pytest

from airflow_bitahub.emulator.mounts.shared_storage import SharedStorage
from airflow_bitahub.emulator.state.errors import InvalidRequest


@pytest.fixture
def storage(tmp_path: Path) -> SharedStorage:
    return SharedStorage(tmp_path / "root")


def test_areas_are_made(storage: SharedStorage) -> None:
    assert sorted(place.name for place in storage.root.iterdir()) == ["datasets", "models", "projects"]


def test_locate(storage: SharedStorage) -> None:
    assert storage.locate("/datasets/u/MNIST/") == storage.root / "datasets/u/MNIST"


@pytest.mark.parametrize(
    "path",
    ["/", "/datasets", "/datasets/", "/etc/passwd", "datasets/u", "//datasets/u", "/datasets/../../x", "/datasets/..",
     "/projects/u/../../../x", "/datasets/a\0b", "/datasets/" + "x" * 5000, "", "/Datasets/u"],
)  # fmt: skip
def test_refused_paths(storage: SharedStorage, path: str) -> None:
    with pytest.raises(InvalidRequest):
        storage.locate_input("dataset", path)


def test_links_out_of_the_root_are_refused(storage: SharedStorage, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (storage.root / "datasets" / "out").symlink_to(tmp_path)
    (storage.root / "datasets" / "up").symlink_to("../..")
    (storage.root / "datasets" / "circle").symlink_to("circle")
    for path in ("/datasets/out", "/datasets/out/secret", "/datasets/up/secret", "/datasets/circle"):
        with pytest.raises(InvalidRequest):
            storage.locate_input("dataset", path)
        with pytest.raises(InvalidRequest):
            storage.locate_output(path + "/new")
    assert not (tmp_path / "new").exists()


def test_links_inside_are_followed(storage: SharedStorage) -> None:
    (storage.root / "models" / "v1").mkdir()
    (storage.root / "models" / "latest").symlink_to("v1")
    assert storage.locate_input("model", "/models/latest") == storage.root / "models/v1"


def test_inputs_must_exist_and_outputs_are_made(storage: SharedStorage) -> None:
    with pytest.raises(InvalidRequest, match="dataset '/datasets/u/X' does not exist"):
        storage.locate_input("dataset", "/datasets/u/X")
    storage.locate_output("/datasets/u/X")
    assert storage.locate_input("dataset", "/datasets/u/X").is_dir()
    (storage.root / "models" / "file").write_text("")
    with pytest.raises(InvalidRequest, match="contains a file"):
        storage.locate_output("/models/file")

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_bitahub.emulator.mounts.shared_storage import Storage
from airflow_bitahub.emulator.state.errors import Invalid


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "root")


def test_areas_are_made(storage: Storage) -> None:
    assert sorted(place.name for place in storage.root.iterdir()) == ["datasets", "models", "projects"]


def test_locate(storage: Storage) -> None:
    assert storage.locate("/datasets/u/MNIST/") == storage.root / "datasets/u/MNIST"


@pytest.mark.parametrize(
    "path",
    ["/", "/datasets", "/datasets/", "/etc/passwd", "datasets/u", "//datasets/u", "/datasets/../../x", "/datasets/..",
     "/projects/u/../../../x", "/datasets/a\0b", "/datasets/" + "x" * 5000, "", "/Datasets/u"],
)  # fmt: skip
def test_refused_paths(storage: Storage, path: str) -> None:
    with pytest.raises(Invalid):
        storage.locate_input("dataset", path)


def test_links_out_of_the_root_are_refused(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (storage.root / "datasets" / "out").symlink_to(tmp_path)
    (storage.root / "datasets" / "up").symlink_to("../..")
    (storage.root / "datasets" / "circle").symlink_to("circle")
    for path in ("/datasets/out", "/datasets/out/secret", "/datasets/up/secret", "/datasets/circle"):
        with pytest.raises(Invalid):
            storage.locate_input("dataset", path)
        with pytest.raises(Invalid):
            storage.locate_output(path + "/new")
    assert not (tmp_path / "new").exists()


def test_links_inside_are_followed(storage: Storage) -> None:
    (storage.root / "models" / "v1").mkdir()
    (storage.root / "models" / "latest").symlink_to("v1")
    assert storage.locate_input("model", "/models/latest") == storage.root / "models/v1"


def test_inputs_must_exist_and_outputs_are_made(storage: Storage) -> None:
    with pytest.raises(Invalid, match="dataset '/datasets/u/X' does not exist"):
        storage.locate_input("dataset", "/datasets/u/X")
    storage.locate_output("/datasets/u/X")
    assert storage.locate_input("dataset", "/datasets/u/X").is_dir()
    (storage.root / "models" / "file").write_text("")
    with pytest.raises(Invalid, match="cannot be made"):
        storage.locate_output("/models/file")

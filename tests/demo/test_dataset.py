"""The demo's dataset folder, from each of its sources."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from airflow_bitahub.demo import dataset

NAMES = sorted(dataset.SHA256)
LABELS = "t10k-labels-idx1-ubyte.gz"


def idx_labels(labels: bytes, count: int | None = None) -> bytes:
    return gzip.compress(b"\0\0\x08\x01" + (len(labels) if count is None else count).to_bytes(4, "big") + labels)


def read(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = gzip.decompress((folder / "mnist" / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "mnist" / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dataset.Dataset:
    return dataset.prepare(tmp_path_factory.mktemp("digits"), cache=tmp_path_factory.mktemp("cache"), mirrors=())


@pytest.fixture
def given(digits: dataset.Dataset, tmp_path: Path) -> Path:
    """Return a folder of the user's with the four files."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes((digits.folder / "mnist" / name).read_bytes())
    return folder


@pytest.fixture
def mirror(given: Path) -> Iterator[str]:
    """Return the address of a web server with the four files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=given)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def closed() -> Iterator[str]:
    """Return an address where no server listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_digits_without_network(digits: dataset.Dataset) -> None:
    assert digits.source == "scikit-learn digits"
    assert (digits.train_count, digits.test_count) == (1437, 360)
    sample = ["sample/labels.csv", *(f"sample/{digit}-{number}.png" for digit in range(10) for number in range(1, 6))]
    assert sorted(contents(digits.folder)) == sorted(["digit-7.png", *(f"mnist/{name}" for name in NAMES), *sample])
    for part, count in (("train", 1437), ("t10k", 360)):
        images, labels = read(digits.folder, part)
        assert len(images) == len(labels) == count
        assert set(labels) == set(range(10))
        assert images.max() > 200
        assert not images[:, :4].any()


def test_pictures_are_of_the_test_set_and_have_its_labels(digits: dataset.Dataset) -> None:
    images, labels = read(digits.folder, "t10k")
    assert digits.picture == digits.folder / "digit-7.png"
    head, *rows = (digits.sample / "labels.csv").read_text().splitlines()
    assert head == "file,label"
    assert len(rows) == 50
    for file, label in [(digits.picture, 7), *((digits.sample / row[:-2], int(row[-1])) for row in rows)]:
        picture = Image.open(file)
        assert (picture.size, picture.mode, picture.format) == ((28, 28), "L", "PNG")
        assert any((image == np.asarray(picture)).all() for image in images[labels == label])


def test_running_again_changes_nothing_and_repairs(digits: dataset.Dataset, tmp_path: Path) -> None:
    first = dataset.prepare(tmp_path, cache=tmp_path / "cache", mirrors=())
    assert contents(tmp_path) == contents(digits.folder)
    (tmp_path / "mnist" / NAMES[0]).write_bytes(b"half a fi")
    first.picture.unlink()
    (first.sample / "0-1.png").unlink()
    untouched = (tmp_path / "mnist" / NAMES[1]).stat().st_mtime_ns
    assert dataset.prepare(tmp_path, cache=tmp_path / "cache", mirrors=()) == first
    assert contents(tmp_path) == contents(digits.folder)
    assert (tmp_path / "mnist" / NAMES[1]).stat().st_mtime_ns == untouched


@pytest.mark.parametrize("nested", [False, True])
def test_given_files(digits: dataset.Dataset, given: Path, tmp_path: Path, nested: bool) -> None:
    if nested:
        (tmp_path / "outer").mkdir()
        given = given.rename(tmp_path / "outer" / "mnist").parent
    prepared = dataset.prepare(tmp_path / "folder", given, cache=tmp_path / "cache")
    assert prepared.source == "given files"
    assert contents(prepared.folder) == contents(digits.folder)


def test_given_files_may_be_the_folder_itself(digits: dataset.Dataset, tmp_path: Path) -> None:
    dataset.prepare(tmp_path, cache=tmp_path / "cache", mirrors=())
    assert dataset.prepare(tmp_path, tmp_path, cache=tmp_path / "cache").source == "given files"
    assert contents(tmp_path) == contents(digits.folder)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        pytest.param("train-images-idx3-ubyte.gz", None, "is missing", id="missing"),
        pytest.param("train-images-idx3-ubyte.gz", b"hello", "not a complete gzip file", id="no gzip"),
        pytest.param(LABELS, gzip.compress(bytes(100))[:-9], "not a complete gzip file", id="cut off"),
        pytest.param(LABELS, gzip.compress(b"hello"), "not an idx1 file", id="no idx"),
        pytest.param(LABELS, idx_labels(b"\7")[:-1], "not a complete gzip file", id="cut off at the end"),
        pytest.param(LABELS, idx_labels(b"\7"), "360 pictures but", id="too few labels"),
        pytest.param(LABELS, idx_labels(b"\7", count=2), "fewer or more bytes", id="wrong header"),
        pytest.param(LABELS, idx_labels(bytes(360)), "labels 0 to 9", id="zeros only"),
    ],
)
def test_broken_given_files(given: Path, tmp_path: Path, name: str, content: bytes | None, complaint: str) -> None:
    (given / name).unlink()
    if content is not None:
        (given / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        dataset.prepare(tmp_path / "folder", given, cache=tmp_path / "cache")
    assert name in str(caught.value)
    assert not (tmp_path / "folder").exists()


def test_given_folder_without_any_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the MNIST files"):
        dataset.prepare(tmp_path / "folder", tmp_path, cache=tmp_path / "cache")


def test_wrong_checksum_falls_back_to_digits(mirror: str, tmp_path: Path) -> None:
    prepared = dataset.prepare(tmp_path / "folder", cache=tmp_path / "cache", mirrors=[mirror])
    assert prepared.source == "scikit-learn digits"
    assert not (tmp_path / "cache").exists()


def test_download_and_cache(given: Path, mirror: str, closed: str, tmp_path: Path) -> None:
    checksums = {name: hashlib.sha256((given / name).read_bytes()).hexdigest() for name in NAMES}
    files = dataset.download(tmp_path / "cache", [closed, mirror], checksums)
    assert files == {name: (given / name).read_bytes() for name in NAMES}
    assert dataset.download(tmp_path / "cache", [], checksums) == files

    (tmp_path / "cache" / NAMES[0]).write_bytes(b"broken")
    assert dataset.download(tmp_path / "cache", [], checksums) is None
    assert dataset.download(tmp_path / "cache", [mirror], checksums) == files


def test_mirror_that_never_answers_is_given_up_quickly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        prepared = dataset.prepare(tmp_path / "folder", cache=tmp_path / "cache", mirrors=[address])
        assert time.monotonic() - started < 20
    assert prepared.source == "scikit-learn digits"

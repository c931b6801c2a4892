"""The demo's dataset folder: handwritten digits in MNIST's file format.

The sources, best first: the user's files, MNIST from a public mirror, and the small set of handwritten digits that
comes with scikit-learn and needs no network.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import math
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

__all__ = ["MIRRORS", "SHA256", "Dataset", "download", "prepare"]

log = logging.getLogger(__name__)

Source = Literal["given files", "downloaded MNIST", "scikit-learn digits"]

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist",
)

# Smallest first, so a mirror with other files is recognized early.
SHA256 = {
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
}

_DIGIT = 7  # in the single picture
_PICTURES_PER_DIGIT = 5  # of the sample

_ANSWER_SECONDS = 4.0
_FILE_SECONDS = 90.0
_FILE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset folder: the source and number of its pictures.

    :param picture: a picture of a 7
    :param sample: the folder with some pictures of the test set, and with their labels in ``labels.csv``
    """

    folder: Path
    source: Source
    train_count: int
    test_count: int
    picture: Path
    sample: Path


def prepare(folder: Path, mnist: Path | None = None, *, cache: Path, mirrors: Iterable[str] = MIRRORS) -> Dataset:
    """Write `mnist/*.gz`, a picture and a labelled sample to `folder`, and return the dataset.

    Running it again changes nothing.

    :param mnist: a folder that contains the four MNIST files, or a folder `mnist` with them; None: download them
    :param cache: the folder for downloaded files
    :param mirrors: addresses to download from, tried in order; empty: do not use the network
    :raises ValueError: the files in `mnist` are missing or broken
    """
    source: Source
    if mnist is not None:
        source, files = "given files", _read_given(mnist)
    elif downloaded := download(cache, mirrors):
        source, files = "downloaded MNIST", downloaded
    else:
        source, files = "scikit-learn digits", _digits()

    train_images, _ = _read_pair(files, "train")
    test_images, test_labels = _read_pair(files, "t10k")
    picture, sample = folder / f"digit-{_DIGIT}.png", folder / "sample"
    for name, content in files.items():
        _write(folder / "mnist" / name, content)
    _write(picture, _png(_typical(test_images, test_labels, _DIGIT)))
    for name, content in _sample(test_images, test_labels).items():
        _write(sample / name, content)
    return Dataset(folder, source, len(train_images), len(test_images), picture, sample)


def download(
    cache: Path, mirrors: Iterable[str] = MIRRORS, checksums: Mapping[str, str] = SHA256
) -> dict[str, bytes] | None:
    """Return the files named in `checksums`, from `cache` or a mirror; None when they cannot be downloaded."""
    files = {name: _cached(cache / name, checksum) for name, checksum in checksums.items()}
    for mirror in mirrors:
        try:
            for name in (name for name, content in files.items() if content is None):
                log.info("Downloading %s from %s", name, mirror)
                content = _fetch(f"{mirror}/{name}")
                if hashlib.sha256(content).hexdigest() != checksums[name]:
                    raise ValueError(f"{name} has a wrong checksum")
                _write(cache / name, content)
                files[name] = content
        except (OSError, ValueError) as error:
            log.info("Could not download MNIST from %s: %s", mirror, error)
        else:
            break
    complete = {name: content for name, content in files.items() if content is not None}
    return complete if len(complete) == len(checksums) else None


def _cached(path: Path, checksum: str) -> bytes | None:
    content = path.read_bytes() if path.is_file() else b""
    return content if hashlib.sha256(content).hexdigest() == checksum else None


def _fetch(url: str) -> bytes:
    """Return the content at `url`; raise OSError if that fails or takes too long."""
    answered = threading.Event()
    outcome: list[bytes | Exception] = []

    def work() -> None:
        try:
            content = bytearray()
            with httpx.stream("GET", url, timeout=_ANSWER_SECONDS, follow_redirects=True) as response:
                answered.set()
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _FILE_BYTES:
                        raise ValueError("the file is too large")
            outcome.append(bytes(content))
        except Exception as error:  # reported by the calling thread
            outcome.append(error)
        answered.set()

    # httpx does not limit the time of the name lookup, which can take half a minute without a network.
    thread = threading.Thread(target=work, name="mnist-download", daemon=True)
    thread.start()
    if answered.wait(_ANSWER_SECONDS):
        thread.join(_FILE_SECONDS)
    if not outcome:
        raise TimeoutError("the download took too long")
    if isinstance(outcome[0], Exception):
        raise ConnectionError(str(outcome[0])) from outcome[0]
    return outcome[0]


def _read_given(mnist: Path) -> dict[str, bytes]:
    """Return the user's files, from `mnist` itself or its folder `mnist`."""
    places = (mnist, mnist / "mnist")
    folder = next((place for place in places if any((place / name).is_file() for name in SHA256)), None)
    if folder is None:
        raise ValueError(f"{mnist} has none of the MNIST files ({', '.join(sorted(SHA256))}).")
    files = {}
    for name in SHA256:
        try:
            files[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            raise ValueError(f"{folder / name} is missing.") from None
        except OSError as error:
            raise ValueError(f"{folder / name} cannot be read: {error.strerror}.") from None
    for part in ("train", "t10k"):
        try:
            _read_pair(files, part)
        except ValueError as error:
            raise ValueError(f"In {folder}, {error}") from None
    return files


def _digits() -> dict[str, bytes]:
    """Return the four files, made from scikit-learn's 8x8 digits; four fifths are for training."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    digits = load_digits()
    images = np.zeros((len(digits.images), 28, 28), np.uint8)
    for picture, small in zip(images, digits.images, strict=True):
        # As in MNIST, the digit fills 20x20 pixels inside a dark border of 4 pixels.
        enlarged = Image.fromarray((small * (255 / 16)).astype(np.uint8)).resize((20, 20), Image.Resampling.BICUBIC)
        picture[4:24, 4:24] = np.asarray(enlarged)
    labels = digits.target.astype(np.uint8)

    # Not default_rng: only RandomState guarantees the same sequence in every version of numpy.
    order = np.random.RandomState(0).permutation(len(labels))
    split = len(labels) * 4 // 5
    files = {}
    for part, chosen in (("train", order[:split]), ("t10k", order[split:])):
        files[f"{part}-images-idx3-ubyte.gz"] = _idx(images[chosen])
        files[f"{part}-labels-idx1-ubyte.gz"] = _idx(labels[chosen])
    return files


def _idx(array: Bytes) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def _read_pair(files: Mapping[str, bytes], part: str) -> tuple[Bytes, Bytes]:
    """Return the pictures and labels of `part`, ``train`` or ``t10k``. Raises ValueError when a file is broken."""
    images_name, labels_name = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
    images, labels = _read_idx(images_name, files[images_name], 3), _read_idx(labels_name, files[labels_name], 1)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{images_name} contains pictures that are not 28x28 pixels.")
    if len(images) != len(labels):
        raise ValueError(f"{images_name} has {len(images)} pictures but {labels_name} has {len(labels)} labels.")
    if set(labels.tolist()) != set(range(10)):
        raise ValueError(f"{labels_name} must contain each of the labels 0 to 9, and no others.")
    return images, labels


def _read_idx(name: str, content: bytes, dimensions: int) -> Bytes:
    import numpy as np

    try:
        data = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name} is not a complete gzip file: {error}.") from None
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{name} is not an idx{dimensions} file of bytes.")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise ValueError(f"{name} has fewer or more bytes than its header says.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _typical(images: Bytes, labels: Bytes, label: int) -> Bytes:
    """Return the picture that is nearest to the mean of its label, since almost any model recognizes it."""
    chosen = images[labels == label].astype(float)
    distances = ((chosen - chosen.mean(axis=0)) ** 2).sum(axis=(1, 2))
    typical: Bytes = images[labels == label][distances.argmin()]
    return typical


def _sample(images: Bytes, labels: Bytes) -> dict[str, bytes]:
    """Return the files of a labelled sample: the first pictures of each digit, and their labels as CSV."""
    files, lines = {}, ["file,label"]
    for digit in range(10):
        for number, picture in enumerate(images[labels == digit][:_PICTURES_PER_DIGIT], 1):
            name = f"{digit}-{number}.png"
            files[name] = _png(picture)
            lines.append(f"{name},{digit}")
    files["labels.csv"] = "".join(f"{line}\n" for line in lines).encode()
    return files


def _png(picture: Bytes) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step, unless the file already has this content."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

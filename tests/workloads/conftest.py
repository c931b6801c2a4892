"""An emulator that runs real TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_bitahub.demo import dataset, platform
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.examples import examples_folder


@pytest.fixture(scope="module")
def mnist_emulator(tmp_path_factory: pytest.TempPathFactory, image_cache: Path) -> Iterator[Emulator]:
    """An emulator with the demo's images, programs and dataset."""
    root = tmp_path_factory.mktemp("mnist")
    with Emulator(root / "emulator", image_cache=image_cache) as emulator:
        platform.upload_programs(emulator.storage, examples_folder() / "workloads")
        folder = platform.server_folder(emulator.storage, platform.FOLDERS.dataset("MNIST")[0])
        dataset.prepare(folder, cache=root / "downloads", mirrors=())
        yield emulator

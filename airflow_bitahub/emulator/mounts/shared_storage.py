"""The platform's shared storage: one folder with ``projects/``, ``datasets/`` and ``models/``."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from airflow_bitahub.emulator.mounts.handles import open_without_links
from airflow_bitahub.emulator.state.errors import InvalidRequest

AREAS = ("projects", "datasets", "models")


class SharedStorage:
    """Maps server paths such as ``/datasets/u/MNIST`` to places below `root`, and to no place outside it.

    :param root: created, with its three areas, if it does not exist
    """

    def __init__(self, root: Path) -> None:
        for area in AREAS:
            (root / area).mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()

    def locate(self, path: str) -> Path:
        """Return the place of a server path, which need not exist.

        :raises InvalidRequest: it is not below one of the areas, or a link leads out of the storage
        """
        parts = PurePosixPath(path).parts
        if len(parts) < 3 or parts[0] != "/" or parts[1] not in AREAS or ".." in parts:
            raise InvalidRequest(f"the path {path!r} is not below /projects, /datasets or /models")
        try:
            place = self.root.joinpath(*parts[1:]).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a cycle of links, a null character
            raise InvalidRequest(f"the path {path!r} cannot be used: {error}") from None
        if not place.is_relative_to(self.root):
            raise InvalidRequest(f"the path {path!r} leads out of the storage")
        return place

    def locate_input(self, kind: str, path: str) -> Path:
        """Return the folder of an input.

        :param kind: the word for it in messages, such as ``dataset``
        :raises InvalidRequest: as in `locate`, or there is no such folder
        """
        place = self.locate(path)
        try:
            is_folder = place.is_dir()
        except OSError as error:
            raise InvalidRequest(f"{kind} {path!r} cannot be used: {error.strerror}") from None
        if not is_folder:
            raise InvalidRequest(f"{kind} {path!r} does not exist")
        return place

    def locate_output(self, path: str) -> Path:
        """Return the folder of an output, and create it if it does not exist.

        :raises InvalidRequest: as in `locate`, or it cannot be created
        """
        place = self.locate(path)
        try:
            os.close(open_without_links(place, create=True))
        except OSError as error:
            raise InvalidRequest(f"output {path!r} cannot be created: {error.strerror}") from None
        return place

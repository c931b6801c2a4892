"""The platform's storage: one folder with ``projects/``, ``datasets/`` and ``models/``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from airflow_bitahub.emulator.state.errors import Invalid

AREAS = ("projects", "datasets", "models")


class Storage:
    """Finds server paths such as ``/datasets/u/MNIST`` below `root`; nothing leads out of it.

    :param root: created, with its three areas, when it does not exist
    """

    def __init__(self, root: Path) -> None:
        for area in AREAS:
            (root / area).mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()

    def locate(self, path: str) -> Path:
        """Give the place of a server path, existing or not.

        :raises Invalid: it is not below one of the areas, or a link leads out of the storage
        """
        parts = PurePosixPath(path).parts
        if len(parts) < 3 or parts[0] != "/" or parts[1] not in AREAS or ".." in parts:
            raise Invalid(f"the path {path!r} is not below /projects, /datasets or /models")
        try:
            place = self.root.joinpath(*parts[1:]).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a circle of links, a null byte
            raise Invalid(f"the path {path!r} cannot be used: {error}") from None
        if not place.is_relative_to(self.root):
            raise Invalid(f"the path {path!r} leads out of the storage")
        return place

    def locate_input(self, kind: str, path: str) -> Path:
        """Give the folder of an input.

        :param kind: what it is to the user, such as ``dataset``
        :raises Invalid: as `locate`, or there is no such folder
        """
        place = self.locate(path)
        try:
            is_folder = place.is_dir()
        except OSError as error:
            raise Invalid(f"{kind} {path!r} cannot be used: {error.strerror}") from None
        if not is_folder:
            raise Invalid(f"{kind} {path!r} does not exist")
        return place

    def locate_output(self, path: str) -> Path:
        """Give the folder of an output, made when it does not exist.

        :raises Invalid: as `locate`, or it cannot be made
        """
        place = self.locate(path)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Invalid(f"output {path!r} cannot be made: {error.strerror}") from None
        return place

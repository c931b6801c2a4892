"""A program's mounts without containers: links to them, and the program's container paths mapped onto those."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from airflow_bitahub.emulator.mounts.workdir import Room, clean

# What may stand in a path's name. A container path is only one if none of these stands before it ("/my/output",
# "./output", "$(pwd)/output", "${ROOT}/output" are other paths) or after it ("/output2", "/output$n"), "/" excepted.
_BEFORE = r"(?:(?<=\bfile://)|(?<![\w./~*?\])}+%\\-]))"
_AFTER = r"(?![\w.~${+%-])"


class PathMap:
    """Maps container paths in texts: the longest one first, whole components only.

    :param targets: container path -> the path that stands for it
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._targets = {clean(path): target for path, target in targets.items()}
        longest_first = sorted(self._targets, key=len, reverse=True)
        alternatives = "|".join(re.escape(path) for path in longest_first)
        self._pattern = re.compile(f"{_BEFORE}(?:{alternatives}){_AFTER}") if alternatives else None

    def __call__(self, text: str) -> str:
        """Give the text with every container path replaced."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._targets[match.group()], text)


class LinkFolder(Room):
    """A room whose program is given the paths of links, so that a space in the storage's own path does not matter.

    Whether a folder is writable is not kept to, and a path that the program itself has written down is not found.
    """

    def _fill(self) -> None:
        targets: dict[str, str] = {}
        for mount_path, folder in self._folders.items():
            name = re.sub(r"[^A-Za-z0-9_]+", "-", mount_path).strip("-") or "mount"
            link = self.path / name
            while os.path.lexists(link):
                link = link.with_name(f"{link.name}-2")
            link.symlink_to(folder.place, target_is_directory=True)
            targets[mount_path] = str(link)
        self._map = PathMap(targets)

    def map(self, text: str) -> str:
        """Give a text with the links' paths in place of the container's."""
        return self._map(text)

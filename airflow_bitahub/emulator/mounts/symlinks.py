"""Mounts without containers: symbolic links, and container paths in commands replaced by the paths of those links."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from airflow_bitahub.emulator.mounts.workdir import Workdir, normalize_mount_path

# A container path is only replaced where no other path contains it. Characters before it ("/my/output", "./output",
# "$(pwd)/output", "${ROOT}/output") or after it ("/output2", "/output$n") make another path of it, but "/" may follow.
_BEFORE = r"(?:(?<=\bfile://)|(?<![\w./~*?\])}+%\\-]))"
_AFTER = r"(?![\w.~${+%-])"


class PathMap:
    """Replaces container paths in texts: the longest match first, whole path components only.

    :param targets: container path -> the path to use instead
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._targets = {normalize_mount_path(path): target for path, target in targets.items()}
        longest_first = sorted(self._targets, key=len, reverse=True)
        alternatives = "|".join(re.escape(path) for path in longest_first)
        self._pattern = re.compile(f"{_BEFORE}(?:{alternatives}){_AFTER}") if alternatives else None

    def __call__(self, text: str) -> str:
        """Return the text with every container path replaced."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._targets[match.group()], text)


class SymlinkWorkdir(Workdir):
    """A workdir with a symbolic link for each mount, so a space in the storage's own path does no harm.

    Read-only mounts are not enforced, and container paths written inside the program itself do not work.
    """

    def _set_up_mounts(self) -> None:
        targets: dict[str, str] = {}
        for mount_path, mount in self._mounts.items():
            name = re.sub(r"[^A-Za-z0-9_]+", "-", mount_path).strip("-") or "mount"
            link = self.path / name
            while os.path.lexists(link):
                link = link.with_name(f"{link.name}-2")
            link.symlink_to(mount.source, target_is_directory=True)
            targets[mount_path] = str(link)
        self._path_map = PathMap(targets)

    def map_paths(self, text: str) -> str:
        """Return a text with each container path replaced by the path of its link."""
        return self._path_map(text)

"""A job's mounts without containers: a short folder of links, and the job's container paths mapped onto it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from posixpath import normpath
from types import TracebackType

from airflow_bitahub.emulator.refused import Invalid

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


def clean(mount_path: str) -> str:
    """Give a container path in its plain form, ``/code`` for ``/code/``.

    :raises Invalid: nothing can be mounted there
    """
    plain = normpath("/" + mount_path.lstrip("/"))
    if not mount_path.startswith("/") or plain == "/" or "\0" in mount_path or ".." in mount_path.split("/"):
        raise Invalid(f"nothing can be mounted at {mount_path!r}: it is not an absolute path below /")
    return plain


class LinkFolder:
    """The folder a job or serving runs in, as a context manager: made on entry, removed on exit.

    It is short and free of spaces, whatever the storage is called, so that programs and shell lines that never
    expected a space in ``/output`` work.

    :param mounts: container path -> the folder that is seen there
    :param python: the interpreter that ``python`` and ``python3`` shall be
    """

    def __init__(self, mounts: Mapping[str, Path], python: Path) -> None:
        self._mounts = mounts
        self._python = python

    def __enter__(self) -> LinkFolder:
        self.path = Path(tempfile.mkdtemp(prefix="bh-", dir=_short_place()))
        try:
            self._fill()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # removes the links, never what they lead to

    def note(self, trace: Path) -> None:
        """Write down where the folder is, for somebody who has to remove it in this process's stead."""
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.with_name(f"{trace.name}.folder").write_text(str(self.path))

    @staticmethod
    def remove_noted(trace: Path) -> None:
        """Remove a folder that was noted there, if any."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(trace.with_name(f"{trace.name}.folder").read_text(), ignore_errors=True)

    def _fill(self) -> None:
        self.scratch = self.path / ".scratch"
        self.bin = self.path / ".bin"
        (self.scratch / "tmp").mkdir(parents=True)
        self.bin.mkdir()
        targets: dict[str, str] = {}
        for mount_path, place in self._mounts.items():
            name = re.sub(r"[^A-Za-z0-9_]+", "-", mount_path).strip("-") or "mount"
            link = self.path / name
            while os.path.lexists(link):
                link = link.with_name(f"{link.name}-2")
            link.symlink_to(place, target_is_directory=True)
            targets[mount_path] = str(link)
        self.map = PathMap(targets)
        # A script, not a link: through a link an environment's interpreter would not find its environment.
        for name in ("python", "python3"):
            shim = self.bin / name
            shim.write_text(f'#!/bin/sh\nexec {shlex.quote(str(self._python))} "$@"\n')
            shim.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """Give the environment every program starts with: nothing of the emulator's own is in it."""
        system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {
            "PATH": f"{self.bin}:{self._python.parent}:{system}",
            "HOME": str(self.scratch),
            "TMPDIR": str(self.scratch / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",  # so that the log can be read while the job runs
        }


def _short_place() -> str:
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108  mkdtemp makes it safe there

"""Opening files and folders without following links, so that nobody can put another place in their place."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from airflow_bitahub.emulator.state.errors import InvalidRequest

_PATH = getattr(os, "O_PATH", os.O_RDONLY)


def open_without_links(place: Path, *, create: bool = False) -> int:
    """Return a file descriptor of a file or folder. It is not inherited by programs.

    A job may at any time replace a folder that it can write to by a link to another place. So the path is opened one
    component after the other, and a link anywhere in it is refused.

    :param place: an absolute path without links, as `Path.resolve` returns it
    :param create: create the folder, and those above it, where they do not exist
    :raises InvalidRequest: there is a link in the path, or a file where a folder is to be created
    :raises OSError: it cannot be opened or created
    """
    handle = os.open("/", _PATH | os.O_DIRECTORY)
    for part in place.parts[1:]:
        above = handle
        try:
            handle = _open_part(part, above, create=create)
        finally:
            os.close(above)
        mode = os.fstat(handle).st_mode
        if stat.S_ISLNK(mode) or (create and not stat.S_ISDIR(mode)):
            os.close(handle)
            kind = "a link" if stat.S_ISLNK(mode) else "a file"
            raise InvalidRequest(f"the path {str(place)!r} contains {kind}: {part!r}")
    return handle


def _open_part(part: str, above: int, *, create: bool) -> int:
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=above)
    return os.open(part, _PATH | os.O_NOFOLLOW, dir_fd=above)

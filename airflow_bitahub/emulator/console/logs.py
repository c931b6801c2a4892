"""The end of a log as people read it: without control characters, and a progress bar as one line."""

from __future__ import annotations

import os
from pathlib import Path

from airflow_bitahub.texts import readable_line

_MAX_BYTES = 128_000
_MAX_LINES = 400
_MAX_LINE = 2000  # characters


def readable_tail(file: Path) -> tuple[str, bool]:
    """Return the last lines of a log, and whether there are earlier ones."""
    try:
        with file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _MAX_BYTES))
            content = log.read(_MAX_BYTES)
    except OSError:
        return "", False
    is_cut = size > _MAX_BYTES
    lines = content.decode("utf-8", "replace").removesuffix("\n").split("\n")
    if is_cut and len(lines) > 1:
        del lines[0]  # only the end of it is there
    return "\n".join(readable_line(line, _MAX_LINE) for line in lines[-_MAX_LINES:]), is_cut or len(lines) > _MAX_LINES

"""The end of a log file as people read it."""

from __future__ import annotations

import os
from pathlib import Path

from airflow_bitahub.pages.log_text import readable

_MAX_BYTES = 128_000


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
    text = content.decode("utf-8", "replace")
    if is_cut and "\n" in text.removesuffix("\n"):
        text = text.partition("\n")[2]  # only the end of the first line is there
    shown, has_earlier = readable(text)
    return shown, is_cut or has_earlier

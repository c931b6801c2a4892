"""The end of a log as people read it: without control characters, and a progress bar as one line."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MAX_BYTES = 128_000
_MAX_LINES = 400
_MAX_LINE = 2000  # characters
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


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
    return "\n".join(map(_readable, lines[-_MAX_LINES:])), is_cut or len(lines) > _MAX_LINES


def _readable(line: str) -> str:
    # A progress bar writes over its own line.
    drawn = next((part for part in reversed(line.split("\r")) if part), "")
    plain = _CONTROLS.sub("", _ESCAPES.sub("", drawn))
    if len(plain) > _MAX_LINE:
        half = _MAX_LINE // 2
        plain = f"{plain[:half]} [...] {plain[-half:]}"
    return plain

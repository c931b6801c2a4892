"""A log as people read it: without control characters, and a progress bar as one line."""

from __future__ import annotations

import re

MAX_LINES = 400  # that are shown
_MAX_LINE = 2000  # characters
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def readable(text: str) -> tuple[str, bool]:
    """Return the last lines of a log, and whether there are earlier ones in it."""
    lines = text.removesuffix("\n").split("\n")
    return "\n".join(map(_readable, lines[-MAX_LINES:])), len(lines) > MAX_LINES


def _readable(line: str) -> str:
    # A progress bar writes over its own line.
    drawn = next((part for part in reversed(line.split("\r")) if part), "")
    plain = _CONTROLS.sub("", _ESCAPES.sub("", drawn))
    if len(plain) > _MAX_LINE:
        half = _MAX_LINE // 2
        plain = f"{plain[:half]} [...] {plain[-half:]}"
    return plain

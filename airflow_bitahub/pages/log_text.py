"""A log as people read it: without control characters, and a progress bar as one line."""

from __future__ import annotations

from airflow_bitahub.texts import Mask, readable_line

MAX_LINES = 400  # that are shown
_MAX_LINE = 2000  # characters


def readable(text: str, mask: Mask | None = None) -> tuple[str, bool]:
    """Return the last lines of a log, and whether there are earlier ones in it.

    :param mask: masks the secrets in them
    """
    lines = text.removesuffix("\n").split("\n")
    return "\n".join(readable_line(line, _MAX_LINE, mask) for line in lines[-MAX_LINES:]), len(lines) > MAX_LINES

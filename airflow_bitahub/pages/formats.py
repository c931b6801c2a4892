"""How times, durations and sizes are written."""

from __future__ import annotations

from datetime import datetime, tzinfo


def moment(milliseconds: float, zone: tzinfo | None = None) -> str:
    """Write a time; "" for 0, which means not yet.

    :param zone: the time zone; None: this machine's
    """
    return f"{datetime.fromtimestamp(milliseconds / 1000, zone):%Y-%m-%d %H:%M:%S}" if milliseconds else ""


def iso(milliseconds: float) -> str:
    """Write a time for programs."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="seconds")


def duration(milliseconds: float) -> str:
    """Write a duration with at most two units, such as ``3 min 12 s``."""
    seconds = max(0.0, milliseconds / 1000)
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def bytesize(number: int) -> str:
    """Write a number of bytes, such as ``3.1 KB``."""
    size = float(number)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

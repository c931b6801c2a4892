"""Scales of charts: which values an axis spans, where its labels are, and how charts write numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "\u2013"  # in place of a number
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_MOST = 5  # spaces between labels
_LARGEST = 1e308


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, both finite, with its labels."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """Return where a value lies, from 0 to 1. An axis of a single value has it in the middle."""
        span = self.high / 2 - self.low / 2  # halves: the whole span may be beyond a float's range
        return min(max((value / 2 - self.low / 2) / span, 0.0), 1.0) if span else 0.5

    def from_left(self, value: float) -> float:
        """Return a value's place in percent from the left."""
        return round(self.share(value) * 100, 2)

    def from_top(self, value: float) -> float:
        """Return a value's place in percent from the top."""
        return round(100 - self.share(value) * 100, 2)


def scale(values: Sequence[float], *, tight: bool = False) -> Scale:
    """Return the axis of finite values.

    :param tight: it begins and ends with the values; otherwise with labels
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high and not tight:
        pad = abs(low) * 0.1 or 1.0
        low, high = max(low - pad, -_LARGEST), min(high + pad, _LARGEST)
    step = _step((high / _MOST) - (low / _MOST))
    if not step or max(abs(low), abs(high)) / step > 2**50 or max(abs(low), abs(high)) > _LARGEST / 100:
        # too fine or too large for round labels
        return Scale(low, high, [(low, number(low)), *([(high, number(high))] if low < high else [])])
    first, last = (math.ceil, math.floor) if tight else (math.floor, math.ceil)
    start, end = first(low / step), last(high / step)
    ticks = [(count * step, _tick_text(count * step, step)) for count in range(start, end + 1)]
    return Scale(low, high, ticks) if tight else Scale(start * step, end * step, ticks)


def time_scale(seconds: Sequence[float]) -> Scale:
    """Return the axis of durations from 0, with labels at whole seconds, minutes, hours or days."""
    high = max(seconds, default=0.0)
    if high > 86400 * 1000:
        return scale(seconds)
    step = next((each for each in _SECONDS if each * _MOST >= high), 0) or 86400 * math.ceil(high / 86400 / _MOST)
    count = max(math.ceil(high / step), 1)
    size, unit = next(each for each in _UNITS if step % each[0] == 0)
    ticks = [(float(at * step), f"{at * step // size:,} {unit}") for at in range(count + 1)]
    return Scale(0.0, float(count * step), ticks)


def finite(value: Any) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def number(value: float) -> str:
    """Return a number with four significant digits; large whole numbers are written out up to 9,999,999."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def _step(least: float) -> float:
    """Return the smallest round step that is not smaller than `least`."""
    if not least > 0 or not math.isfinite(least):
        return 0.0
    size = 10.0 ** math.floor(math.log10(least))
    return next((size * step for step in _STEPS if size * step >= least * 0.999), size * 10)


def _tick_text(value: float, step: float) -> str:
    if step > 1e-5 and abs(value) < 1e6:
        decimals = max(-math.floor(math.log10(step) + 1e-9), 0)
        if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:  # 0.25
            decimals += 1
        return f"{value + 0.0:,.{decimals}f}"
    return f"{value:.3g}"

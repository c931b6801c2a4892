"""Bar charts as values, which `templates/charts.html` draws as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_bitahub.pages.axes import COLOURS, Table, Tick, label_ticks, text_of
from airflow_bitahub.pages.scales import finite, number, scale, time_scale

_BARS = 120


@dataclass(frozen=True)
class Bars:
    """One part of every bar.

    :param values: one for each bar; None: nothing
    :param colour: from 1 to `COLOURS`; 0: the next one
    """

    name: str
    values: Sequence[Any]
    colour: int = 0


@dataclass(frozen=True)
class Block:
    """A part of one bar."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    text: str


@dataclass(frozen=True)
class BarChart:
    """Stacked bars."""

    title: str
    y_ticks: Sequence[Tick]
    x_ticks: Sequence[Tick]
    names: Sequence[tuple[int, str]]
    blocks: Sequence[Block]
    table: Table

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.blocks


def bar_chart(
    title: str,
    labels: Sequence[str],
    parts: Sequence[Bars],
    *,
    x_name: str,
    of_time: bool = False,
    value_text: Callable[[float], str] = number,
) -> BarChart:
    """Return one bar for each label, of which only the last ones are kept where there are many.

    :param of_time: values are seconds
    :param value_text: how a value is written
    """
    left_out = max(len(labels) - _BARS, 0)
    labels = labels[left_out:]
    values = [[_positive(value) for value in each.values[left_out:]] for each in parts]
    totals = [sum(column) for column in zip(*values, strict=True)] if values else []
    y_scale = (time_scale if of_time else scale)([0.0, *(total for total in totals if math.isfinite(total))])
    slot = 100 / max(len(labels), 1)
    width = min(slot * 0.7, 12)
    colours = [part.colour or index % COLOURS + 1 for index, part in enumerate(parts)]
    blocks = []
    for index, label in enumerate(labels):
        below = 0.0
        for colour, part, column in zip(colours, parts, values, strict=True):
            value = column[index]
            if not value or not math.isfinite(below + value):
                continue
            top, bottom = y_scale.from_top(below + value), y_scale.from_top(below)
            place = (round((index + 0.5) * slot - width / 2, 2), top, round(width, 2), round(bottom - top, 2))
            blocks.append(Block(*place, colour, f"{label}: {part.name} {value_text(value)}"))
            below += value
    rows = [
        [label, *(text_of(part.values[left_out + row], value_text) for part in parts)]
        for row, label in enumerate(labels)
    ]
    return BarChart(
        title,
        [Tick(y_scale.from_top(at), text) for at, text in y_scale.ticks],
        label_ticks(labels, lambda index: round((index + 0.5) * slot, 2)),
        [(colour, part.name) for colour, part in zip(colours, parts, strict=True)],
        blocks,
        Table([x_name, *(part.name for part in parts)], rows, left_out),
    )


def _positive(value: Any) -> float:
    return max(finite(value) or 0.0, 0.0)

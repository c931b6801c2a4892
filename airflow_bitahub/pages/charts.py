"""Line charts as values, which `templates/charts.html` draws as inline SVG.

Nothing given is trusted: names may be long or hold markup (the template escapes them), and values may be missing, NaN,
infinite, huge, or thousands. Positions are percentages of the plot, x from the left and y from the top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_bitahub.pages.axes import COLOURS, Table, Tick, label_ticks, number_ticks, text_of
from airflow_bitahub.pages.scales import NOTHING, Scale, finite, number, scale

_DOTS = 60  # with more points than this, a line has no dots
_BINS = 300  # of a line with more points than twice this, each part keeps its least and greatest one
_ROWS = 200  # of a table

MarkKind = Literal["good", "bad", "back"]


@dataclass(frozen=True)
class Series:
    """What a line shows.

    :param points: x and a value; None, and whatever is no finite number, is a gap
    :param is_threshold: it is a limit, drawn as a dashed line
    """

    name: str
    points: Sequence[tuple[float, Any]]
    is_threshold: bool = False


@dataclass(frozen=True)
class Mark:
    """What happened at one x. It is drawn at the first line's point, or at the bottom where that has none."""

    x: float
    kind: MarkKind
    text: str


@dataclass(frozen=True)
class Dot:
    """A point, with what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A drawn series.

    :param colour: from 1 to `COLOURS`; 0: a threshold
    :param path: of an SVG path, in percentages
    """

    name: str
    colour: int
    path: str
    dots: Sequence[Dot]
    least: str
    greatest: str
    last: str


@dataclass(frozen=True)
class PlacedMark:
    """A drawn mark.

    :param level: how many marks of the same point are below it
    """

    x: float
    y: float
    level: int
    kind: MarkKind
    text: str


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis.

    :param gaps: how many values are not drawn because they are no finite numbers
    """

    title: str
    y_ticks: Sequence[Tick]
    x_ticks: Sequence[Tick]
    lines: Sequence[Line]
    marks: Sequence[PlacedMark]
    table: Table
    gaps: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(line.path for line in self.lines if line.colour)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    x_labels: Sequence[str] | None = None,
    marks: Sequence[Mark] = (),
    mark_name: str = "",
) -> LineChart:
    """Return lines over numbers, or over labels: x is then an index of `x_labels`.

    :param x_name: what x is, such as "step"
    :param mark_name: what marks are, as head of their column in the table
    """
    points = [_finite_points(each.points) for each in series]
    xs = sorted({x for each in points for x, _ in each})
    ys = [y for each in points for _, y in each if y is not None]
    x_scale = Scale(0, max(len(x_labels) - 1, 0), ()) if x_labels is not None else scale(xs, tight=True)
    y_scale = scale(ys)
    x_text = _labeller(x_labels)
    lines: list[Line] = []
    colour = 0
    for each, own in zip(series, points, strict=True):
        colour += not each.is_threshold
        is_drawn = 0 if each.is_threshold else (colour - 1) % COLOURS + 1
        lines.append(_line(each.name, is_drawn, own, x_scale, y_scale, x_text))
    return LineChart(
        title,
        [Tick(y_scale.from_top(at), text) for at, text in y_scale.ticks],
        number_ticks(x_scale) if x_labels is None else label_ticks(x_labels, x_scale.from_left),
        lines,
        _placed(marks, points[0] if points else [], x_scale, y_scale),
        _line_table(x_name, series, points, x_text, marks, mark_name),
        sum(y is not None and finite(y) is None for each in series for _, y in each.points),
    )


def _line(
    name: str,
    colour: int,
    points: Sequence[tuple[float, float | None]],
    x_scale: Scale,
    y_scale: Scale,
    x_text: Callable[[float], str],
) -> Line:
    values = [y for _, y in points if y is not None]
    dots = [
        Dot(x_scale.from_left(x), y_scale.from_top(y), f"{x_text(x)}: {name} {number(y)}")
        for x, y in points
        if y is not None
    ]
    return Line(
        name,
        colour,
        _path(_thinned(points), x_scale, y_scale),
        dots if colour and len(dots) <= _DOTS else (),
        number(min(values)) if values else NOTHING,
        number(max(values)) if values else NOTHING,
        number(values[-1]) if values else NOTHING,
    )


def _path(points: Sequence[tuple[float, float | None]], x_scale: Scale, y_scale: Scale) -> str:
    steps, is_first = [], True
    for index, (x, y) in enumerate(points):
        if y is None:
            is_first = True
            continue
        steps.append(f"{'M' if is_first else 'L'}{x_scale.from_left(x)} {y_scale.from_top(y)}")
        is_alone = is_first and (index + 1 == len(points) or points[index + 1][1] is None)
        steps.append("h0" * is_alone)  # a line without length: a round dot
        is_first = False
    return "".join(steps)


def _thinned(points: Sequence[tuple[float, float | None]]) -> Sequence[tuple[float, float | None]]:
    """Return so many points that the picture stays the same: the least and the greatest of each part, and gaps."""
    if len(points) <= 2 * _BINS:
        return points
    kept: set[int] = {0, len(points) - 1}
    for start in range(0, len(points), size := math.ceil(len(points) / _BINS)):
        part = [(y, index) for index, (_, y) in enumerate(points[start : start + size], start) if y is not None]
        kept |= {min(part)[1], max(part)[1]} if part else {start}
    return [points[index] for index in sorted(kept)]


def _placed(
    marks: Sequence[Mark], points: Sequence[tuple[float, float | None]], x_scale: Scale, y_scale: Scale
) -> Sequence[PlacedMark]:
    heights = {x: y for x, y in points if y is not None}
    levels: dict[float, int] = {}
    placed = []
    for mark in marks:
        level = levels[mark.x] = levels.get(mark.x, -1) + 1
        y = y_scale.from_top(heights[mark.x]) if mark.x in heights else 100
        placed.append(PlacedMark(x_scale.from_left(mark.x), y, level, mark.kind, mark.text))
    return placed


def _line_table(
    x_name: str,
    series: Sequence[Series],
    points: Sequence[Sequence[tuple[float, float | None]]],
    x_text: Callable[[float], str],
    marks: Sequence[Mark],
    mark_name: str,
) -> Table:
    xs = sorted({x for each in points for x, _ in each} | {mark.x for mark in marks})
    chosen = xs if len(xs) <= _ROWS else [xs[round(row * (len(xs) - 1) / (_ROWS - 1))] for row in range(_ROWS)]
    columns = [dict(each) for each in points]
    rows = []
    for x in chosen:
        values = (column.get(x) for column in columns)
        said = "; ".join(mark.text for mark in marks if mark.x == x)
        rows.append([x_text(x), *(text_of(y, number) for y in values), *([said] if marks else [])])
    return Table([x_name, *(each.name for each in series), *([mark_name] if marks else [])], rows, len(xs) - len(rows))


def _labeller(labels: Sequence[str] | None) -> Callable[[float], str]:
    if labels is None:
        return number
    return lambda x: labels[int(x)] if 0 <= x < len(labels) else number(x)


def _finite_points(points: Sequence[tuple[float, Any]]) -> list[tuple[float, float | None]]:
    """Return points in the order of x. Those of no finite x are left out; of two with one x, the last one counts."""
    by_x = {x: finite(y) for given, y in points if (x := finite(given)) is not None}
    return sorted(by_x.items(), key=lambda point: point[0])

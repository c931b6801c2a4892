"""A confusion matrix as a value, which `templates/charts.html` draws as a shaded table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_bitahub.pages.scales import NOTHING, finite, number

_CLASSES = 30  # of a matrix that is drawn
_SHADES = 10


@dataclass(frozen=True)
class Cell:
    """A count.

    :param shade: from 0 to 10, its share of all examples with this true label
    """

    text: str
    shade: int
    is_right: bool


@dataclass(frozen=True)
class ConfusionMatrix:
    """Which labels were taken for which.

    :param labels: empty where there are too many for a picture
    :param rows: a true label, its cells, and the share that was recognized
    :param confusions: the most frequent mistakes: true label, predicted label, count
    """

    labels: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell], str]]
    confusions: Sequence[tuple[str, str, str]]
    share_right: str


def confusion_matrix(content: Any) -> ConfusionMatrix | None:
    """Return the picture of ``{"labels": [...], "counts": [[...], ...]}``; None where the content is something else."""
    if not isinstance(content, Mapping):
        return None
    labels, counts = content.get("labels"), content.get("counts")
    if not isinstance(labels, Sequence) or not isinstance(counts, Sequence) or isinstance(labels, str) or not labels:
        return None
    names = [str(label) for label in labels]
    if len(counts) != len(names) or not all(_is_counts(row, len(names)) for row in counts):
        return None
    rows = [[float(value) for value in row] for row in counts]
    wrong = [
        (value, names[true], names[predicted])
        for true, row in enumerate(rows)
        for predicted, value in enumerate(row)
        if value and true != predicted
    ]
    wrong.sort(key=lambda each: -each[0])
    right = sum(row[index] for index, row in enumerate(rows))
    drawn = len(names) <= _CLASSES
    return ConfusionMatrix(
        names if drawn else [],
        [_matrix_row(name, row, index) for index, (name, row) in enumerate(zip(names, rows, strict=True)) if drawn],
        [(true, predicted, number(value)) for value, true, predicted in wrong[:5]],
        _share(right, sum(value for row in rows for value in row)),
    )


def _is_counts(row: Any, length: int) -> bool:
    return (
        isinstance(row, Sequence)
        and not isinstance(row, str)
        and len(row) == length
        and all((value := finite(each)) is not None and 0 <= value < 1e15 for each in row)
    )


def _matrix_row(name: str, row: Sequence[float], own: int) -> tuple[str, Sequence[Cell], str]:
    total = sum(row)
    cells = [
        Cell(number(value), math.ceil(value / total * _SHADES) if value else 0, index == own)
        for index, value in enumerate(row)
    ]
    return name, cells, _share(row[own], total)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else NOTHING

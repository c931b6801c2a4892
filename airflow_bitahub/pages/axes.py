"""What charts of lines and of bars share: labels of an axis, and the table of the same figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_bitahub.pages.scales import NOTHING, Scale, finite

COLOURS = 6  # series have one of so many colours, in turn


@dataclass(frozen=True)
class Tick:
    """A label of an axis.

    :param anchor: how the text lies to its place, in the words of SVG
    :param is_minor: a narrow window leaves it out
    """

    at: float
    text: str
    anchor: Literal["start", "middle", "end"] = "middle"
    is_minor: bool = False


@dataclass(frozen=True)
class Table:
    """The figures of a chart in words.

    :param left_out: how many rows are not in it
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: int = 0


def number_ticks(x_scale: Scale) -> Sequence[Tick]:
    """Return the labels of an axis of numbers."""
    shown = [(x_scale.from_left(at), text) for at, text in x_scale.ticks]
    return [Tick(at, text, _anchor(at), bool(index % 2)) for index, (at, text) in enumerate(shown)]


def label_ticks(labels: Sequence[str], place: Callable[[int], float]) -> Sequence[Tick]:
    """Return labels of an axis of names, at most five of them. A narrow window keeps the first, middle and last one.

    :param place: returns where a label is
    """
    last = len(labels) - 1
    chosen = range(len(labels)) if last < 5 else sorted({round(part * last / 4) for part in range(5)})
    kept = {0, last, round(last / 2)} if last > 2 else {0, last}
    return [Tick(at := place(index), labels[index], _anchor(at), index not in kept) for index in chosen]


def _anchor(at: float) -> Literal["start", "middle", "end"]:
    return "start" if at < 5 else "end" if at > 95 else "middle"


def text_of(value: Any, write: Callable[[float], str]) -> str:
    """Return a value in words."""
    return NOTHING if (known := finite(value)) is None else write(known)

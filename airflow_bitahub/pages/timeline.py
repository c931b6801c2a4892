"""The states of a job over time, as the rectangles of a picture. Places and lengths are percentages of its width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_LEAST = 0.5  # percent: what is shorter could not be seen
_MAX_ROWS = 16  # also of marks


class Segment(NamedTuple):
    """A time in one state; `milliseconds` is how long it was, or is so far."""

    state: str
    start: float
    length: float
    milliseconds: float


class Row(NamedTuple):
    """What is drawn in one line; `name` is "" for the job itself."""

    name: str
    segments: list[Segment]


class Mark(NamedTuple):
    """Something that happened at a time."""

    name: str
    place: float
    time: float


class Timeline(NamedTuple):
    """A picture of a job from its creation to its end, or until now."""

    rows: list[Row]
    marks: list[Mark]
    start: float
    end: float


class Span(NamedTuple):
    """A time in a state; `name` is whose it is."""

    name: str
    state: str
    start: float
    end: float


def timeline(
    start: float,
    end: float,
    spans: Sequence[Span],
    parts: Sequence[Span] = (),
    events: Sequence[tuple[str, float]] = (),
) -> Timeline:
    """Return a picture. All times are milliseconds since the epoch.

    :param spans: the job's states
    :param parts: the states of its parts, each of which has a row
    :param events: what happened, and when; the last ones are drawn
    """
    end = max(end, start + 1)
    scale = 100 / (end - start)

    def segment(span: Span) -> Segment:
        place = min(max(0.0, (span.start - start) * scale), 100 - _LEAST)
        length = min(max((span.end - span.start) * scale, _LEAST), 100 - place)
        return Segment(span.state, round(place, 2), round(length, 2), max(0.0, span.end - span.start))

    def mark(name: str, time: float) -> Mark:
        return Mark(name, round(min(max(_LEAST, (time - start) * scale), 100 - _LEAST), 2), time)

    rows = [Row("", list(map(segment, spans)))]
    names = dict.fromkeys(part.name for part in parts)
    rows += [Row(name, [segment(part) for part in parts if part.name == name and part.state]) for name in names]
    return Timeline(rows[: _MAX_ROWS + 1], [mark(*event) for event in events[-_MAX_ROWS:]], start, end)

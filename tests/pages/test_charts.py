"""Charts as values: what is drawn where, and that nothing given can break them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import airflow_bitahub.pages
from airflow_bitahub.pages.bars import Bars, bar_chart
from airflow_bitahub.pages.chart_texts import CHART_TEXTS
from airflow_bitahub.pages.charts import Mark, Series, line_chart
from airflow_bitahub.pages.confusion import confusion_matrix
from airflow_bitahub.pages.formats import duration
from airflow_bitahub.pages.scales import NOTHING, number, scale, time_scale

NAME = "<script>alert(1)</script>" * 40


def in_words(seconds: float) -> str:
    return duration(seconds * 1000)


def drawn(macro: str, value: Any) -> str:
    """Return the HTML of a chart."""
    templates = Path(airflow_bitahub.pages.__path__[0], "templates")
    environment = Environment(loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined)
    t: Callable[..., str] = lambda key, **values: CHART_TEXTS[key][0].format(**values)  # noqa: E731
    return str(getattr(environment.get_template("charts.html").module, macro)(t, value))


def test_a_line_leads_through_its_points_with_a_threshold_and_marks() -> None:
    series = [
        Series("accuracy", [(0, 0.8), (1, None), (2, 0.95), (3, 0.9)]),
        Series("accuracy >= 0.9", [(0, 0.9), (3, 0.9)], is_threshold=True),
    ]
    marks = [Mark(0, "bad", "gate closed"), Mark(2, "good", "deployed"), Mark(2, "back", "rolled back")]
    chart = line_chart("accuracy", series, x_name="run", x_labels=["a", "b", "c", "d"], marks=marks, mark_name="events")
    accuracy, threshold = chart.lines
    assert accuracy.path == "M0.0 100.0h0M66.67 0.0L100.0 33.33"
    assert (accuracy.least, accuracy.greatest, accuracy.last, accuracy.colour) == ("0.8", "0.95", "0.9", 1)
    assert (threshold.path, threshold.colour, threshold.dots) == ("M0.0 33.33L100.0 33.33", 0, ())
    assert [(mark.x, mark.y, mark.level, mark.kind) for mark in chart.marks] == [
        (0.0, 100.0, 0, "bad"),
        (66.67, 0.0, 0, "good"),
        (66.67, 0.0, 1, "back"),
    ]
    assert chart.table.head == ["run", "accuracy", "accuracy >= 0.9", "events"]
    assert chart.table.rows[2] == ["c", "0.95", NOTHING, "deployed; rolled back"]
    assert [tick.text for tick in chart.x_ticks] == ["a", "b", "c", "d"]
    assert chart.gaps == 0
    html = drawn("line_chart", chart)
    assert html.count('role="img"') == 1
    assert "<title>accuracy; accuracy: last 0.9; accuracy &gt;= 0.9: last 0.9</title>" in html


@pytest.mark.parametrize(
    ("points", "gaps", "is_empty"),
    [
        ([], 0, True),
        ([(0, None)], 0, True),
        ([(0, math.nan), (1, math.inf), (2, "x"), (3, True), (4, 10**400)], 5, True),
        ([(7, 0.5)], 0, False),
        ([(math.nan, 1), (10**400, 1), (1, 1)], 0, False),
        ([(0, 1e308), (1, -1e308), (2, 5e-324)], 0, False),
        ([(0, 1e300), (1, 1e300 * (1 + 1e-15))], 0, False),
        ([(-1e308, 3), (1e308, 3)], 0, False),
        ([(1, 5), (0, 3), (1, 4)], 0, False),
    ],
    ids=["none", "missing", "no numbers", "one", "no place", "huge", "close", "far", "unordered"],
)
def test_any_values_give_a_chart(points: list[Any], gaps: int, is_empty: bool) -> None:
    chart = line_chart(NAME, [Series(NAME, points)], x_name=NAME, marks=[Mark(0, "bad", NAME)], mark_name=NAME)
    assert (chart.gaps, chart.is_empty) == (gaps, is_empty)
    assert all(0 <= dot.x <= 100 and 0 <= dot.y <= 100 for line in chart.lines for dot in line.dots)
    html = drawn("line_chart", chart)
    assert "<script" not in html
    assert "nan" not in html.replace("NaN", "nan").replace("no finite", "")


def test_thousands_of_points_are_thinned_but_extremes_stay() -> None:
    points = [(step, 1.0) for step in range(50_000)]
    points[31_234] = (31_234, 9.0)
    chart = line_chart("loss", [Series("loss", points)], x_name="step")
    [line] = chart.lines
    assert line.path.count("L") < 700
    assert line.greatest == "9"
    assert min(float(part.split()[1]) for part in line.path[1:].split("L")) < 20  # the peak
    assert (line.dots, len(chart.table.rows), chart.table.left_out) == ((), 200, 49_800)
    assert len(drawn("line_chart", chart)) < 60_000


def test_parts_of_bars_are_stacked() -> None:
    parts = [Bars("queue", [60, None, -5]), Bars("run", [240, 600, math.nan], colour=4)]
    chart = bar_chart(
        "Duration",
        ["a", "b", "c"],
        parts,
        x_name="run",
        of_time=True,
        value_text=lambda seconds: duration(seconds * 1000),
    )
    assert [tick.text for tick in chart.y_ticks] == ["0 s", "2 min", "4 min", "6 min", "8 min", "10 min"]
    assert [(block.y, block.height, block.colour, block.text) for block in chart.blocks] == [
        (90.0, 10.0, 1, "a: queue 1 min 0 s"),
        (50.0, 40.0, 4, "a: run 4 min 0 s"),
        (0.0, 100.0, 4, "b: run 10 min 0 s"),
    ]
    assert chart.table.rows[1] == ["b", NOTHING, "10 min 0 s"]
    assert 'role="img"' in drawn("bar_chart", chart)


@pytest.mark.parametrize("values", [[], [None], [1e308, 1e308], [0], [math.inf], [1e300] * 500])
def test_any_values_give_bars(values: list[Any]) -> None:
    chart = bar_chart(NAME, [NAME] * len(values), [Bars(NAME, values), Bars("b", values)], x_name=NAME, of_time=True)
    assert "<script" not in drawn("bar_chart", chart)
    assert len(chart.table.rows) <= 120


def test_a_confusion_matrix_is_shaded_by_the_share_of_each_true_label() -> None:
    matrix = confusion_matrix({"labels": [0, NAME], "counts": [[90, 10], [0, 5]]})
    assert matrix is not None
    [(_, cells, share), (_, _, other_share)] = matrix.rows
    assert [(cell.text, cell.shade, cell.is_right) for cell in cells] == [("90", 9, True), ("10", 1, False)]
    assert (share, other_share, matrix.share_right) == ("90.0%", "100.0%", "90.5%")
    assert matrix.confusions == [("0", NAME, "10")]
    assert "<script" not in drawn("confusion_matrix", matrix)


def test_a_matrix_of_many_labels_says_its_mistakes() -> None:
    counts = [[float(row == column) for column in range(100)] for row in range(100)]
    counts[3][7] = 4
    matrix = confusion_matrix({"labels": [str(label) for label in range(100)], "counts": counts})
    assert matrix is not None
    assert (matrix.labels, matrix.rows, matrix.confusions) == ([], [], [("3", "7", "4")])
    assert "3 taken for 7: 4" in drawn("confusion_matrix", matrix)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"labels": [], "counts": []},
        {"labels": "ab", "counts": ["12", "34"]},
        {"labels": ["a"], "counts": [[1, 2]]},
        {"labels": ["a"], "counts": [[-1]]},
        {"labels": ["a"], "counts": [[math.nan]]},
        {"labels": ["a"], "counts": [None]},
        {"labels": ["a", "b"], "counts": [[1, 2]]},
    ],
)
def test_what_is_no_confusion_matrix_says_so(content: Any) -> None:
    assert confusion_matrix(content) is None
    assert "not a confusion matrix" in drawn("confusion_matrix", None)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.8, 0.95], ["0.80", "0.85", "0.90", "0.95"]),
        ([0, 1], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([3, 1200], ["0", "250", "500", "750", "1,000", "1,250"]),
        ([0.5], ["0.44", "0.46", "0.48", "0.50", "0.52", "0.54", "0.56"]),
        ([2e9, 8e9], ["2e+09", "4e+09", "6e+09", "8e+09"]),
    ],
)
def test_labels_of_an_axis_are_round(values: list[float], texts: list[str]) -> None:
    assert [text for _, text in scale(values).ticks] == texts


@pytest.mark.parametrize(
    ("seconds", "last"),
    [(0, "1 s"), (9, "10 s"), (7000, "120 min"), (9000, "150 min"), (9001, "3 h"), (3 * 86400, "3 d")],
)
def test_labels_of_time_are_whole_units(seconds: float, last: str) -> None:
    assert time_scale([seconds]).ticks[-1][1] == last


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.97312, "0.9731"), (12345, "12,345"), (123456.7, "123,457"), (1e300, "1e+300")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text

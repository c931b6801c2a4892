"""Pictures of what a program measured: the training curve and the confusion matrix that it wrote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.pages.charts import LineChart, Series, line_chart
from airflow_bitahub.pages.confusion import ConfusionMatrix, confusion_matrix
from airflow_bitahub.texts import parse_json
from airflow_bitahub.ui.outputs import OutputFile, OutputFolder

_CURVE, _MATRIX = "metrics.jsonl", "confusion_matrix.json"
_LIMIT = 4 << 20  # bytes of one of them
_MAX_POINTS = 20_000
_MAX_CHARTS = 6
_VALIDATION = "val_"  # begins the name of a metric that is drawn beside the one without it


class Pictures(NamedTuple):
    """What can be drawn; `matrix` is in a list, since its file may hold no matrix (None)."""

    curves: list[LineChart]
    matrix: list[ConfusionMatrix | None]


def draw(folder: OutputFolder, files: Iterable[OutputFile], *, step: str) -> Pictures:
    """Return the pictures of the files that lie highest in a folder.

    :param step: what a step of the training is called
    """
    curve, matrix = (_read(folder, files, name) for name in (_CURVE, _MATRIX))
    return Pictures(
        training_curves(curve.splitlines()[:_MAX_POINTS], step=step) if curve else [],
        [confusion_matrix(_json(matrix))] if matrix else [],
    )


def training_curves(lines: Iterable[bytes], *, step: str) -> list[LineChart]:
    """Return a picture for each metric: of lines that are objects with a `step`; others are skipped."""
    points: dict[str, list[tuple[float, Any]]] = {}
    for line in lines:
        value = _json(line)
        if not isinstance(value, dict) or not _is_number(at := value.pop("step", None)):
            continue
        for name, number in value.items():
            if number is None or _is_number(number):
                points.setdefault(name, []).append((at, number))
    charts: dict[str, list[Series]] = {}
    for name, of_name in points.items():
        charts.setdefault(name.removeprefix(_VALIDATION), []).append(Series(name, of_name))
    return [line_chart(name, series, x_name=step) for name, series in list(charts.items())[:_MAX_CHARTS]]


def _read(folder: OutputFolder, files: Iterable[OutputFile], name: str) -> bytes:
    paths = [file.path for file in files if file.path.rpartition("/")[2] == name]
    if not paths:
        return b""
    try:
        return folder.read(min(paths, key=lambda path: (path.count("/"), path)), _LIMIT) or b""
    except StorageError:  # such as a link; the list of files shows it
        return b""


def _json(content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

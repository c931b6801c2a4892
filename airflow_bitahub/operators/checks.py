"""The argument `checks`: what an author asks of a new version before it gets traffic.

    {"image_url": "https://...", "expected": 7}     a picture that the program downloads itself; one, or a list
    {"image_file": "/datasets/{user_id}/MNIST/7.png", "expected": 7, "longest_seconds": 2}
    {"image_base64": "iVBORw0...", "expected": 7, "field": "base64s"}
    {"json": {"x": [1, 2]}, "path": "/predict", "expected": {"sum": 3}}
    {"folder": "/datasets/{user_id}/MNIST/sample", "labels": "labels.csv", "at_least": 0.9}
    {"files": ["/datasets/...", "/datasets/..."], "labels": [7, 1], "at_least": 0.9}

`expected` is compared with the first of the answer's ``predictions``, or, where it is a list, with all of them; see
`procedures.questions.compared`. `path` is where the program listens (default: ``/image``), `field` the form field of
the pictures (default: ``urls``, ``files`` or ``base64s``). `labels` of a folder is a file in it, a file on the
platform's storage, or a mapping, and names the pictures: JSON such as ``{"a.png": 7}``, or CSV with the columns file
and label.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.operators.arguments import (
    Check,
    as_json,
    as_list,
    as_mapping,
    as_seconds,
    as_text,
    is_none,
    kind_of,
    optional,
)
from airflow_bitahub.operators.questions import PICTURE_CHECKS, FileReader, as_json_body, check_total, one_or_more
from airflow_bitahub.storage.limits import RESULT_LIMIT

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.procedures.checks import AnswerCheck, SampleCheck
    from airflow_bitahub.procedures.questions import Picture

DEFAULT_PATH = "/image"
SAMPLE_LIMIT = 200  # pictures of a sample; of more, as many are taken, evenly spread
SAMPLE_BYTES = 64 * 2**20  # of a sample's pictures together, which are read at once
_HEADERS = {"file", "files", "filename", "file_name", "image", "name", "path", "picture"}


# Checking the argument -------------------------------------------------------------------------------------------


def as_checks(name: str, value: Any) -> list[dict[str, Any]]:
    """Take a list of checks, each a mapping of one of the forms above."""
    checks: list[dict[str, Any]] = as_list(_as_check)(name, value)
    return checks


def _as_check(name: str, value: Any) -> dict[str, Any]:
    given = as_mapping(name, value)
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1:
        raise ConfigurationError(f"{name} must have exactly one of {', '.join(map(repr, _KINDS))}.")
    [kind] = kinds
    fields = _KINDS[kind]
    if unknown := [str(key) for key in given if key not in fields]:
        raise ConfigurationError(f"{name} has no field {', '.join(unknown)}. Its fields are {', '.join(fields)}.")
    if missing := [key for key in ("labels", "at_least") if key in fields and key not in given]:
        raise ConfigurationError(f"{name} must have {' and '.join(map(repr, missing))}.")
    check = {key: fields[key](f"{name}[{key!r}]", entry) for key, entry in given.items()}
    if isinstance(labels := check.get("labels"), list):
        _check_list(f"{name}['labels']", labels, check.get("files"))
    return check


def _check_list(name: str, labels: list[Any], files: list[str] | None) -> None:
    """Raise ConfigurationError for a list of labels that does not belong to as many files."""
    if files is None:
        raise ConfigurationError(
            f"{name} must say which picture of the folder each label belongs to: give a mapping such as "
            f"{{'a.png': 7}}, or a CSV file."
        )
    if len(labels) != len(files):
        raise ConfigurationError(f"{name} has {len(labels)} labels, and there are {len(files)} files.")


def _as_expected(name: str, value: Any) -> Any:
    # Left out, it accepts any answer. A template without a value must not mean the same.
    if is_none(value):
        raise ConfigurationError(f"{name} is {value!r}. Did an upstream task return no value?")
    return as_json(name, value)


def _as_labels(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return as_text(name, value)
    if not value or not isinstance(value, Mapping | Sequence) or isinstance(value, bytes):
        what = kind_of(value) if value else "an empty one"
        raise ConfigurationError(f"{name} must be a file, a mapping or a list, not {what}.")
    if isinstance(value, Mapping):
        return {str(key): _as_expected(f"{name}[{key!r}]", label) for key, label in value.items()}
    return as_list(_as_expected)(name, value)


def _as_share(name: str, value: Any) -> float:
    try:
        share = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0
    except ValueError:
        share = 0
    if not 0 < share <= 1:
        raise ConfigurationError(f"{name} must be a share above 0 and at most 1, such as 0.9.")
    return share


_REQUEST: Mapping[str, Check] = {"path": as_text, "field": optional(as_text)}
_ANSWER: Mapping[str, Check] = {"expected": _as_expected, "longest_seconds": as_seconds}
_SAMPLE: Mapping[str, Check] = {"labels": _as_labels, "at_least": _as_share}
_KINDS: Mapping[str, Mapping[str, Check]] = {
    **{kind: {kind: check, **_ANSWER, **_REQUEST} for kind, check in PICTURE_CHECKS.items()},
    "json": {"json": as_json_body, **_ANSWER, "path": as_text},
    "folder": {"folder": as_text, **_SAMPLE, **_REQUEST},
    "files": {"files": one_or_more(as_text), **_SAMPLE, **_REQUEST},
}


# Reading what it names -------------------------------------------------------------------------------------------


def read_checks(checks: Sequence[Mapping[str, Any]], hook: BitaHubHook) -> list[AnswerCheck | SampleCheck]:
    """Return the values that `procedures.checks.check_serving` asks, with the content of all files.

    :param checks: what `as_checks` returned
    :param hook: leads to the platform's storage
    :raises ConfigurationError: a label is missing, or a file is not on the platform's storage
    :raises StorageError: a file cannot be read
    """
    reader = FileReader(hook)
    return [
        (_sample if "labels" in check else _answer)(f"checks[{number}]", check, reader)
        for number, check in enumerate(checks)
    ]


def _answer(name: str, check: Mapping[str, Any], reader: FileReader) -> AnswerCheck:
    from airflow_bitahub.procedures.checks import AnswerCheck
    from airflow_bitahub.procedures.questions import Question

    pictures: tuple[Picture, ...] = ()
    for kind in PICTURE_CHECKS.keys() & check.keys():
        pictures = reader.pictures(f"{name}[{kind!r}]", kind, check[kind])
    question = Question(check.get("path", DEFAULT_PATH), pictures, check.get("json"), check.get("field") or "")
    return AnswerCheck(question, check.get("expected"), check.get("longest_seconds"))


def _sample(name: str, check: Mapping[str, Any], reader: FileReader) -> SampleCheck:
    from airflow_bitahub.procedures.checks import SampleCheck

    labelled = _labelled(name, check, reader)
    kind = "folder" if "folder" in check else "files"
    sample_name = check.get("folder", "")
    if (count := len(labelled)) > SAMPLE_LIMIT:
        labelled = [labelled[number * count // SAMPLE_LIMIT] for number in range(SAMPLE_LIMIT)]
        sample_name = f"{sample_name} ({count} have labels)" if sample_name else f"{count} files"
    pictures: list[Picture] = []
    for path, _ in labelled:
        pictures.append(reader.picture(f"{name}[{kind!r}]", path))
        check_total(f"{name}[{kind!r}]", pictures, SAMPLE_BYTES)
    labels = tuple(label for _, label in labelled)
    path, field = check.get("path", DEFAULT_PATH), check.get("field") or ""
    return SampleCheck(tuple(pictures), labels, check["at_least"], path, field, sample_name)


def _labelled(name: str, check: Mapping[str, Any], reader: FileReader) -> list[tuple[str, Any]]:
    """Return the path and the label of each picture of a sample."""
    name, labels = f"{name}['labels']", check["labels"]
    folder = check["folder"].rstrip("/") if "folder" in check else None
    if isinstance(labels, str):
        is_inside = folder is not None and not labels.startswith("/") and "://" not in labels
        labels = _read_labels(name, f"{folder}/{labels}" if is_inside else labels, reader)
    if folder is None:
        return _of_files(name, labels, check["files"])
    if isinstance(labels, list):
        _check_list(name, labels, None)
    for file in labels:
        # The file with the labels may come from a job. It must not lead to other files.
        if ".." in file.split("/"):
            raise ConfigurationError(f"{name}: {file!r} is not in the folder.")
    return [(f"{folder}/{file}", label) for file, label in labels.items()]


def _of_files(name: str, labels: Any, files: list[str]) -> list[tuple[str, Any]]:
    if isinstance(labels, list):
        _check_list(name, labels, files)
        return list(zip(files, labels, strict=True))
    missing = object()
    found = [(file, labels.get(file, labels.get(file.rsplit("/", 1)[-1], missing))) for file in files]
    for file, label in found:
        if label is missing:
            raise ConfigurationError(f"{name} has no label for {file!r}.")
    return found


def _read_labels(name: str, path: str, reader: FileReader) -> Any:
    """Return the mapping or list that a file with labels contains."""
    from airflow_bitahub.texts import parse_json

    content = reader.read(name, path, RESULT_LIMIT)
    try:
        is_json = path.lower().endswith(".json")
        labels = parse_json(content) if is_json else _rows(content.decode("utf-8-sig"))
        if not isinstance(labels, dict | list):
            raise ValueError("it has neither a mapping nor a list")
        return _as_labels("labels", labels)
    except (ValueError, csv.Error, ConfigurationError) as error:
        raise StorageError(f"{name}: {path} cannot be read as labels: {error}") from error


def _rows(text: str) -> dict[str, str]:
    """Return file -> label. A first line with the names of the columns is left out."""
    labels = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < 2:
            raise ValueError(f"line {number} must have a file and a label")
        if number > 1 or row[0].strip().lower() not in _HEADERS:
            labels[row[0].strip()] = row[1].strip()
    return labels

"""The argument `checks`: how it is checked, and what it becomes once its files are read."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, StorageError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.operators import checks as module
from airflow_bitahub.operators.checks import as_checks, read_checks
from airflow_bitahub.procedures.checks import AnswerCheck, SampleCheck
from airflow_bitahub.procedures.questions import Picture, Question

FOLDER = "/datasets/{user_id}/MNIST"
TEXT = base64.b64encode(b"seven").decode()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The folder `FOLDER` with a few pictures."""
    folder = tmp_path / "datasets/u/MNIST"
    folder.mkdir(parents=True)
    for digit in range(5):
        (folder / f"{digit}.png").write_bytes(str(digit).encode())
    return folder


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BitaHubHook:
    """A hook that needs no platform."""
    extra = {"user_id": "u", "user_name": "U", "storage_uri": f"file://{tmp_path}"}
    connection = {"conn_type": "bitahub", "host": "http://127.0.0.1:9", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_TEST", json.dumps(connection))
    return BitaHubHook("bitahub_test")


def read(hook: BitaHubHook, check: dict[str, Any], **options: Any) -> AnswerCheck | SampleCheck:
    """Return what becomes of one check; it may be read twice before."""
    [value] = read_checks(as_checks("checks", as_checks("checks", [check])), hook, **options)
    return value


def sample(**fields: Any) -> dict[str, Any]:
    return {"folder": FOLDER, "labels": "labels.csv", "at_least": 0.9, **fields}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("7.png", "checks must be a list, not text"),
        ({"json": {}}, "checks must be a list, not a mapping"),
        (["7.png"], "checks[0] must be a mapping, not text"),
        (
            [{}],
            "checks[0] must have exactly one of 'image_url', 'image_file', 'image_base64', 'json', 'folder', 'files'",
        ),
        ([{"json": {}, "image_url": "u"}], "checks[0] must have exactly one of"),
        (
            [{"json": {}}, {"image_url": "u", "expcted": 7}],
            "checks[1] has no field expcted. Its fields are image_url, ",
        ),
        ([{"json": {}, "field": "urls"}], "checks[0] has no field field"),
        ([{"image_url": "u", "at_least": 1}], "checks[0] has no field at_least"),
        ([sample(expected=7)], "checks[0] has no field expected"),
        ([{"image_url": "u", "expected": "None"}], "checks[0]['expected'] is 'None'. Did an upstream task"),
        ([{"image_url": "u", "expected": {1}}], "checks[0]['expected'] cannot be sent as JSON"),
        ([{"image_url": None}], "checks[0]['image_url'] is None, and cannot be left out"),
        ([{"image_url": ["u", ""]}], "checks[0]['image_url'][1] is ''"),
        ([{"image_file": []}], "checks[0]['image_file'] must have at least one entry"),
        ([{"image_base64": "seven!"}], "checks[0]['image_base64'] is not base64"),
        ([{"image_url": "u", "path": None}], "checks[0]['path'] is None"),
        ([{"image_url": "u", "longest_seconds": 0}], "checks[0]['longest_seconds'] must be more than 0 seconds"),
        ([{"image_url": "u", "longest_seconds": "2"}], "checks[0]['longest_seconds'] must be a timedelta or a number"),
        ([{"json": "{x}"}], "checks[0]['json'] is text that is not JSON"),
        ([{"json": {"x": b"y"}}], "checks[0]['json'] cannot be sent as JSON"),
        ([{"folder": FOLDER}], "checks[0] must have 'labels' and 'at_least'"),
        ([{"files": ["f"], "labels": [1]}], "checks[0] must have 'at_least'"),
        *(
            ([sample(at_least=x)], "checks[0]['at_least'] must be a share above 0")
            for x in (0, 1.1, "much", True, None)
        ),
        ([sample(labels=None)], "checks[0]['labels'] must be a file, a mapping or a list, not an empty one"),
        ([sample(labels=7)], "checks[0]['labels'] must be a file, a mapping or a list, not a number"),
        ([sample(labels={"7.png": None})], "checks[0]['labels']['7.png'] is None"),
        ([sample(labels=[7])], "checks[0]['labels'] must say which picture of the folder each label belongs to"),
        (
            [{"files": ["f"], "labels": [1, 2], "at_least": 1}],
            "checks[0]['labels'] has 2 labels, and there are 1 files",
        ),
    ],
)
def test_a_wrong_check_is_refused_by_the_name_of_its_part(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        as_checks("checks", given)


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    ("given", "question"),
    [
        ({"image_url": "http://x/7.png?sig=s"}, Question("/image", (Picture("url", "7.png", "http://x/7.png?sig=s"),))),
        (
            {"image_file": f"{FOLDER}/3.png", "path": "/p", "field": "f"},
            Question("/p", (Picture("file", "3.png", b"3"),), None, "f"),
        ),
        (
            {"image_file": [f"{FOLDER}/3.png", f"{FOLDER}/4.png"]},
            Question("/image", (Picture("file", "3.png", b"3"), Picture("file", "4.png", b"4"))),
        ),
        (
            {"image_base64": f"data:image/png;base64,{TEXT[:4]}\n{TEXT[4:]}"},
            Question("/image", (Picture("base64", "a picture as base64", f"data:image/png;base64,{TEXT}"),)),
        ),
        ({"json": {"x": (1, 2)}, "path": "/p"}, Question("/p", (), {"x": [1, 2]})),
        ({"json": '{"x": [1, 2]}', "path": "/p"}, Question("/p", (), {"x": [1, 2]})),
    ],
)
def test_a_question(given: dict[str, Any], question: Question, hook: BitaHubHook) -> None:
    assert read(hook, given) == AnswerCheck(question)
    expected = read(hook, {**given, "expected": (7,), "longest_seconds": 2})
    assert expected == AnswerCheck(question, [7], 2.0)


@pytest.mark.parametrize(
    ("files", "given"),
    [
        ({"labels.csv": "file,label\n1.png,1\n\n 3.png , three,ignored\n"}, {"labels": "labels.csv"}),
        ({"labels.csv": "\ufeff1.png,1\r\n3.png,three"}, {"labels": "labels.csv"}),
        ({"l.json": '{"1.png": 1, "3.png": "three"}'}, {"labels": f"{FOLDER}/l.json"}),
        ({}, {"labels": {"1.png": 1, "3.png": "three"}}),
    ],
)
def test_a_sample_of_a_folder(files: dict[str, str], given: dict[str, Any], storage: Path, hook: BitaHubHook) -> None:
    for name, text in files.items():
        (storage / name).write_text(text)
    check = read(hook, sample(folder=f"{FOLDER}/", at_least="0.9", **given))
    assert isinstance(check, SampleCheck)
    assert check.pictures == (Picture("file", "1.png", b"1"), Picture("file", "3.png", b"3"))
    assert [str(label) for label in check.labels] == ["1", "three"]
    assert (check.at_least, check.path, str(check)) == (0.9, "/image", f"2 pictures of {FOLDER}/")


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize("labels", [[1, 3], {"1.png": 1, f"{FOLDER}/3.png": 3}, f"{FOLDER}/labels.json"])
def test_a_sample_of_files(labels: Any, storage: Path, hook: BitaHubHook) -> None:
    (storage / "labels.json").write_text("[1, 3]")
    check = read(hook, {"files": [f"{FOLDER}/1.png", f"{FOLDER}/3.png"], "labels": labels, "at_least": 1, "field": "f"})
    pictures = (Picture("file", "1.png", b"1"), Picture("file", "3.png", b"3"))
    assert check == SampleCheck(pictures, (1, 3), 1.0, "/image", "f")


def test_a_large_sample_is_thinned_out_evenly(
    storage: Path, hook: BitaHubHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE_LIMIT", 2)
    (storage / "labels.csv").write_text("".join(f"{digit}.png,{digit}\n" for digit in range(5)))
    check = read(hook, sample())
    assert isinstance(check, SampleCheck)
    assert check.labels == ("0", "2")
    assert str(check) == f"2 pictures of {FOLDER} (5 have labels)"
    monkeypatch.setattr(module, "SAMPLE_BYTES", 1)
    with pytest.raises(
        ConfigurationError, match=r"checks\[0\]\['folder'\]: its pictures have more than 0 MiB together"
    ):
        read(hook, sample())


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"image_file": "/etc/passwd"}, ConfigurationError, "checks[0]['image_file'] '/etc/passwd' is not below"),
        (
            {"image_file": [f"{FOLDER}/1.png", f"{FOLDER}/x.png"]},
            StorageError,
            "checks[0]['image_file'][1]: /datasets/u",
        ),
        (sample(), StorageError, "checks[0]['labels']: /datasets/u/MNIST/labels.csv does not exist"),
        (sample(labels="l.json"), StorageError, "checks[0]['labels']: /datasets/{user_id}/MNIST/l.json cannot be read"),
        (sample(labels="one.csv"), StorageError, "cannot be read as labels: line 2 must have a file and a label"),
        (sample(labels="none.csv"), StorageError, "cannot be read as labels: labels['2.png'] is ''"),
        (sample(labels="list.json"), ConfigurationError, "checks[0]['labels'] must say which picture"),
        (sample(labels="/etc/passwd"), ConfigurationError, "checks[0]['labels'] '/etc/passwd' is not below"),
        (sample(labels={"../MNIST/1.png": 1}), ConfigurationError, "'../MNIST/1.png' is not in the folder"),
        (sample(labels={"x.png": 1}), StorageError, "checks[0]['folder']: /datasets/u/MNIST/x.png does not exist"),
        (
            {"files": [f"{FOLDER}/1.png"], "labels": {"2.png": 2}, "at_least": 1},
            ConfigurationError,
            f"checks[0]['labels'] has no label for '{FOLDER}/1.png'",
        ),
        (
            {"files": [f"{FOLDER}/1.png"], "labels": f"{FOLDER}/empty.json", "at_least": 1},
            StorageError,
            "cannot be read as labels: labels must be a file, a mapping or a list, not an empty one",
        ),
    ],
)
def test_what_cannot_be_read_is_told(
    given: dict[str, Any], kind: type[BitaHubError], says: str, storage: Path, hook: BitaHubHook
) -> None:
    files = {"l.json": "7", "one.csv": "1.png,1\n2.png", "none.csv": "1.png,1\n2.png,", "list.json": "[1]"}
    for name, text in {**files, "empty.json": "{}"}.items():
        (storage / name).write_text(text)
    with pytest.raises(kind, match=re.escape(says)):
        read(hook, given)


@pytest.mark.parametrize("check", [{"image_file": "/mnt/7.png"}, {"image_file": "s3://bucket/7.png"}], ids=str)
def test_files_elsewhere_are_refused_with_what_to_do(check: dict[str, Any], hook: BitaHubHook) -> None:
    with pytest.raises(ConfigurationError, match=r"is not below /projects, .* Put the file on that storage\.$"):
        read(hook, check)

"""Text from outside: shortened, and JSON that every store accepts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from airflow_bitahub.exceptions import APIError, JobFailedError, StorageError
from airflow_bitahub.secret_digests import SecretMask, digests_of
from airflow_bitahub.texts import MESSAGE_LIMIT, parse_json, readable_line, shorten


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    assert shorten("x" * 100, 100) == "x" * 100
    assert shorten("a " * 30 + "b " * 29 + "b", 100) == "a " * 25 + "[... 21 characters left out ...]" + " b" * 25


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Disk full, see key sesame-42", "Disk full, [... 9 characters left out ...] sesame-42"),
        ("Disk full; sesame-42-and-more", "Disk full; [... 19 characters left out ...]"),
        ("sesame-42-and-more on disk full", "[... 19 characters left out ...] on disk full"),
        ("a\nTOKEN=sesame-42-and-more\nb", "a [... 26 characters left out ...] b"),
        ("磁盘已满，sesame-42-and-more，任务失败", "磁盘已满， [... 18 characters left out ...] ，任务失败"),  # noqa: RUF001
        ("sesame-42" * 100, "[... 900 characters left out ...]"),
    ],
)
def test_a_word_is_whole_or_left_out_where_a_text_is_cut(text: str, shown: str) -> None:
    """So no part of a secret is left, which nobody could find in the text to mask it."""
    assert shorten(text, 24) == shown


@pytest.mark.parametrize("length", [95, 100, 105, 120, 200])
def test_no_part_of_a_secret_is_left_wherever_a_text_is_cut(length: int) -> None:
    for place in range(length):
        text = f"{'. ' * (place // 2)}sesame-42{' .' * ((length - place) // 2)}"
        shown = re.sub(r"\[\.\.\. \d+ characters left out \.\.\.\]", "", shorten(text, 90).replace("sesame-42", "***"))
        assert set(shown) <= set(".* "), text


def test_a_long_log_line_keeps_its_beginning_and_its_end() -> None:
    """Its secrets have been masked before."""
    assert readable_line("a" * 60 + "b" * 60, 100) == "a" * 50 + " [... 20 characters left out ...] " + "b" * 50


def test_digests_with_a_key_say_no_more_of_a_secret_than_its_length() -> None:
    stored = digests_of(["000042"], b"key")
    assert SecretMask(stored, b"key").hide("a 000042 b") == "a *** b"
    assert SecretMask(stored, b"another").hide("a 000042 b") == "a 000042 b"
    entries = [digests_of(["000042"], b"key")["words"]["6"][0] for _ in range(20)]
    assert all(len(set(column)) > 1 for column in zip(*entries, strict=True)), "a part of it does not depend on the key"


@pytest.mark.parametrize("secret", ["sesame-42", "Ali Baba", "训练-sesame"])
@pytest.mark.parametrize("length", [95, 100, 105, 120, 200])
def test_no_part_of_a_secret_is_left_wherever_a_line_is_cut(length: int, secret: str) -> None:
    mask = SecretMask(digests_of([secret]))
    for times in (1, 2, 9):
        for place in range(length):
            line = f"{'.' * place}{secret * times}{'.' * (length - place)}"
            shown = re.sub(r"\[\.\.\. \d+ characters left out \.\.\.\]", "", readable_line(line, 100, mask))
            assert set(shown) <= set(".* "), line


@pytest.mark.parametrize(
    "error", [StorageError, lambda text: JobFailedError(text, "x"), lambda text: APIError(1, None, text, "x")]
)
def test_the_text_of_an_error_is_short_and_can_be_stored(error: Any) -> None:
    text = str(error(f"Begin \ud800\0 {'x ' * 500_000}end"))
    assert text.startswith("Begin \ufffd\ufffd x ")
    assert text.endswith(" x end")
    assert len(text) < MESSAGE_LIMIT + 100


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"[NaN, Infinity, -Infinity, 1e400, -1e400]", [None] * 5),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"9223372036854775808", float(2**63)),
        (b"-9223372036854775809", -float(2**63)),
        (b"1" + b"0" * 30, 1e30),
        (b"9" * 5_000, None),
        (b'"half \\ud800 null \\u0000 both \\ud83d\\ude00"', "half \ufffd null \ufffd both \U0001f600"),
        (b'{"\\udfff": ["\\udfff"]}', {"\ufffd": ["\ufffd"]}),
        (b'"\xff \xed\xa0\x80"', "\ufffd \ufffd\ufffd\ufffd"),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'{"a": 0.5, "b": 7, "c": true, "d": null}', {"a": 0.5, "b": 7, "c": True, "d": None}),
    ],
)
def test_json_is_read_into_what_every_store_accepts(text: bytes, value: Any) -> None:
    read = parse_json(text)
    assert read == value
    assert type(read) is type(value)
    json.dumps(read, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff\xfe\x00"])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|deeply"):
        parse_json(text)

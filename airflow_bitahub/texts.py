"""Text from outside: shortened before people read it, and JSON read into values that every store accepts.

And what a message says of names, when one of them is missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

MESSAGE_LIMIT = 12_000  # characters of an error's text: enough for the last lines of a job's log
TEXT_LIMIT = 1_000  # characters of one text from outside, such as a message of the platform
_JSON_TEXT_LIMIT = 4_000  # characters of one text in a JSON value

# What UTF-8 cannot encode, and what PostgreSQL cannot store; JSON can write both as escapes.
_UNSTORABLE = re.compile("[\ud800-\udfff\0]")
# A terminal's commands, such as for colours; and characters that move, hide or turn round what is written after them.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# Chinese has no blanks between its words, and its marks are in few secrets.
_WORD = re.compile(r"[^\s，。；：！？、]+")  # noqa: RUF001
# A line of a secret may end as in JSON, with a backslash and a letter.
_LINE_BREAK = re.compile(r"[\r\n]+|(?:\\r)?\\n")
_SHORTEST_LINE = 8  # characters of a line of a secret that is masked by itself; "}" is none
_GROUP_MARKS = re.compile(r"(::(?:end)?group)::")
_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


class Mask(Protocol):
    """Masks secrets."""

    @property
    def longest(self) -> int:
        """At least the number of characters of the longest secret."""

    def hide(self, text: str) -> str:
        """Return a line of text without the secrets in it."""


def lines_of(secret: str) -> list[str]:
    """Return the lines of a secret that are masked one by one, since a log shows one line at a time."""
    lines = [line.strip() for line in _LINE_BREAK.split(secret)]
    return [line for line in lines if len(line) >= _SHORTEST_LINE] if len(lines) > 1 else []


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return a text of at most about `limit` characters: its beginning and its end, and how much is left out.

    A word is whole or left out. Airflow masks secrets later, and would not find a part of one.

    Characters that Airflow cannot store become U+FFFD, since the text may become part of a trigger's event.
    """
    if len(text) > limit:
        half = limit // 2
        # Each piece is taken with the character beyond it: where that is a blank, no word is cut.
        head, tail = text[: half + 1], text[-half - 1 :]
        head = head[: len(head) - max(1, _word_length(head[::-1]))].rstrip()
        tail = tail[max(1, _word_length(tail)) :].lstrip()
        text = _without_middle(head, len(text) - len(head) - len(tail), tail).strip()
    return make_storable(text)


def _word_length(text: str) -> int:
    """Return the number of characters of the word with which a text begins; 0 where it begins with none."""
    found = _WORD.match(text)
    return len(found[0]) if found else 0


def shorten_all(value: Any) -> Any:
    """Return a JSON value whose texts have been shortened."""
    if isinstance(value, dict):
        return {shorten(name): shorten_all(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shorten_all(each) for each in value]
    return shorten(value, _JSON_TEXT_LIMIT) if isinstance(value, str) else value


def readable_line(line: str, limit: int, mask: Mask | None = None) -> str:
    """Return a line that a program printed as people read it, of at most about `limit` characters.

    A progress bar writes over its own line, of which the last state is returned. Colours and control characters are
    removed: in a log, they could hide lines or look like others. So could Airflow's marks of a group of lines.

    :param mask: masks the secrets in the line, before it is shortened; what is left of half a secret would be shown
    """
    drawn = next((part for part in reversed(line.split("\r")) if part), "")
    plain = _CONTROLS.sub("", _ESCAPES.sub("", drawn))
    plain = _GROUP_MARKS.sub(r"\1: :", plain)
    return (_shorten_line(plain, limit) if mask is None else _mask_and_shorten(plain, limit, mask)).rstrip()


def _shorten_line(line: str, limit: int) -> str:
    """Return a line whose secrets have been masked, shortened. Unlike in `shorten`, words may be cut."""
    half = limit // 2
    if len(line) > limit:
        line = _without_middle(line[:half], len(line) - 2 * half, line[-half:])
    return make_storable(line)


def _mask_and_shorten(text: str, limit: int, mask: Mask) -> str:
    half, margin = limit // 2, max(0, mask.longest - 1)
    if len(text) <= limit + 2 * margin:
        return _shorten_line(mask.hide(text), limit)
    # Of a very long line, only what is shown is searched. Where a piece ends within the line, it may have a part of a
    # secret, which the margin takes away.
    head, tail = mask.hide(text[: half + margin]), mask.hide(text[-half - margin :])
    head, tail = head[: max(0, len(head) - margin)][:half], tail[margin:][-half:]
    return make_storable(_without_middle(head, len(text) - 2 * half, tail))


def _without_middle(head: str, left_out: int, tail: str) -> str:
    return f"{head} [... {left_out} characters left out ...] {tail}"


def make_storable(text: str) -> str:
    """Return a text in which U+FFFD replaces every character that Airflow cannot store."""
    return _UNSTORABLE.sub("\ufffd", text)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the question whether one of `names` was meant, with a blank before it; "" where none is similar."""
    import difflib  # only after a mistake

    spellings = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), spellings, n=1)
    return f" Did you mean {shorten(spellings[found[0]], 100)!r}?" if found else ""


def contents_of(what: str, names: Sequence[str], most: int = 10) -> str:
    """Return in a sentence what a folder contains.

    :param what: the folder in words
    :param names: its entries; those after the first `most` are not shown
    """
    shown = ", ".join(repr(shorten(name, 100)) for name in names[:most])
    return f"{what} contains {shown}{' and more' * (len(names) > most)}." if shown else f"{what} is empty."


def parse_json(content: bytes) -> Any:
    """Return parsed JSON in which Airflow can store every value as an XCom, in any database.

    NaN, infinities and numbers beyond a float's range become None. An integer beyond 64 bits becomes a float. Half of a
    surrogate pair, the null character and bytes that are not UTF-8 become U+FFFD.

    :raises ValueError: it is not JSON, or nested too deeply
    """
    text = content.decode("utf-8-sig", "replace")
    # Most answers of a platform contain no such number, and reading each integer by `_integer` costs a third more.
    has_long_number = _LONG_NUMBER in content.translate(_DIGITS_AS_ZEROS)
    try:
        value = (_CAREFUL_DECODER if has_long_number else _DECODER).decode(text)
        return _replace_unstorable(value) if _ESCAPE.search(text) else value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _integer(digits: str) -> int | float | None:
    if len(digits) > 20:  # reading thousands of digits as an integer is slow, and Python refuses it
        return _finite(digits)
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else float(number)


_LONG_NUMBER = b"0" * 19  # every shorter integer fits into 64 bits
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)
_CAREFUL_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_integer)


def _replace_unstorable(value: Any) -> Any:
    if isinstance(value, str):
        return make_storable(value)
    if isinstance(value, list):
        return [_replace_unstorable(each) for each in value]
    if isinstance(value, dict):
        return {_replace_unstorable(name): _replace_unstorable(each) for name, each in value.items()}
    return value

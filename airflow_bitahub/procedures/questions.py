"""Asking a served program, patiently while it warms up, and comparing its answer with what is expected."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.api.servings import Serving, invoke_serving
from airflow_bitahub.exceptions import BitaHubError, InvokeError
from airflow_bitahub.procedures import retry
from airflow_bitahub.texts import shorten

# The form fields of the authors' own service (seed: `urls`), by the kind of picture.
FORM_FIELDS: Mapping[str, str] = {"url": "urls", "file": "files", "base64": "base64s"}

REQUEST_TIMEOUT = 60.0  # seconds to wait for one answer

_PAUSES = retry.Retry(first_pause=0.25, longest_pause=5)  # between two tries of an unanswered question
_SHOWN = 200  # characters of an answer in a sentence


@dataclass(frozen=True)
class Picture:
    """A picture for a served program.

    :param kind: ``url``: the program downloads it; ``file``: its content is sent; ``base64``: it is sent as text
    :param name: what a log calls it
    :param value: the address, the content or the base64 text
    """

    kind: Literal["url", "file", "base64"]
    name: str
    value: str | bytes = field(repr=False)


@dataclass(frozen=True)
class Question:
    """One request to a served program.

    :param path: where the program listens, such as ``/image``
    :param pictures: what is sent as a form
    :param json_body: what is sent as JSON, where there are no pictures
    :param form_field: the form field of the pictures; "": one of `FORM_FIELDS`
    """

    path: str
    pictures: tuple[Picture, ...] = ()
    json_body: Any = field(default=None, repr=False)
    form_field: str = ""

    def __str__(self) -> str:
        if not self.pictures:
            return f"JSON to {self.path}"
        others = f" and {len(self.pictures) - 1} more" if len(self.pictures) > 1 else ""
        return f"{shorten(self.pictures[0].name, _SHOWN)}{others}"

    def call(self, serving: Serving, timeout: float | None) -> Call[Any]:
        """Return the call that asks it."""
        form: dict[str, str | list[str]] = {}
        files = []
        for picture in self.pictures:
            name = self.form_field or FORM_FIELDS[picture.kind]
            if isinstance(picture.value, bytes):
                files.append((name, (picture.name, picture.value)))
            else:
                form[name] = [*form.get(name, ()), picture.value]
        return invoke_serving(
            serving,
            self.path,
            json_body=None if self.pictures else self.json_body,
            form=form or None,
            files=files or None,
            timeout=timeout,
        )


@dataclass(frozen=True)
class Answer:
    """The ``data`` of a program's answer, and how many seconds the answer took."""

    value: Any
    seconds: float


@dataclass
class WarmUp:
    """For how many more seconds a program may leave questions unanswered: it may not have started completely."""

    seconds: float


def ask(
    serving: Serving,
    question: Question,
    warmup: WarmUp,
    *,
    timeout: float = REQUEST_TIMEOUT,
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Procedure[Answer]:
    """Ask a served program, again and again while it warms up, and return its answer.

    :param warmup: the time that is left for the program's start, which is used up here
    :param timeout: seconds to wait for one answer
    :param say: called with a sentence when there is no answer yet
    :raises InvokeError: the program refused the request
    :raises TransportError: it gave no answer in time
    """
    tries = 0
    while True:
        start = clock()
        try:
            answer = yield from question.call(serving, timeout)
        except BitaHubError as error:
            tries += 1
            warmup.seconds -= clock() - start
            if warmup.seconds <= 0 or not retry.may_still_start(error):
                raise
            if tries == 1:
                say(f"{error} Asking again for up to {warmup.seconds:.0f} s, since the program may still start.")
            pause = min(_PAUSES.pause_after(tries), warmup.seconds)
            warmup.seconds -= pause
        else:
            return Answer(answer, clock() - start)
        yield Sleep(pause)


# Comparing -------------------------------------------------------------------------------------------------------


def compared(answer: Any, expected: Any) -> Any:
    """Return the part of an answer that is compared with what is expected.

    Where the answer has ``predictions``, or is a list: with an expected list, all of them; with anything else, the
    first one. Otherwise, and where a mapping with ``predictions`` is expected, the whole answer.
    """
    predictions = predictions_of(answer)
    if predictions is None or (isinstance(expected, Mapping) and "predictions" in expected):
        return answer
    if isinstance(expected, list | tuple):
        return predictions
    return predictions[0] if predictions else None


def predictions_of(answer: Any) -> list[Any] | None:
    """Return all predictions of an answer: its ``predictions``, or itself where it is a list; None: it has none."""
    predictions = answer.get("predictions") if isinstance(answer, Mapping) else answer
    return predictions if isinstance(predictions, list) else None


def matches(expected: Any, got: Any) -> bool:
    """Return whether an answer is the expected one.

    7, 7.0 and "7" are the same, and so are True and "true". Lists are compared entry by entry. Of a mapping, only the
    expected keys are compared: an answer may have others, such as probabilities.
    """
    if isinstance(expected, Mapping):
        return isinstance(got, Mapping) and all(key in got and matches(expected[key], got[key]) for key in expected)
    if isinstance(expected, list | tuple):
        is_as_long = isinstance(got, list | tuple) and len(got) == len(expected)
        return is_as_long and all(map(matches, expected, got))
    if isinstance(expected, str) != isinstance(got, str):
        expected, got = (_parsed(each) if isinstance(each, str) else each for each in (expected, got))
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    return bool(expected == got)


def _parsed(text: str) -> Any:
    """Return the number or boolean that a text stands for; the text itself where it is none."""
    word = text.strip().lower()
    if word in ("true", "false"):
        return word == "true"
    for number in (int, float):
        with suppress(ValueError):
            return number(word)
    return text


def shown(value: Any) -> str:
    """Return an answer as a sentence shows it: shortened, and without what is not printable."""
    return shorten(str(value) if isinstance(value, InvokeError) else repr(value), _SHOWN)

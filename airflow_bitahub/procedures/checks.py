"""Checks of a serving: what its author asks of it before anybody relies on it.

A check is a value. `check_serving` asks each of them and writes down the answer and its seconds; the first one that
fails raises `ServingCheckError`.

    AnswerCheck   one or several pictures, or JSON: the expected answer, and the longest time
    SampleCheck   many pictures with labels: the least share of right answers
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from airflow_bitahub.api.protocol import Procedure
from airflow_bitahub.api.servings import Serving
from airflow_bitahub.exceptions import (
    InvokeError,
    ServingCheckError,
    ServingFailedError,
    ServingUnavailableError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.questions import (
    REQUEST_TIMEOUT,
    Answer,
    Picture,
    Question,
    WarmUp,
    ask,
    compared,
    matches,
    predictions_of,
    shown,
)

WARMUP_TIMEOUT = 60.0  # seconds for which a new program may leave questions unanswered

_TRIES_FOR_TIME = 3  # how often a question is asked whose answer took too long; the first answer is often slow
_BATCH, _BATCH_BYTES = 16, 8 * 2**20  # pictures of a sample in one request, and their bytes
_WRONG_SHOWN = 5  # wrong answers of a sample in a sentence

Ask: TypeAlias = Callable[[Question], Procedure[Answer]]
_Outcome: TypeAlias = Procedure[tuple[str, float, bool, str]]  # answer, seconds, passed, remark


@dataclass(frozen=True)
class AnswerCheck:
    """A question, and what is expected of its answer.

    :param expected: see `questions.compared`; None: any answer will do
    :param longest_seconds: how long the answer may take; None: as long as a request may
    """

    question: Question
    expected: Any = None
    longest_seconds: float | None = None

    def __str__(self) -> str:
        return str(self.question)


@dataclass(frozen=True)
class SampleCheck:
    """Many pictures, and what their predictions should be.

    :param pictures: the pictures, each with a name of its own
    :param labels: the right prediction for each of them
    :param at_least: the share of right predictions, above 0 and at most 1
    :param path: where the program listens
    :param form_field: see `Question`
    :param name: what a log calls the sample, such as its folder
    """

    pictures: tuple[Picture, ...]
    labels: tuple[Any, ...]
    at_least: float
    path: str
    form_field: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{len(self.pictures)} pictures{f' of {self.name}' if self.name else ''}"


@dataclass(frozen=True)
class CheckResult:
    """What came of one check. As text it is a sentence for a log.

    :param number: the check's place in the list, from 1
    :param seconds: how long the answer took; of a sample, all answers together
    :param remark: why the check failed, or which answers of a sample were wrong
    """

    number: int
    question: str
    answer: str
    seconds: float
    passed: bool = True
    remark: str = ""

    def __str__(self) -> str:
        remark = f"; {self.remark}" if self.remark else ""
        return f"check {self.number}: {self.question} -> {self.answer} in {self.seconds:.2f} s{remark}"


def check_serving(
    serving: Serving,
    checks: Sequence[AnswerCheck | SampleCheck],
    *,
    warmup_timeout: float = WARMUP_TIMEOUT,
    timeout: float = REQUEST_TIMEOUT,
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Procedure[list[CheckResult]]:
    """Ask all checks of a serving one after the other, and return what came of them.

    :param warmup_timeout: seconds for which the program may leave questions unanswered, all together. A wrong answer
        is an answer, and the question is not asked again
    :param timeout: seconds to wait for one answer
    :param say: called with a sentence about each check, and when there is no answer yet
    :raises ServingCheckError: a check failed
    :raises ServingFailedError: the program did not answer
    """
    asking = partial(ask, serving, warmup=WarmUp(warmup_timeout), timeout=timeout, say=say, clock=clock)
    results = []
    for number, check in enumerate(checks, 1):
        start = clock()
        try:
            if isinstance(check, SampleCheck):
                outcome = yield from _ask_sample(check, asking)
            else:
                outcome = yield from _ask_question(check, asking)
        except (InvokeError, TransportError) as error:
            if retry.may_still_start(error):  # which may pass by itself
                result = CheckResult(number, str(check), "no answer", clock() - start, False, str(error))
                raise ServingFailedError(f"Serving {serving.name!r} failed {result}", serving.name) from error
            answer = "refused" if isinstance(error, InvokeError) else "no answer"
            outcome = answer, clock() - start, False, str(error)
        result = CheckResult(number, str(check), *outcome)
        if not result.passed:
            raise ServingCheckError(f"Serving {serving.name!r} failed {result}", serving.name)
        say(str(result))
        results.append(result)
    return results


def _ask_question(check: AnswerCheck, asking: Ask) -> _Outcome:
    answer = yield from asking(check.question)
    times = [answer.seconds]
    got = compared(answer.value, check.expected)
    if check.expected is not None and not matches(check.expected, got):
        return shown(got), answer.seconds, False, f"{shown(check.expected)} was expected."
    limit = check.longest_seconds
    while limit is not None and min(times) > limit and len(times) < _TRIES_FOR_TIME:
        times.append((yield from asking(check.question)).seconds)
    if limit is not None and min(times) > limit:
        others = f" (asked {len(times)} times, this was the shortest)"
        return shown(got), min(times), False, f"at most {limit:g} s were expected{others}."
    return shown(got), min(times), True, ""


def _ask_sample(check: SampleCheck, asking: Ask) -> _Outcome:
    wrong: list[str] = []
    seconds, begin, longest = 0.0, 0, _BATCH
    while begin < len(check.pictures):
        batch = _batch(check.pictures[begin:], longest)
        predictions, spent = yield from _predictions(Question(check.path, batch, None, check.form_field), asking)
        seconds += spent
        if len(predictions) != len(batch):
            longest = 1  # the program takes one picture in a request, or refuses one of these
            continue
        for picture, label, prediction in zip(batch, check.labels[begin:], predictions, strict=False):
            if isinstance(prediction, InvokeError) or not matches(label, prediction):
                wrong.append(f"{picture.name} -> {shown(prediction)} instead of {shown(label)}")
        begin += len(batch)
    right = len(check.pictures) - len(wrong)
    share = right / len(check.pictures)
    remarks = [] if share >= check.at_least else [f"a share of at least {check.at_least:g} was expected"]
    if wrong:
        more = f" and {len(wrong) - _WRONG_SHOWN} more" if len(wrong) > _WRONG_SHOWN else ""
        remarks.append(f"wrong: {', '.join(wrong[:_WRONG_SHOWN])}{more}")
    return f"{right} right ({share:.4g})", seconds, share >= check.at_least, "; ".join(remarks)


def _predictions(question: Question, asking: Ask) -> Procedure[tuple[list[Any], float]]:
    """Return a program's predictions for some pictures, and their seconds.

    For one picture there is always one: where the program refused it, the error. Where there are fewer or more than
    pictures, the program may take one picture in a request only.
    """
    is_single = len(question.pictures) == 1
    try:
        answer = yield from asking(question)
    except ServingUnavailableError:
        raise
    except InvokeError as error:
        return [error] if is_single else [], 0
    except UnexpectedResponseError:  # the answer about so many may be too long
        if is_single:
            raise
        return [], 0
    if is_single:
        return [compared(answer.value, "")], answer.seconds
    return predictions_of(answer.value) or [], answer.seconds


def _batch(pictures: Sequence[Picture], longest: int) -> tuple[Picture, ...]:
    """Return the first pictures, as many as one request may have: at least one."""
    batch: list[Picture] = []
    size = 0
    for picture in pictures[:longest]:
        size += len(picture.value)
        if batch and size > _BATCH_BYTES:
            break
        batch.append(picture)
    return tuple(batch)

"""Asking a served program and checking its answers, stepped by hand: there is no server and no clock here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Call, Response
from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    InvokeError,
    ServingCheckError,
    ServingFailedError,
    ServingUnavailableError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures.checks import AnswerCheck, CheckResult, SampleCheck, check_serving
from airflow_bitahub.procedures.questions import Picture, Question, WarmUp, ask, compared, matches
from tests.procedures.stage import NOT_CONNECTED, RESET, TIMEOUT, Stage, fresh, serving

SEVEN = Picture("file", "7.png", b"7")
URL = Picture("url", "seven.png", "http://example.com/seven.png?sig=x")
TEXT = Picture("base64", "a picture as base64", "Nw==")
UNAVAILABLE = ServingUnavailableError("no program of this serving listens", "mnist")
WARMING_UP = [NOT_CONNECTED, RESET, TIMEOUT, UNAVAILABLE]


@dataclass
class Program(Stage):
    """A served program in memory. It predicts what a picture's content says, and takes its time.

    :param takes: seconds for an answer, the first ones first; the last of them also for all later ones
    :param fails: what questions are answered with instead, the last ones first
    :param answers: gives the `data` of an answer to the pictures of a request
    """

    takes: list[float] = field(default_factory=lambda: [0.125])
    fails: list[BitaHubError] = field(default_factory=list)
    answers: Callable[[list[str]], Any] = lambda pictures: {"predictions": [int(each) for each in pictures]}
    requests: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def answer(self, call: Call[Any]) -> Any:
        asked = call.request
        self.requests.append(asked)
        self.now += self.takes.pop(0) if len(self.takes) > 1 else self.takes[0]
        if self.fails:
            raise fresh(self.fails.pop())
        pictures = [content.decode() for _, (_, content) in asked.files or ()]
        data = self.answers(pictures or ["7"])
        return call.read(Response(200, {}, json.dumps({"status": {"code": "200"}, "data": data}).encode()), Platform())

    def check(self, *checks: AnswerCheck | SampleCheck, **options: Any) -> list[CheckResult]:
        checking = check_serving(serving("RUNNING"), checks, say=self.said.append, clock=self.clock, **options)
        return self.run(checking)


def question(*pictures: Picture, **fields: Any) -> Question:
    return Question("/image", pictures or (SEVEN,), **fields)


def sample(count: int = 20, at_least: float = 1.0, labels: Mapping[int, Any] | None = None) -> SampleCheck:
    pictures = tuple(Picture("file", f"{number}.png", str(number).encode()) for number in range(count))
    right = [(labels or {}).get(number, number) for number in range(count)]
    return SampleCheck(pictures, tuple(right), at_least, "/image", name="MNIST/sample")


def refusal(said: str = "no picture") -> InvokeError:
    return InvokeError(f"It said: {said}.", "mnist")


# What is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "form", "files"),
    [
        (question(URL), {"urls": [URL.value]}, None),
        (question(TEXT, TEXT), {"base64s": ["Nw==", "Nw=="]}, None),
        (question(SEVEN), None, [("files", ("7.png", b"7"))]),
        (question(SEVEN, SEVEN, form_field="p"), None, [("p", ("7.png", b"7"))] * 2),
        (question(URL, SEVEN), {"urls": [URL.value]}, [("files", ("7.png", b"7"))]),
    ],
)
def test_pictures_are_sent_as_a_form(asked: Question, form: Any, files: Any) -> None:
    request = asked.call(serving("RUNNING"), 5).request
    assert (request.form, request.files, request.json_body, request.timeout) == (form, files, None, 5)
    assert request.operation == "POST http://mnist.example.com/image"


def test_json_is_sent_as_it_is() -> None:
    request = Question("/predict", json_body={"x": [1]}).call(serving("RUNNING"), None).request
    assert (request.form, request.files, request.json_body) == (None, None, {"x": [1]})


def test_neither_the_address_nor_the_json_of_a_question_reaches_a_log() -> None:
    shown = [question(URL), question(URL, URL, SEVEN), Question("/p", json_body={"key": "sig=x"})]
    assert [str(each) for each in shown] == ["seven.png", "seven.png and 2 more", "JSON to /p"]
    assert "sig=x" not in repr(shown)


# While it warms up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", WARMING_UP, ids=repr)
def test_a_program_that_warms_up_is_asked_again(error: BitaHubError) -> None:
    program = Program(takes=[1], fails=[error] * 4)
    [result] = program.check(AnswerCheck(question(), 7), warmup_timeout=60)
    assert result.seconds == 1, "the tries before the answer do not count"
    assert program.pauses == [0.25, 0.5, 1, 2]
    assert len(program.said) == 2, "a sentence when there is no answer yet, and one about the check"
    assert "Asking again for up to 59 s" in program.said[0]


@pytest.mark.parametrize("error", WARMING_UP, ids=repr)
@pytest.mark.parametrize("limit", [0, 10, 60])
def test_a_program_that_never_answers_fails_after_the_limit(error: BitaHubError, limit: float) -> None:
    program = Program(takes=[0.125], fails=[error] * 1000)
    with pytest.raises(ServingFailedError, match=rf"'mnist' failed check 1: 7\.png -> no answer in .* s; {error}"):
        program.check(AnswerCheck(question(), 7), warmup_timeout=limit)
    assert limit <= program.now - 1000 <= limit + 1
    assert len(program.requests) == 1 if limit == 0 else len(program.requests) > 5


def test_the_limit_is_for_all_checks_together_and_an_answer_costs_nothing_of_it() -> None:
    program = Program(takes=[1], fails=[TIMEOUT] * 3)
    program.check(*[AnswerCheck(question(), 7)] * 30, warmup_timeout=5)
    program.fails = [TIMEOUT] * 4
    with pytest.raises(ServingFailedError):
        program.check(AnswerCheck(question(), 7), warmup_timeout=5)


@pytest.mark.parametrize(
    ("error", "answer"),
    [(refusal(), "refused"), (UnexpectedResponseError("the answer is too long"), "no answer")],
)
def test_an_answer_is_an_answer(error: BitaHubError, answer: str) -> None:
    program = Program(fails=[error])
    with pytest.raises(ServingCheckError, match=f"{answer} in .* s; {error}"):
        program.check(AnswerCheck(question()))
    assert len(program.requests) == 1
    program = Program(fails=[error])
    with pytest.raises(type(error), match=str(error)):
        program.run(ask(serving("RUNNING"), question(), WarmUp(60), clock=program.clock))


def test_a_mistake_of_the_author_is_no_failed_check() -> None:
    with pytest.raises(ConfigurationError):
        Program(fails=[ConfigurationError("HTTP_PROXY is no address")]).check(AnswerCheck(question()))


# Questions -------------------------------------------------------------------------------------------------------


def test_each_check_is_told_with_its_answer_and_seconds() -> None:
    program = Program(takes=[0.125, 2, 0.25])
    results = program.check(AnswerCheck(question(), 7), AnswerCheck(Question("/p", json_body={})), sample())
    assert program.said == [str(result) for result in results]
    assert program.said == [
        "check 1: 7.png -> 7 in 0.12 s",
        "check 2: JSON to /p -> 7 in 2.00 s",
        "check 3: 20 pictures of MNIST/sample -> 20 right (1) in 0.50 s",
    ]


def test_a_wrong_answer_fails_at_once_and_says_what_was_expected() -> None:
    program = Program()
    with pytest.raises(ServingCheckError, match=r"failed check 2: 7\.png -> 7 in 0\.12 s; 8 was expected") as failed:
        program.check(AnswerCheck(question(), 7), AnswerCheck(question(), 8), AnswerCheck(question(), 7))
    assert failed.value.serving_name == "mnist"
    assert len(program.requests) == 2
    assert len(program.said) == 1


@pytest.mark.parametrize(
    ("takes", "asked", "problem"),
    [
        ([1], 1, None),
        ([3, 1], 2, None),
        ([3, 2, 1.5], 3, "-> 7 in 1.50 s; at most 1 s were expected (asked 3 times, this was the shortest)."),
    ],
)
def test_only_a_program_that_stays_slow_is_too_slow(takes: list[float], asked: int, problem: str | None) -> None:
    program, check = Program(takes=takes), AnswerCheck(question(), 7, longest_seconds=1)
    if problem is None:
        assert program.check(check)[0].seconds == 1
    else:
        with pytest.raises(ServingCheckError) as failed:
            program.check(check)
        assert problem in str(failed.value)
    assert len(program.requests) == asked


# Samples ---------------------------------------------------------------------------------------------------------


def one_by_one(pictures: list[str]) -> Any:
    """Predict the first picture only, as a program does that expects no other."""
    return {"predictions": [int(pictures[0])]}


def refuse_several(pictures: list[str]) -> Any:
    if len(pictures) > 1:
        raise refusal("one picture, please")
    return int(pictures[0])


@pytest.mark.parametrize(
    ("answers", "sizes"),
    [
        (Program.answers, [16, 16, 8]),
        (lambda pictures: [int(each) for each in pictures], [16, 16, 8]),
        (one_by_one, [16, *[1] * 40]),
        (refuse_several, [16, *[1] * 40]),
    ],
    ids=["predictions", "a bare list", "one by one", "several are refused"],
)
def test_a_sample_is_asked_in_batches_where_the_program_takes_them(answers: Any, sizes: list[int]) -> None:
    program = Program(answers=answers)
    [result] = program.check(sample(40))
    assert (result.answer, result.question) == ("40 right (1)", "40 pictures of MNIST/sample")
    assert [len(asked.files) for asked in program.requests] == sizes


def test_pictures_that_are_large_come_in_smaller_batches() -> None:
    program = Program(answers=lambda pictures: [len(each) for each in pictures])
    size = 3 * 2**20
    pictures = tuple(Picture("file", f"{number}.png", b"0" * size) for number in range(5))
    program.check(SampleCheck(pictures, (size,) * 5, 1, "/image"))
    assert [len(asked.files) for asked in program.requests] == [2, 2, 1]


@pytest.mark.parametrize(("at_least", "passes"), [(0.9, True), (0.91, False)])
def test_the_share_of_right_answers_decides(at_least: float, *, passes: bool) -> None:
    program, check = Program(), sample(20, at_least, labels={3: 4, 17: "x"})
    if passes:
        [result] = program.check(check)
        assert result.answer == "18 right (0.9)"
        assert result.remark == "wrong: 3.png -> 3 instead of 4, 17.png -> 17 instead of 'x'"
        return
    with pytest.raises(ServingCheckError) as failed:
        program.check(check)
    assert (
        "failed check 1: 20 pictures of MNIST/sample -> 18 right (0.9) in 0.25 s; a share of at least 0.91 was "
        "expected; wrong: 3.png -> 3 instead of 4, 17.png -> 17 instead of 'x'"
    ) in str(failed.value)


def test_only_a_few_wrong_answers_are_told() -> None:
    with pytest.raises(ServingCheckError, match=r"5 instead of 50 and 94 more$"):
        Program().check(sample(100, labels={number: number * 10 for number in range(100)}))


def test_a_picture_that_the_program_refuses_is_a_wrong_answer() -> None:
    def refuse_three(pictures: list[str]) -> Any:
        if "3" in pictures:
            raise refusal("it is no picture")
        return {"predictions": [int(each) for each in pictures]}

    program = Program(answers=refuse_three)
    assert program.check(sample(10, 0.9))[0].answer == "9 right (0.9)"
    with pytest.raises(ServingCheckError, match=r"3\.png -> It said: it is no picture\. instead of 3"):
        program.check(sample(10, 0.95))


def test_a_program_that_ends_during_a_sample_fails_the_check() -> None:
    program = Program()

    def end(pictures: list[str]) -> Any:
        program.fails = [NOT_CONNECTED] * 100
        return pictures[:1]

    program.answers = end
    with pytest.raises(ServingFailedError, match=r"no answer in .*; connection refused"):
        program.check(sample(10, 0.1), warmup_timeout=5)


# Comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        *((one, other) for one in (7, 7.0, "7", "7.0") for other in (7, 7.0)),
        (7, "7"),
        (" 7", 7),
        ("cat", "cat"),
        (True, True),
        ("True", True),
        (False, "false"),
        ([7, "1"], [7.0, 1]),
        ((7,), [7]),
        ({"label": "cat"}, {"label": "cat", "score": 0.9}),
        ({"a": [{"b": 1}]}, {"a": [{"b": "1", "c": 2}]}),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_the_same_answers(expected: Any, got: Any) -> None:
    assert matches(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (7, 8),
        (7, None),
        ("7", "07"),
        (1, True),
        (True, 1),
        ("1", True),
        ("seven", 7),
        ([7], 7),
        (7, [7]),
        ([7], [7, 7]),
        ({"label": "cat"}, {"score": 1}),
        ({"label": "cat"}, "cat"),
        ("nan", float("nan")),
        ("9007199254740993", 9007199254740992),
    ],
)
def test_different_answers(expected: Any, got: Any) -> None:
    assert not matches(expected, got)


@pytest.mark.parametrize(
    ("answer", "expected", "part"),
    [
        ({"predictions": [7, 1]}, 7, 7),
        ({"predictions": [7, 1]}, [7], [7, 1]),
        ({"predictions": [7]}, {"predictions": [7]}, {"predictions": [7]}),
        ({"predictions": [{"label": "cat"}]}, {"label": "cat"}, {"label": "cat"}),
        ({"predictions": []}, 7, None),
        ({"predictions": "7"}, 7, {"predictions": "7"}),
        ({"label": "cat"}, {"label": "cat"}, {"label": "cat"}),
        ([7, 1], 7, 7),
        ([7, 1], [7], [7, 1]),
        (7, 7, 7),
    ],
)
def test_what_is_compared_with_the_expected_answer(answer: Any, expected: Any, part: Any) -> None:
    assert compared(answer, expected) == part

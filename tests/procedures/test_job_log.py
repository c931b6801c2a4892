"""Following a job's log: every line once and in order, whatever the platform's answers look like, and within bounds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from airflow_bitahub.api.job_log import LogPart, read_log_parts
from airflow_bitahub.procedures import job_log
from airflow_bitahub.procedures.job_log import JobLog, Look


def by_offset(log: bytes, asked: dict[str, Any], tail_lines: int) -> LogPart:
    """Answer as a platform that knows offsets."""
    begin = asked.get("offset", 0) if asked.get("offset", 0) <= len(log) else 0
    *lines, _rest = log[begin:].split(b"\n")
    left_out = max(0, len(lines) - tail_lines)
    start = begin + sum(len(line) + 1 for line in lines[:left_out])
    return LogPart("", log[start:].decode("utf-8", "replace"), start, len(log), left_out)


def by_tail(log: bytes, _: dict[str, Any], tail_lines: int) -> LogPart:
    """Answer as a platform that only knows the last lines."""
    *lines, rest = log.decode("utf-8", "replace").split("\n")
    return LogPart("", "\n".join([*lines[-tail_lines:], rest]))


Answer = Callable[[bytes, dict[str, Any], int], LogPart]
both_ways = pytest.mark.parametrize("answer", [by_offset, by_tail])


class Following:
    """Follows a log that grows, each look in a process of its own."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._cursor: Any = None
        self.log = b""

    def look(self, more: str | bytes = b"", *, is_last: bool = False) -> Look:
        self.log += more if isinstance(more, bytes) else more.encode()
        follower = JobLog("job", json.loads(json.dumps(self._cursor)))
        query = follower.call().request.query
        asked = {"offset": int(query["offset"])} if "offset" in query else {}
        look = follower.take([self._answer(self.log, asked, int(query["tailLines"]))], is_last=is_last)
        self._cursor = follower.cursor
        return look

    def lines(self, more: str | bytes = b"", *, is_last: bool = False) -> list[str]:
        return [line.removeprefix("[job] ") for line in self.look(more, is_last=is_last).shown()]


@both_ways
def test_every_line_comes_once_and_in_order(answer: Answer) -> None:
    chance = random.Random(7)
    text = "".join(f"line {number} 训练{'!' * chance.randrange(5)}\n" for number in range(300))
    following, content, seen = Following(answer), text.encode(), []
    while content:
        size = chance.randrange(1, 700)  # also in the middle of a line, or of a character
        seen += following.lines(content[:size])
        content = content[size:]
    seen += following.lines(is_last=True)
    joined = "".join(seen).replace("\ufffd", "")
    assert joined.replace("训", "").replace("练", "") == text.replace("\n", "").replace("训", "").replace("练", "")
    assert following.lines() == []


@both_ways
def test_lines_that_are_alike_are_told_apart(answer: Answer) -> None:
    following = Following(answer)
    assert following.lines("a\n\na\n\n") == ["a", "[job]", "a", "[job]"]
    assert following.lines("a\n\n") == ["a", "[job]"]
    assert following.lines() == []


@both_ways
def test_unfinished_line_is_shown_once_it_no_longer_grows(answer: Answer) -> None:
    following = Following(answer)
    assert following.lines("one\nDownloa") == ["one"]
    assert following.lines("ding ...") == []
    assert following.lines() == ["Downloading ..."]
    assert following.lines() == []
    assert following.lines(" done\ntwo\n") == [" done", "two"]
    assert following.lines("last words") == []
    assert following.lines(is_last=True) == ["last words"]
    assert following.lines(is_last=True) == []


@both_ways
def test_line_that_was_shown_before_its_end_gets_no_second_one(answer: Answer) -> None:
    following = Following(answer)
    assert following.lines("Downloading ...") == []
    assert following.lines() == ["Downloading ..."]
    assert following.lines("\n") == []
    assert following.lines("next\r\n") == ["next"]


def test_tail_that_is_empty_for_a_moment_changes_nothing() -> None:
    following = Following(by_tail)
    assert following.lines("1\n2\n") == ["1", "2"]
    log, following.log = following.log, b""
    assert following.lines() == []
    following.log = log
    assert following.lines("3\n") == ["3"]


@both_ways
def test_progress_bar_is_one_line_in_each_look(answer: Answer) -> None:
    following = Following(answer)
    assert following.lines("\r 1%\r 2%\r 3%\r 4") == [" 3%"]
    assert following.lines("%\r 5%\r") == [" 4%"]
    assert following.lines("") == [" 5%"]
    assert following.lines("\r99%\r100%\nnext\n") == ["100%", "next"]
    assert following.lines("\rDone\n\rBegun\r\n") == ["Done", "Begun"]


@both_ways
def test_what_is_left_out_is_counted_as_far_as_it_is_known(answer: Answer) -> None:
    following = Following(answer)
    following.lines("1\n2\n")
    look = following.look("".join(f"{number}\n" for number in range(3, 1003)))
    assert look.lines == [f"[job] {number}" for number in range(504, 1003)]
    assert (look.left_out, look.is_gap) == ((501, False) if answer is by_offset else (1, True))
    assert look.shown()[0].endswith("left out here: " + ("501" if answer is by_offset else "1 or more"))
    assert following.lines("1003\n") == ["1003"]


@both_ways
def test_log_that_begins_anew_is_followed_from_its_beginning(answer: Answer) -> None:
    following = Following(answer)
    following.lines("a long first line\n")
    following.log = b""
    assert following.lines("again\n")[-1] == "again"


def test_look_is_cut_to_its_last_lines() -> None:
    look = Look(["1", "2", "3", "4"], 5)
    assert look.within(5) == look
    assert look.within(3) == Look(["3", "4"], 7)
    assert look.within(3).shown() == ["Lines of the job's log are left out here: 7", "3", "4"]
    assert Look(["1", "2"]).within(2) == Look(["1", "2"])
    assert Look(["1", "2"]).within(1) == Look([], 2)


def test_no_line_is_read_in_vain_where_the_platform_counts_those_it_leaves_out() -> None:
    follower = JobLog("job")
    assert follower.call(5).request.query == {"tailLines": "500", "offset": "0"}
    follower.take([LogPart("", "1\n2\n", 0, 4, 0)], 5)
    assert follower.call(5).request.query == {"tailLines": "5", "offset": "4"}
    look = follower.take([LogPart("", "7\n8\n9\n10\n11\n", 12, 24, 4)], 5)
    assert look.shown() == ["Lines of the job's log are left out here: 5", *(f"[job] {n}" for n in (8, 9, 10, 11))]


def test_line_without_an_end_is_shown_in_pieces() -> None:
    following = Following(by_offset)
    [piece] = following.lines("x" * 100_000)
    assert len(piece) < 2 * job_log.LINE_LIMIT
    assert "characters left out" in piece
    assert following.lines("y\n") == ["y"]


def test_replicas_are_told_apart_and_followed_each_for_itself() -> None:
    follower = JobLog("job")
    first = follower.take([LogPart("worker-0", "a\n", 0, 2), LogPart("worker-1", "b\nhal", 0, 5)])
    assert first.lines == ["[job worker-0] a", "[job worker-1] b"]
    assert JobLog("job", follower.cursor).call().request.query["offset"] == "worker-0:2,worker-1:2"
    assert follower.take([LogPart("worker-0", "", 2, 2), LogPart("worker-1", "half\n", 2, 7)]).lines == [
        "[job worker-1] half"
    ]


def test_cursor_of_another_job_does_not_count_and_holds_no_text() -> None:
    follower = JobLog("job-1")
    follower.take([LogPart("", "the secret sesame\nand an unfinished sesa")])
    assert "sesa" not in json.dumps(follower.cursor)
    assert JobLog("job-2", follower.cursor).cursor == JobLog("job-2").cursor
    for streams in ("nonsense", {"": {"unknown": 1}}):
        assert JobLog("job-1", {"job": "job-1", "streams": streams}).cursor == JobLog("job-1").cursor


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("a\nb\n", [LogPart("", "a\nb\n")]),
        (None, [LogPart("", "")]),
        ({"log": "a\n"}, [LogPart("", "a\n")]),
        ({"log": ["a", "b"]}, [LogPart("", "a\nb\n")]),
        (["a", "b\n"], [LogPart("", "a\nb\n")]),
        ({"content": "a", "offset": 3, "nextOffset": 4, "skippedLines": 2}, [LogPart("", "a", 3, 4, 2)]),
        ({"log": "a", "offset": 9, "nextOffset": 4}, [LogPart("", "a")]),
        (
            {
                "log": "all",
                "taskLogs": [{"taskRoleName": "ps", "taskIndex": 0, "log": "a", "offset": 0, "nextOffset": 1}],
            },
            [LogPart("ps-0", "a", 0, 1)],
        ),
        (
            {"items": [{"podName": "mnist-0", "content": "a"}, {"log": "b"}]},
            [LogPart("mnist-0", "a"), LogPart("1", "b")],
        ),
        ({"something": "else"}, None),
        (7, None),
    ],
)
def test_every_known_shape_is_read(data: Any, parts: list[LogPart] | None) -> None:
    assert read_log_parts(data) == parts

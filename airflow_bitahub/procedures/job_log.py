"""Following a job's log: which of its lines are new, and how they are shown. Here are the bounds of all that, too.

A look reads the last lines of the log; see `api.job_log`. Where the platform tells offsets, the next look begins where
this one ends. Elsewhere the lines of the next look are joined to those of this one where they overlap.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_bitahub.api.job_log import LogPart, follow_job_log
from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.exceptions import (
    APIError,
    BitaHubError,
    ConfigurationError,
    NotFoundError,
    UnexpectedResponseError,
)
from airflow_bitahub.procedures.retry import is_transient
from airflow_bitahub.texts import Mask, readable_line

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job

LINES_PER_LOOK = 500  # that are read, and at most logged
LAST_LINES = 50  # that are logged when a job has ended, also where they were logged before
LINES_PER_SECOND = 200  # for all deferred tasks of a triggerer: each costs it about half a millisecond
LINE_LIMIT = 2000  # characters; of a longer line, only its beginning and end are logged
# Seconds without another request after the platform has refused one, or has none to offer; and after a failed one, at
# first. This pause doubles with each failure.
REFUSED_PAUSE, FAILED_PAUSE = 1800.0, 60.0

CURSOR_KEY = "bitahub_log_cursor"  # of the XCom

_UNFINISHED_LIMIT = 16_000  # characters of a line without an end, after which it counts as a line
_FIRST_LOOK = 2.0  # seconds after which a worker looks at the log for the first time
_JOINED_BY = 50  # lines by which a look is joined to the one before


class Look(NamedTuple):
    """What a look at a log has found.

    :param lines: the new lines, as they are logged
    :param left_out: the number of new lines that are not among them
    :param is_gap: more lines may be missing, and nobody knows how many
    """

    lines: list[str]
    left_out: int = 0
    is_gap: bool = False

    def within(self, most: int) -> Look:
        """Return the last `most` lines of this look. The line about what is left out counts among them."""
        lines, left_out = self.lines, self.left_out
        room = max(0, most - 1 if left_out or self.is_gap or len(lines) > most else most)
        kept = lines[len(lines) - room :] if len(lines) > room else lines
        return Look(kept, left_out + len(lines) - len(kept), self.is_gap)

    def __add__(self, other: Any) -> Look:
        return Look(self.lines + other.lines, self.left_out + other.left_out, self.is_gap or other.is_gap)

    def shown(self) -> list[str]:
        """Return the lines to log, with one about what is left out before them."""
        if not (self.left_out or self.is_gap):
            return self.lines
        how_many = str(self.left_out or "an unknown number") + " or more" * bool(self.is_gap and self.left_out)
        return [f"Lines of the job's log are left out here: {how_many}", *self.lines]


@dataclass
class _Stream:
    """How far one replica's part of a log has been read.

    :param offset: of the first line that is not logged yet, in bytes; None: the platform does not tell
    :param seen: the number of lines that were read; used where there are no offsets, like the next
    :param recent: digests of the last of them
    :param shown: the number of characters at the beginning of the unfinished line that were logged already
    :param held: the length of the unfinished line at the last look; -1: there was none
    """

    offset: int | None = None
    seen: int = 0
    recent: list[str] = field(default_factory=list)
    shown: int = 0
    held: int = -1

    def take(self, part: LogPart, tail_lines: int, *, is_last: bool) -> Look:
        """Return the new lines as the program printed them.

        :param is_last: the job has ended, so that its last line is finished, too
        """
        if part.start is None or part.end is None:
            self.offset = None
            *lines, rest = part.text.split("\n")
            lines, is_gap = self._new(lines, is_whole=len(lines) < tail_lines)
            if is_gap:
                self.shown, self.held = 0, -1
            return self._finish(lines, rest, Look([], is_gap=is_gap), None, is_last=is_last)
        text, found, begun = part.text, Look([]), self.offset or 0
        if part.start > begun:
            found = Look([], part.left_out or 0, part.left_out is None)
            self.shown, self.held = 0, -1
        elif part.end < begun:  # the log began anew
            self.shown, self.held = 0, -1
        elif part.start < begun:  # more than was asked for
            text = text.encode()[begun - part.start :].decode("utf-8", "replace")
        *lines, rest = text.split("\n")
        return self._finish(lines, rest, found, part.end, is_last=is_last)

    def _new(self, lines: list[str], *, is_whole: bool) -> tuple[list[str], bool]:
        """Return the lines of a tail that are new, and whether some before them may be missing."""
        if not lines:  # a log that is shown late, for example
            return [], False
        digests = [hashlib.blake2b(line.encode("utf-8", "replace"), digest_size=4).hexdigest() for line in lines]
        known, before = self.recent, self.seen
        self.seen += len(lines)
        self.recent = digests[-_JOINED_BY:]
        if not before:
            return lines, not is_whole
        if is_whole and before <= len(lines) and digests[max(0, before - len(known)) : before] == known:
            self.seen = len(lines)
            return lines[before:], False
        for at in range(len(lines), 0, -1):
            size = min(at, len(known))
            if digests[at - size : at] == known[len(known) - size :]:
                self.seen = before + len(lines) - at
                return lines[at:], False
        return lines, True

    def _finish(self, lines: list[str], rest: str, found: Look, end: int | None, *, is_last: bool) -> Look:
        """Return the new lines, with as much of the unfinished one as can be shown."""
        # Of the first line, the beginning may have been shown; by offset, only the remainder was read.
        cut = self.shown if end is None else 0
        continued = bool(self.shown)
        has_grown, self.held = len(rest) != self.held or bool(lines), len(rest)
        if lines:
            first, *others = lines
            first = first.removesuffix("\r")
            lines = others if continued and not first[cut:].strip("\r") else [first[cut:], *others]
            cut = self.shown = 0
        drawn = rest[:-1].rfind("\r") + 1  # a progress bar's last state that is complete
        is_shown = is_last or len(rest) >= _UNFINISHED_LIMIT or not has_grown or (end is not None and "\ufffd" in rest)
        upto = len(rest) if is_shown else drawn
        if upto > cut:
            if rest[cut:upto].strip("\r"):
                lines.append(rest[cut:upto])
            self.shown = upto
        if end is not None:
            # By offset, the next look begins after what was shown, so that a progress bar is not read again and again.
            self.offset = end - len(rest[upto:].encode())
            self.held = len(rest) - upto if upto < len(rest) or not self.shown else -1
        return found + Look(lines)


class JobLog:
    """What is known of a job's log, and which of its lines were logged.

    :param cursor: what `cursor` has returned in another process; what it says of another job does not count
    :param mask: masks the secrets in its lines
    """

    def __init__(self, name: str, cursor: Any = None, mask: Mask | None = None) -> None:
        self.name = name
        self._mask = mask
        self._streams: dict[str, _Stream] = {}
        self._tail_lines = LINES_PER_LOOK  # of the last call
        self._is_counted = False  # whether the platform tells how many lines it leaves out
        if isinstance(cursor, Mapping) and cursor.get("job") == name:
            with suppress(AttributeError, TypeError):  # it comes from another version of this package
                self._streams = {label: _Stream(**known) for label, known in cursor["streams"].items()}

    @property
    def cursor(self) -> dict[str, Any]:
        """How far the log was logged, as JSON. It contains no text of the log, which may have secrets."""
        return {"job": self.name, "streams": {label: dict(vars(stream)) for label, stream in self._streams.items()}}

    def call(self, most: int = LINES_PER_LOOK) -> Call[list[LogPart]]:
        """Return the next look, of which at most so many lines are wanted."""
        # Where the platform tells how many lines it leaves out, none is read in vain.
        self._tail_lines = min(most, LINES_PER_LOOK) if self._is_counted else LINES_PER_LOOK
        offsets = {label: stream.offset for label, stream in self._streams.items() if stream.offset is not None}
        return follow_job_log(self.name, self._tail_lines, offsets if self._streams else {"": 0})

    def take(self, parts: list[LogPart], most: int = LINES_PER_LOOK, *, is_last: bool = False) -> Look:
        """Return the new lines in the answer to `call`, as they are logged: at most so many."""
        found = Look([])
        self._is_counted = bool(parts) and all(part.left_out is not None for part in parts)
        for part in parts:
            stream = self._streams.setdefault(part.label, _Stream())
            look = stream.take(part, self._tail_lines, is_last=is_last).within(most)
            mark = f"[job {part.label}]" if part.label else "[job]"
            lines = [f"{mark} {readable_line(line, LINE_LIMIT, self._mask)}".rstrip() for line in look.lines]
            found += look._replace(lines=lines)
        return found.within(most)


def without_mark(line: str) -> str:
    """Return a logged line as the job printed it."""
    return re.sub(r"^\[job[^\]]*\] ?", "", line)


class Pauses:
    """When to read a log again, after looks that failed. They are no reason to worry anyone.

    :param clock: returns the time in seconds, from any starting point
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause = FAILED_PAUSE
        self.until = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the log may be read."""
        return self._clock() >= self.until

    def succeeded(self) -> None:
        """Record a look that succeeded."""
        self._pause = FAILED_PAUSE

    def failed(self, error: BitaHubError) -> None:
        """Record a look that failed."""
        pause = REFUSED_PAUSE if is_refusal(error) else self._pause
        self._pause = min(2 * self._pause, REFUSED_PAUSE)
        self.until = self._clock() + pause


def wait_and_follow(
    waiting: Procedure[Job],
    job_log: JobLog,
    interval: float,
    say: Callable[[Look], None],
    clock: Callable[[], float] = time.time,
) -> Procedure[Job]:
    """Wait for a job as `waiting` does, and follow its log between the queries.

    :param waiting: of `wait_for_job`
    :param interval: seconds between two looks at the log
    :param say: called with each look
    """
    follower = _Follower(job_log, interval, say, clock)
    try:
        step = next(waiting)
        while True:
            if isinstance(step, Sleep):
                yield from follower.sleep(step.seconds)
                step = next(waiting)
                continue
            try:
                answer = yield step
            except BitaHubError as error:
                step = waiting.throw(error)
            else:
                follower.has_started = answer.status.value != "WAITING"
                step = waiting.send(answer)
    except StopIteration as end:
        job: Job = end.value
        return job
    finally:
        waiting.close()


class _Follower:
    """Looks at a job's log while its task sleeps on a worker."""

    def __init__(self, job_log: JobLog, interval: float, say: Callable[[Look], None], clock: Callable[[], float]):
        self._log = job_log
        self._interval = interval
        self._say = say
        self._clock = clock
        self._pauses = Pauses(clock)
        self._due_at = clock() + min(interval, _FIRST_LOOK)
        self.has_started = False

    def sleep(self, seconds: float) -> Procedure[None]:
        """Sleep, and look at the log if that is due. A look takes its time from the sleep."""
        until = self._clock() + seconds
        while self.has_started and self._due_at < until:
            if (pause := self._due_at - self._clock()) > 0:
                yield Sleep(pause)
            self._due_at = self._clock() + self._interval
            if self._pauses.is_over:
                yield from self._look()
        if (rest := until - self._clock()) > 0:
            yield Sleep(rest)

    def _look(self) -> Procedure[None]:
        try:
            parts = yield from self._log.call()
        except BitaHubError as error:
            self._pauses.failed(error)
        else:
            self._pauses.succeeded()
            with suppress(Exception):  # whatever the answer is like, the job is worth more than its log
                self._say(self._log.take(parts))


def is_refusal(error: BitaHubError) -> bool:
    """Return whether a failed look says that the platform has no log for us. A single log may be missing."""
    if isinstance(error, UnexpectedResponseError):
        return error.status < 500
    is_about_one = isinstance(error, NotFoundError)
    return isinstance(error, APIError | ConfigurationError) and not (is_transient(error) or is_about_one)

"""Exactly one job per task instance, stepped by hand: there is no server, loop or clock here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pytest

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.api.protocol import Call, Sleep
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    InvalidRequestError,
    JobAliveError,
    JobFailedError,
    JobLostError,
    JobRefusedError,
    JobStoppedError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    StateUnknownError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.identity import JobRecord, TaskIdentity
from airflow_bitahub.procedures.jobs import wait_for_job
from airflow_bitahub.procedures.pace import FIRST_LOOKS
from airflow_bitahub.procedures.retry import CONFIRM_ABSENCE, GRACE_PERIOD
from airflow_bitahub.procedures.submission import ensure_job
from tests.procedures.stage import (
    BUSY,
    CONFLICT,
    FOREIGN,
    INVALID,
    MISSING,
    NOT_CONNECTED,
    SAYS_NOTHING,
    SPEC,
    TIMEOUT,
    UNKNOWN_CODE,
    UNKNOWN_USER,
    Died,
    Script,
    Stage,
    every_death,
    fresh,
    gateway,
    job,
    refusal,
)


@lru_cache
def stored(record: JobRecord) -> JobRecord:
    """Return the record that another process reads after this one was stored."""
    return JobRecord(**json.loads(json.dumps(vars(record))))


@dataclass
class FakeJob:
    """A job on `Jobs`: waits 5 seconds, runs, and ends by itself after `seconds`; to be stopped takes it 3."""

    created: float
    seconds: float
    end: JobStatus
    stop_asked: float | None = None

    def status(self, now: float) -> JobStatus:
        if self.stop_asked is not None:
            return JobStatus.STOPPING if now < self.stop_asked + 3 else JobStatus.STOPPED
        if now >= self.created + self.seconds:
            return self.end
        return JobStatus.WAITING if now < self.created + 5 else JobStatus.RUNNING


@dataclass
class Jobs(Stage):
    """A platform in memory.

    :param lag: so long a new job stays invisible
    :param plan: how long the jobs take and how they end, one after the other; the last one for all others
    :param lost: numbers of submissions that take effect, but whose answers are lost or, with `loss`, unreadable
    :param dropped: numbers of submissions that are lost on the way
    :param answers: what else submissions are answered with, by number
    :param failed_looks: what the next queries are answered with
    """

    lag: float = 0
    plan: Sequence[tuple[float, JobStatus]] = ((25, JobStatus.SUCCEEDED),)
    lost: Sequence[int] = ()
    dropped: Sequence[int] = ()
    answers: dict[int, BitaHubError] = field(default_factory=dict)
    loss: BitaHubError = TIMEOUT
    failed_looks: list[BitaHubError] = field(default_factory=list)
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    saved: list[JobRecord] = field(default_factory=list)
    attempts: int = 0
    death: tuple[int, bool] | None = None  # die in this step, and whether only after it took effect
    steps: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def record(self) -> JobRecord | None:
        """What a fresh worker finds: it survived as JSON."""
        return stored(self.saved[-1]) if self.saved else None

    def alive(self) -> list[str]:
        return [name for name, job in self.jobs.items() if not job.status(self.now).is_terminal]

    def create(self, name: str) -> FakeJob:
        seconds, end = self.plan[min(len(self.jobs), len(self.plan) - 1)]
        self.jobs[name] = FakeJob(self.now, seconds, end)
        return self.jobs[name]

    def answer(self, call: Call[Any]) -> Any:
        name = call.request.names["name"]
        operation = call.request.operation
        found = self.jobs.get(name)
        if operation == "submit_job":
            return self._submit(name, call.request.json_body)
        if operation == "get_job" and self.failed_looks:
            raise fresh(self.failed_looks.pop())
        if found is None or self.now < found.created + self.lag:
            raise fresh(MISSING)
        status = found.status(self.now)
        if operation == "stop_job":
            assert not status.is_terminal, f"{name} is over, so DELETE would erase its record"
            assert found.stop_asked is None, f"{name} was asked to stop twice"
            self.stopped.append(name)
            found.stop_asked = self.now
            return None
        assert operation == "get_job"
        return Job(name=name, status=status, raw_state=status.value, started_at=0)  # so old that few queries are due

    def _submit(self, name: str, body: dict[str, Any]) -> None:
        assert body["jobName"] == name
        assert self.record is not None, "nothing was written down before the submission"
        assert self.record.job_name == name
        self.attempts += 1
        if self.attempts in self.dropped:
            raise fresh(TIMEOUT)
        if self.attempts in self.answers:
            self.now += 1  # which is when a late one may show
            raise fresh(self.answers[self.attempts])
        if name in self.jobs:
            raise fresh(CONFLICT)
        assert self.alive() == [], "two live jobs"
        self.create(name)
        self.submitted.append(name)
        if self.attempts in self.lost:
            raise fresh(self.loss)

    def perform(self, step: Call[Any] | Sleep) -> Any:
        self.steps += 1
        at, took_effect = self.death or (0, False)
        if self.steps == at and not took_effect:
            raise Died
        try:
            return super().perform(step)
        finally:
            if self.steps == at:
                raise Died

    def ensure(self, task: TaskIdentity, **options: Any) -> Job:
        job, record = self.run(
            ensure_job(task, self.record, spec_for=spec_of, save=self.saved.append, clock=self.clock, **options)
        )
        assert self.record == record, "what is returned is not what was written down"
        assert record.confirmed
        assert record.job_name == job.name
        return job

    def try_task(self, task: TaskIdentity) -> Job:
        """Do what an operator does in one try."""
        job = self.ensure(task, first_look=FIRST_LOOKS[0])
        job = self.run(wait_for_job(job.name, poll_interval=10, known=job, clock=self.clock))
        if not job.status.is_successful:
            raise JobFailedError(str(job), job.name)
        return job


def spec_of(record: JobRecord) -> JobSpec:
    return SPEC.model_copy(update={"job_name": record.job_name})


TASK = TaskIdentity(
    project="demo",
    run_date="20260101",
    marker=lambda: "abcde",
    output_root="/projects/u/demo/outputs",
    max_tries=2,
    try_number=1,
    retries=2,
    clear_number=0,
)
NAMED = replace(TASK, job_name="mnist")


def retry(task: TaskIdentity) -> TaskIdentity:
    return replace(task, try_number=task.try_number + 1)


def clear(task: TaskIdentity) -> TaskIdentity:
    return replace(
        task,
        max_tries=task.try_number + task.retries,
        try_number=task.try_number + 1,
        clear_number=task.clear_number + 1,
    )


def clear_after_lowering_retries(task: TaskIdentity) -> TaskIdentity:
    """Clear such that `max_tries` stays what it was."""
    return clear(replace(task, retries=task.max_tries - task.try_number))


def running(task: TaskIdentity = TASK, **options: Any) -> Jobs:
    """Give a platform on which this task's job runs for a long time."""
    world = Jobs(plan=[(10_000, JobStatus.SUCCEEDED), (25, JobStatus.SUCCEEDED)], **options)
    world.ensure(task)
    world.now += 6
    return world


def over(end: JobStatus, task: TaskIdentity = TASK, **options: Any) -> Jobs:
    """Give a platform on which this task's job ended so."""
    world = Jobs(plan=[(25, end), (25, JobStatus.SUCCEEDED)], **options)
    world.ensure(task)
    world.now += 25
    return world


def test_a_new_task_submits_what_it_has_written_down() -> None:
    world = Jobs()
    job = world.ensure(TASK)
    assert world.submitted == [job.name]
    assert world.calls == ["submit_job", "get_job"]
    assert [record.confirmed for record in world.saved] == [False, True]
    assert {record.job_name for record in world.saved} == {job.name}


@pytest.mark.parametrize(("seconds", "queries"), [(0.1, 1), (0.5, 2)])
def test_a_short_job_takes_at_most_three_requests(seconds: float, queries: int) -> None:
    world = Jobs(plan=[(seconds, JobStatus.SUCCEEDED)])
    job = world.ensure(TASK, first_look=FIRST_LOOKS[0])
    found = world.run(wait_for_job(job.name, poll_interval=10, known=job, is_new=True, clock=world.clock))
    assert found.status.is_successful
    assert world.calls == ["submit_job", *["get_job"] * queries]


def test_fields_the_package_does_not_know_are_sent() -> None:
    world = Jobs()
    steps = ensure_job(TASK, None, spec_for=spec_of, save=world.saved.append, extra_body={"retryCount": 2})
    step = next(steps)
    assert isinstance(step, Call)
    assert step.request.json_body["retryCount"] == 2


@pytest.mark.parametrize("task", [TASK, NAMED], ids=["own name", "given name"])
def test_a_retry_adopts_the_job_that_runs(task: TaskIdentity) -> None:
    world = running(task)
    assert world.ensure(retry(task)).status is JobStatus.RUNNING
    assert len(world.submitted) == 1


def test_a_retry_adopts_the_job_that_succeeded() -> None:
    world = over(JobStatus.SUCCEEDED)
    assert world.ensure(retry(TASK)).status.is_successful
    assert len(world.submitted) == 1


def test_a_retry_after_a_failed_job_submits_the_next_attempt() -> None:
    world = over(JobStatus.FAILED)
    first = world.record
    job = world.ensure(retry(TASK))
    assert first is not None
    assert world.record is not None
    assert (first.attempt, world.record.attempt) == (1, 2)
    assert first.token == world.record.token
    assert first.output_path != world.record.output_path
    assert world.submitted == [first.job_name, job.name]


def test_a_retry_after_a_job_that_we_stopped_submits_the_next_attempt() -> None:
    world = over(JobStatus.STOPPED)
    world.saved.append(replace(world.saved[-1], stopped=True))
    world.ensure(retry(TASK))
    assert len(world.submitted) == 2
    assert world.record is not None
    assert not world.record.stopped


def test_a_stop_of_ours_that_did_not_get_through_is_made_up_for() -> None:
    world = running()
    world.saved.append(replace(world.saved[-1], stopped=True))
    world.ensure(retry(TASK))
    assert world.stopped == world.submitted[:1]
    assert len(world.submitted) == 2


def test_a_stop_of_ours_that_comes_too_late_gives_the_jobs_success() -> None:
    world = over(JobStatus.SUCCEEDED)
    world.saved.append(replace(world.saved[-1], stopped=True))
    assert world.ensure(retry(TASK)).status.is_successful
    assert len(world.submitted) == 1


@pytest.mark.parametrize("when", ["before the look", "after the stop"])
def test_a_job_whose_record_went_with_our_stop_is_followed_by_the_next_attempt(when: str) -> None:
    world = running()
    first = world.submitted[0]
    world.saved.append(replace(world.saved[-1], stopped=True))
    if when == "before the look":
        del world.jobs[first]
        world.ensure(retry(TASK))
    else:
        # looked at, stopped, and gone
        ensuring = ensure_job(retry(TASK), world.record, spec_for=spec_of, save=world.saved.append)
        assert next(ensuring) is not None
        assert ensuring.send(job("RUNNING", first)) is not None
        assert ensuring.send(job("RUNNING", first)).request.operation == "stop_job"  # type: ignore[union-attr]
        assert isinstance(ensuring.send(None), Sleep)
        next(ensuring)
        submission = ensuring.throw(MISSING)
        assert isinstance(submission, Call)
        assert submission.request.operation == "submit_job"
        assert submission.request.names["name"] != first
    assert world.record is not None
    assert world.record.attempt == 2


def test_a_job_that_somebody_else_stopped_is_not_submitted_again() -> None:
    world = over(JobStatus.STOPPED)
    with pytest.raises(JobStoppedError, match="stopped by someone else") as caught:
        world.ensure(retry(TASK))
    assert caught.value.job_name == world.submitted[0]
    assert len(world.submitted) == 1


def test_a_job_that_was_stopped_for_a_clear_which_looks_like_a_retry_is_submitted_again() -> None:
    # Its worker stopped it and could no longer write that down; then the scheduler died, which would have raised
    # max_tries.
    world = over(JobStatus.STOPPED)
    world.ensure(replace(retry(TASK), clear_number=TASK.clear_number + 1))
    assert len(world.submitted) == 2
    world.now += 25
    assert world.ensure(replace(retry(retry(TASK)), clear_number=TASK.clear_number + 1)).status.is_successful


def test_a_job_that_somebody_else_stopped_is_submitted_again_if_asked() -> None:
    world = over(JobStatus.STOPPED)
    world.ensure(retry(TASK), resubmit_stopped=True)
    assert len(world.submitted) == 2


def test_an_unconfirmed_job_is_waited_for_before_it_is_submitted_again() -> None:
    world = Jobs()
    world.saved.append(TASK.first_attempt(None))
    world.ensure(retry(TASK))
    assert world.pauses[-1] > 0
    assert world.now >= 1000 + GRACE_PERIOD
    assert world.submitted == [world.saved[0].job_name]


def test_an_unconfirmed_job_that_shows_late_is_adopted() -> None:
    world = Jobs(lag=20)
    world.saved.append(TASK.first_attempt(None))
    world.create(world.saved[0].job_name)
    world.ensure(retry(TASK))
    assert world.submitted == []


def test_an_unconfirmed_job_that_we_meant_to_stop_is_submitted_as_a_new_wish() -> None:
    world = Jobs(plan=[(10_000, JobStatus.SUCCEEDED)])
    world.saved.append(replace(TASK.first_attempt(None), stopped=True))
    first = world.ensure(retry(TASK))
    assert world.ensure(retry(retry(TASK))).name == first.name
    assert world.stopped == []


def test_a_confirmed_job_that_is_gone_is_lost() -> None:
    world = over(JobStatus.SUCCEEDED)
    world.jobs.clear()
    now = world.now
    with pytest.raises(JobLostError, match="Clear the task"):
        world.ensure(retry(TASK))
    assert len(world.submitted) == 1
    assert world.now >= now + CONFIRM_ABSENCE


def test_a_retry_adopts_a_confirmed_job_that_was_denied_for_a_moment() -> None:
    world = running()
    world.failed_looks = [MISSING] * 2
    assert world.ensure(retry(TASK)).name == world.submitted[0]
    assert len(world.submitted) == 1


def test_a_stop_of_ours_that_did_not_get_through_is_made_up_for_although_the_job_was_denied_for_a_moment() -> None:
    world = running()
    world.saved.append(replace(world.saved[-1], stopped=True))
    world.failed_looks = [MISSING] * 2
    world.ensure(retry(TASK))  # it asserts that there are never two live jobs
    assert world.stopped == world.submitted[:1]


def test_a_job_that_was_accepted_and_does_not_show_stays_unconfirmed() -> None:
    world = Jobs(lag=GRACE_PERIOD + 10)
    with pytest.raises(UnexpectedResponseError, match=r"accepted job .* but does not show it"):
        world.ensure(TASK)
    assert world.record is not None
    assert not world.record.confirmed
    world.ensure(retry(TASK))
    assert len(world.submitted) == 1


@pytest.mark.parametrize(
    ("task", "error"), [(NAMED, NOT_CONNECTED), (TASK, FOREIGN)], ids=["a given name, no connection", "a wrong address"]
)
def test_trouble_before_the_platform_has_ever_answered_shows_soon(task: TaskIdentity, error: BitaHubError) -> None:
    world = Jobs(answers={1: error}, failed_looks=[error] * 1000)
    with pytest.raises(ConnectFailedError if task is NAMED else StateUnknownError, match=str(error)):
        world.ensure(task)
    assert world.now <= 1001 + GRACE_PERIOD


UNSETTLED = [error for error in SAYS_NOTHING if error not in (NOT_CONNECTED, BUSY, UNKNOWN_USER)]


@pytest.mark.parametrize("error", UNSETTLED, ids=str)
def test_a_submission_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    world = Jobs(answers={1: error})
    world.ensure(TASK)
    first, second = (i for i, step in enumerate(world.done) if step == "submit_job")
    between = world.done[first + 1 : second]
    assert between[0] == between[-1] == "get_job"
    assert sum(step for step in between if not isinstance(step, str)) >= GRACE_PERIOD
    assert len(world.submitted) == 1


def test_a_submission_that_never_left_is_sent_again_without_waiting() -> None:
    world = Jobs(answers={1: NOT_CONNECTED})
    world.ensure(TASK)
    assert world.calls == ["submit_job", "submit_job", "get_job"]
    assert world.pauses == []


@pytest.mark.parametrize("loss", UNSETTLED, ids=str)
@pytest.mark.parametrize("lag", [0, 20])
def test_a_submission_whose_answer_was_lost_is_found(lag: float, loss: BitaHubError) -> None:
    # The document does not show how success is told, so a code nobody knows may be one.
    world = Jobs(lost=[1], lag=lag, loss=loss)
    world.ensure(TASK)
    assert world.calls.count("submit_job") == 1


@pytest.mark.parametrize("error", [*SAYS_NOTHING, INVALID], ids=str)
def test_failed_looks_neither_submit_again_nor_lose_the_job(error: BitaHubError) -> None:
    world = Jobs(lost=[1], plan=[(10_000, JobStatus.SUCCEEDED)])
    world.failed_looks = [error] * 10
    first = world.ensure(TASK)
    world.failed_looks = [error] * 400  # of two seconds each
    assert world.ensure(retry(TASK)).name == first.name
    assert world.attempts == 1
    world.failed_looks = [error] * 100
    with pytest.raises(StateUnknownError, match="for 60 s"):
        world.ensure(retry(TASK), unreachable_timeout=60)
    assert world.record is not None
    assert world.record.confirmed
    assert world.stopped == []


def test_a_submission_that_stays_unsettled_says_how_it_was_answered() -> None:
    denied = gateway(PermissionDeniedError)
    world = Jobs(answers={1: denied}, failed_looks=[denied] * 100)
    with pytest.raises(StateUnknownError, match=r"unknown whether job .* exists.*of a gateway.*for 30 s"):
        world.ensure(TASK)
    assert world.attempts == 1
    assert world.record is not None
    assert not world.record.refused


def test_a_submission_refused_after_one_that_may_have_taken_effect_stays_open() -> None:
    world = Jobs(lost=[1], lag=100, answers={2: INVALID})
    with pytest.raises(InvalidRequestError):
        world.ensure(TASK)
    world.now += 100
    assert world.ensure(retry(TASK)).name == world.submitted[0]
    assert len(world.submitted) == 1


def test_a_submission_always_answered_with_an_unknown_code_ends_with_it() -> None:
    world = Jobs(answers=dict.fromkeys(range(1, 100), UNKNOWN_CODE))
    with pytest.raises(APIError):
        world.ensure(TASK)
    assert world.attempts == 3
    assert world.record is not None
    assert not world.record.refused


@pytest.mark.parametrize("error", [CONFLICT, INVALID, UNKNOWN_CODE], ids=repr)
@pytest.mark.parametrize("task", [TASK, NAMED], ids=["own name", "given name"])
def test_a_submission_that_got_through_very_late_is_found_whatever_the_second_is_called(
    task: TaskIdentity, error: BitaHubError
) -> None:
    # The platform's word for "exists already" is not known.
    world = Jobs(lost=[1], lag=GRACE_PERIOD + 1, answers={2: error})
    world.ensure(task)
    assert world.attempts == 2
    assert len(world.submitted) == 1


@pytest.mark.parametrize("error", [BUSY, NOT_CONNECTED], ids=repr)
def test_what_a_submission_without_effect_was_to_make_is_not_taken_for_ours(error: BitaHubError) -> None:
    world = Jobs(answers=dict.fromkeys(range(1, 4), error), plan=[(10_000, JobStatus.SUCCEEDED)])
    with pytest.raises(type(error)):
        world.ensure(NAMED)
    world.create("mnist")  # by somebody else
    for task in (retry(NAMED), clear(NAMED)):
        with pytest.raises(JobRefusedError):
            world.ensure(task)
    assert world.stopped == []


def test_submitting_ends() -> None:
    world = Jobs(dropped=range(1, 100))
    with pytest.raises(RequestTimeoutError):
        world.ensure(TASK)
    assert world.attempts == 3
    assert world.record is not None
    assert not world.record.confirmed
    assert not world.record.refused


def test_a_rate_limit_leaves_the_name_for_the_next_try() -> None:
    world = Jobs(answers={1: BUSY})
    with pytest.raises(RateLimitError):
        world.ensure(TASK)
    world.ensure(retry(TASK))
    assert world.submitted == [world.saved[0].job_name]


@pytest.mark.parametrize(
    "refused_by",
    [*map(refusal, (InvalidRequestError, AuthenticationError, PermissionDeniedError)), UNKNOWN_USER],
    ids=str,
)
@pytest.mark.parametrize("task", [TASK, NAMED], ids=["own name", "given name"])
def test_a_refused_submission_leaves_nothing_to_adopt_or_to_stop(task: TaskIdentity, refused_by: APIError) -> None:
    world = Jobs(answers={1: refused_by})
    with pytest.raises(type(refused_by)):
        world.ensure(task)
    refused = world.record
    assert refused is not None
    assert refused.refused
    for again in (retry(task), clear(task)):
        other = Jobs(saved=[refused])
        other.create(refused.job_name)  # by somebody else
        other.jobs[refused.job_name].end = JobStatus.FAILED
        other.now += 1000
        if task is TASK:
            other.ensure(again)
            assert other.submitted != [refused.job_name]
        else:
            with pytest.raises(JobRefusedError):
                other.ensure(again)
        assert other.stopped == []


def test_a_given_name_is_used_again_after_it_was_refused() -> None:
    world = Jobs(answers={1: INVALID})
    with pytest.raises(InvalidRequestError):
        world.ensure(NAMED)
    assert world.ensure(retry(NAMED)).name == "mnist"


def test_what_cannot_be_sent_is_not_written_down() -> None:
    def impossible(record: JobRecord) -> JobSpec:
        raise ConfigurationError(record.job_name)

    saved: list[JobRecord] = []
    stage = Script(None)
    with pytest.raises(ConfigurationError):
        stage.run(ensure_job(TASK, None, spec_for=impossible, save=saved.append))
    assert (saved, stage.done) == ([], [])


@dataclass
class Preparing:
    """Prepares jobs with the code that there is now, unless their task has begun with other code."""

    code: str
    prepared: list[str] = field(default_factory=list)

    def __call__(self, record: JobRecord) -> JobRecord:
        self.prepared.append(record.job_name)
        return replace(record, code_digest=record.code_digest or self.code)


def test_every_submission_is_prepared_and_no_job_that_exists() -> None:
    world = Jobs(plan=[(25, JobStatus.FAILED)])
    first, second, third = Preparing("old"), Preparing("new"), Preparing("new")
    for preparing, task in [(first, TASK), (first, retry(TASK)), (second, retry(retry(TASK))), (third, clear(TASK))]:
        world.ensure(task, prepare=preparing)
        world.now += 0 if preparing is first and task is TASK else 60
    assert [*first.prepared, *second.prepared, *third.prepared] == world.submitted
    assert [len(preparing.prepared) for preparing in (first, second, third)] == [1, 1, 1]
    digests = {record.job_name: record.code_digest for record in world.saved}
    assert list(digests.values()) == ["old", "old", "new"], "a retry keeps the code, and a clear takes the new one"


def test_a_submission_that_never_arrived_is_prepared_again() -> None:
    world, preparing = Jobs(dropped=[1, 2, 3]), Preparing("old")
    with pytest.raises(TransportError):
        world.ensure(TASK, prepare=preparing)
    world.now += 60
    job = world.ensure(retry(TASK), prepare=preparing)
    assert preparing.prepared == [job.name, job.name]


def test_what_cannot_be_prepared_is_not_written_down() -> None:
    def impossible(record: JobRecord) -> JobRecord:
        raise ConfigurationError(record.job_name)

    world = Jobs()
    with pytest.raises(ConfigurationError):
        world.ensure(TASK, prepare=impossible)
    assert (world.saved, world.calls) == ([], [])


@pytest.mark.parametrize("again", [clear, clear_after_lowering_retries])
def test_a_clear_ends_the_old_job_before_it_submits_a_new_one(again: Callable[[TaskIdentity], TaskIdentity]) -> None:
    world = running()
    job = world.ensure(again(TASK))
    assert world.stopped == world.submitted[:1]
    assert world.submitted[1] == job.name
    assert len(world.submitted) == 2


@pytest.mark.parametrize("end", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED])
def test_a_clear_of_a_job_that_is_over_leaves_it_alone(end: JobStatus) -> None:
    world = over(end)
    world.ensure(clear(TASK))
    assert world.stopped == []
    assert len(world.submitted) == 2


def test_a_clear_of_a_job_that_is_gone() -> None:
    world = over(JobStatus.SUCCEEDED)
    world.jobs.clear()
    world.ensure(clear(TASK))
    assert len(world.submitted) == 2


def test_a_clear_ends_a_job_that_was_denied_for_a_moment() -> None:
    world = running()
    world.failed_looks = [MISSING] * 2
    world.ensure(clear(TASK))  # it asserts that there are never two live jobs
    assert world.stopped == world.submitted[:1]
    assert len(world.submitted) == 2


def test_a_clear_waits_for_an_unconfirmed_job_and_ends_it() -> None:
    world = Jobs(lag=20, plan=[(10_000, JobStatus.SUCCEEDED), (25, JobStatus.SUCCEEDED)])
    world.saved.append(TASK.first_attempt(None))
    world.create(world.saved[0].job_name)
    world.ensure(clear(TASK))
    assert world.stopped == [world.saved[0].job_name]


def test_a_clear_does_not_submit_while_the_old_job_will_not_end() -> None:
    world = running()
    world.jobs[world.submitted[0]].stop_asked = world.now + 10_000
    with pytest.raises(JobAliveError):
        world.ensure(clear(TASK))
    assert len(world.submitted) == 1


def test_a_given_name_is_exact_at_first_and_counted_later() -> None:
    world = over(JobStatus.FAILED, NAMED)
    assert world.ensure(retry(NAMED)).name == "mnist-2"
    assert world.ensure(clear(retry(NAMED))).name == "mnist-3"
    assert world.submitted == ["mnist", "mnist-2", "mnist-3"]


@pytest.mark.parametrize("end", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED])
@pytest.mark.parametrize("seconds", [10_000, 0])
def test_a_foreign_job_of_the_given_name_is_refused(seconds: float, end: JobStatus) -> None:
    world = Jobs(plan=[(seconds, end)])
    world.create("mnist")
    for task in (NAMED, retry(NAMED), clear(NAMED)):
        with pytest.raises(JobRefusedError, match="this task did not submit it"):
            world.ensure(task)
    assert set(world.calls) == {"get_job"}
    assert world.saved == []


def test_a_foreign_job_of_the_counted_name_is_refused() -> None:
    world = over(JobStatus.FAILED, NAMED)
    world.create("mnist-2")
    with pytest.raises(JobRefusedError):
        world.ensure(retry(NAMED))
    assert world.record is not None
    assert world.record.job_name == "mnist"


def test_a_foreign_job_that_comes_between_look_and_submission_is_refused_for_good() -> None:
    world = Jobs(answers={1: CONFLICT}, plan=[(10_000, JobStatus.SUCCEEDED)])
    with pytest.raises(JobRefusedError):
        world.ensure(NAMED)
    world.create("mnist")
    for task in (retry(NAMED), clear(NAMED)):
        with pytest.raises(JobRefusedError):
            world.ensure(task)
    assert world.stopped == []
    assert world.submitted == []


def test_a_conflict_about_a_name_that_only_we_can_know_is_our_own_job() -> None:
    # Something on the way sent our submission twice.
    world = Jobs(answers={1: CONFLICT})
    steps = ensure_job(TASK, None, spec_for=spec_of, save=world.saved.append, clock=world.clock)
    submission = next(steps)
    assert isinstance(submission, Call)
    name = submission.request.names["name"]
    steps.throw(CONFLICT)
    with pytest.raises(StopIteration) as finished:
        steps.send(job("RUNNING", name))
    assert finished.value.value[0].name == name


# A worker may die at any instant --------------------------------------------------------------------------------

TRIES = 4


def keep_trying(world: Jobs, task: TaskIdentity, deaths: Sequence[tuple[int, bool]], pause: float) -> tuple[Job, int]:
    """Try a task again and again, as Airflow does, with a worker that dies so in its n-th try.

    Gives the job whose success is the task's, and how many workers died.
    """
    died = 0
    for death in [*deaths, *[None] * TRIES]:
        world.death, world.steps = death, 0
        try:
            return world.try_task(task), died
        except Died:
            died += 1
        except JobFailedError:
            pass
        world.now += pause
        task = retry(task)
    raise AssertionError("the task never succeeded")


@pytest.mark.parametrize("pause", [0, 600], ids=["at once", "much later"])
@pytest.mark.parametrize("task", [TASK, NAMED], ids=["own name", "given name"])
@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        pytest.param({}, 1, id="plain"),
        pytest.param({"lost": [1]}, 1, id="answer lost"),
        pytest.param({"dropped": [1]}, 1, id="submission lost"),
        pytest.param({"lag": 20}, 1, id="late"),
        pytest.param({"lag": 20, "lost": [1]}, 1, id="late, answer lost"),
        pytest.param({"lag": 20, "dropped": [1], "lost": [2]}, 1, id="late, submission lost, then its answer"),
        pytest.param({"lost": [1], "loss": gateway(PermissionDeniedError)}, 1, id="answered by a gateway"),
        pytest.param({"plan": [(12, JobStatus.FAILED), (25, JobStatus.SUCCEEDED)]}, 2, id="first job fails"),
    ],
)
def test_a_worker_may_die_at_any_step(options: dict[str, Any], jobs: int, task: TaskIdentity, pause: float) -> None:
    def attempt(deaths: Sequence[tuple[int, bool]]) -> int:
        world = Jobs(**options)  # it asserts that there are never two live jobs, and that no record is erased
        job, died = keep_trying(world, task, deaths, pause)
        assert len(world.submitted) == jobs, (deaths, world.submitted)
        assert job.name == world.submitted[-1]
        assert world.stopped == []
        return died

    every_death(attempt)


@pytest.mark.parametrize("pause", [0, 600], ids=["at once", "much later"])
@pytest.mark.parametrize("again", [clear, clear_after_lowering_retries])
@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("lag", [0, 20])
def test_a_worker_may_die_at_any_step_after_a_clear(
    lag: float, confirmed: bool, again: Callable[[TaskIdentity], TaskIdentity], pause: float
) -> None:
    def attempt(deaths: Sequence[tuple[int, bool]]) -> int:
        world = Jobs(lag=lag, plan=[(10_000, JobStatus.SUCCEEDED), (25, JobStatus.SUCCEEDED)])
        if confirmed:
            world.ensure(TASK)
        else:
            world.saved.append(TASK.first_attempt(None))
            world.submitted.append(world.saved[0].job_name)
            world.create(world.saved[0].job_name)
        job, died = keep_trying(world, again(TASK), deaths, pause)
        assert len(world.submitted) == 2, (deaths, world.submitted)
        assert job.name == world.submitted[1]
        assert world.stopped == world.submitted[:1]
        return died

    every_death(attempt)


def test_a_worker_may_die_at_any_step_after_our_own_stop() -> None:
    def attempt(deaths: Sequence[tuple[int, bool]]) -> int:
        world = running()
        world.saved.append(replace(world.saved[-1], stopped=True))
        job, died = keep_trying(world, retry(TASK), deaths, 0)
        assert len(world.submitted) == 2
        assert job.name == world.submitted[1]
        assert world.stopped == world.submitted[:1]
        return died

    every_death(attempt)


def test_every_attempt_has_an_output_folder_of_its_own() -> None:
    failing = [(12, JobStatus.FAILED)] * 3
    world = Jobs(plan=[*failing, (25, JobStatus.SUCCEEDED)])
    keep_trying(world, TASK, [], 0)
    assert len({record.output_path for record in world.saved}) == len(world.submitted) == 4

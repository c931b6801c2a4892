"""Several calls in order, stepped by hand: there is no server, loop or clock here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, count, pairwise, repeat, takewhile
from typing import Any, TypeVar

import pytest

from airflow_bitahub.api.jobs import Job, JobSpec, JobStatus, TaskRole, get_job, stop_job, submit_job
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.procedures import (
    GRACE,
    PATIENCE,
    Retry,
    end_job,
    end_serving,
    ensure_job,
    ensure_serving,
    retrying,
    stop_own_serving,
    wait_for_job,
    wait_for_serving,
)
from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.api.servings import Model, Protocol, Serving, ServingSpec
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConflictError,
    ConnectFailedError,
    InvalidRequestError,
    JobAliveError,
    JobFailedError,
    JobLostError,
    JobQueueTimeoutError,
    JobRefusedError,
    JobStoppedError,
    JobTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServingFailedError,
    ServingRefusedError,
    ServingTimeoutError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.identity import JobRecord, ServingRecord, TaskIdentity, digest

T = TypeVar("T")
A = TypeVar("A", bound=APIError)

TIMEOUT = RequestTimeoutError("no answer in time")
RESET = TransportError("connection reset")
NOT_CONNECTED = ConnectFailedError("connection refused")
FOREIGN = UnexpectedResponseError("a login page")


def refusal(kind: type[A], retry_after: float | None = None) -> A:
    return kind(0, None, kind.__name__, "something", retry_after)


MISSING = refusal(NotFoundError)
CONFLICT = refusal(ConflictError)
BROKEN = refusal(ServerError)
BUSY = refusal(RateLimitError)
INVALID = refusal(InvalidRequestError)
UNKNOWN_CODE = refusal(APIError)


def job(word: str, name: str = "mnist", **fields: Any) -> Job:
    return Job(name=name, status=Platform().job_status(word), word=word, **fields)


def serving(word: str, url: str = "http://mnist.example.com", created_at: float | None = 1.0) -> Serving:
    return Serving(
        name="mnist", status=Platform().serving_status(word), word=word, url=url, created_at=created_at, replicas=1
    )


def fresh(error: BitaHubError) -> BitaHubError:
    """Return an equal error: one that is raised again and again keeps all its tracebacks."""
    return type(error)(*error.args)


@lru_cache
def stored_job(record: JobRecord) -> JobRecord | None:
    """Return the record that another process reads after this one was stored."""
    return JobRecord.from_json(record.to_json())


@lru_cache
def stored_serving(record: ServingRecord) -> ServingRecord | None:
    """Return the record that another process reads after this one was stored."""
    return ServingRecord.from_json(record.to_json())


class Stage:
    """Performs procedures; sleeping lets its own time pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.done: list[str | float] = []  # calls by their operation, sleeps by their length

    def clock(self) -> float:
        return self.now

    def answer(self, call: Call[Any]) -> Any:
        raise NotImplementedError

    def perform(self, step: Call[Any] | Sleep) -> Any:
        assert len(self.done) < 5000, "it never ends"
        if isinstance(step, Sleep):
            assert step.seconds >= 0
            self.done.append(step.seconds)
            self.now += step.seconds
            return None
        self.done.append(step.request.operation.partition(" ")[0])
        return self.answer(step)

    def run(self, procedure: Procedure[T], step: Call[Any] | Sleep | None = None) -> T:
        """Perform a procedure; one that has begun from its current step on."""
        try:
            step = step or next(procedure)
            while True:
                try:
                    answer = self.perform(step)
                except BitaHubError as error:
                    step = procedure.throw(error)
                else:
                    step = procedure.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    @property
    def calls(self) -> list[str]:
        return [step for step in self.done if isinstance(step, str)]

    @property
    def pauses(self) -> list[float]:
        return [step for step in self.done if not isinstance(step, str)]


class Script(Stage):
    """Gives these answers, one after the other, and then the last one for ever; errors are thrown in."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self._answers: Iterator[Any] = chain(answers[:-1], repeat(answers[-1]))

    def answer(self, call: Call[Any]) -> Any:  # noqa: ARG002
        answer = next(self._answers)
        if isinstance(answer, BitaHubError):
            raise fresh(answer)
        return answer


SPEC = JobSpec(job_name="mnist", task_roles=[TaskRole(image="tensorflow", command="true")])
LOOK: Call[Any] = get_job("mnist")
SUBMIT, STOP = submit_job(SPEC), stop_job("mnist")
STEADY = Retry(attempts=4, first=1, longest=3)


# retrying -------------------------------------------------------------------------------------------------------


def no_jitter() -> float:
    return 0.0


@pytest.mark.parametrize("error", [NOT_CONNECTED, BUSY], ids=repr)
@pytest.mark.parametrize("call", [LOOK, SUBMIT, STOP], ids=["look", "submit", "stop"])
def test_what_had_no_effect_is_sent_again(call: Call[Any], error: BitaHubError) -> None:
    stage = Script(error, error, "answer")
    assert stage.run(retrying(call, STEADY, no_jitter)) == "answer"
    operation = call.request.operation
    assert stage.done == [operation, 1, operation, 2, operation]


@pytest.mark.parametrize("error", [TIMEOUT, RESET, FOREIGN, BROKEN], ids=repr)
def test_a_look_of_unknown_outcome_is_sent_again(error: BitaHubError) -> None:
    stage = Script(error, "answer")
    assert stage.run(retrying(LOOK, STEADY, no_jitter)) == "answer"
    assert stage.done == ["get_job", 1, "get_job"]


@pytest.mark.parametrize("error", [TIMEOUT, RESET, FOREIGN, BROKEN], ids=repr)
@pytest.mark.parametrize("call", [SUBMIT, STOP], ids=["submit", "stop"])
def test_a_change_of_unknown_outcome_is_never_sent_again(call: Call[Any], error: BitaHubError) -> None:
    stage = Script(error)
    with pytest.raises(type(error)):
        stage.run(retrying(call, STEADY, no_jitter))
    assert stage.done == [call.request.operation]


@pytest.mark.parametrize(
    "kind", [AuthenticationError, PermissionDeniedError, NotFoundError, ConflictError, InvalidRequestError, APIError]
)
def test_a_clear_no_is_taken_for_an_answer(kind: type[APIError]) -> None:
    stage = Script(refusal(kind))
    with pytest.raises(kind):
        stage.run(retrying(LOOK, STEADY, no_jitter))
    assert stage.done == ["get_job"]


def test_retrying_ends() -> None:
    stage = Script(BROKEN)
    with pytest.raises(ServerError):
        stage.run(retrying(LOOK, STEADY, no_jitter))
    assert stage.pauses == [1, 2, 3]
    assert len(stage.calls) == STEADY.attempts


@pytest.mark.parametrize(("asked", "slept"), [(2.5, 2.5), (0, 0), (3600, STEADY.longest)])
def test_retry_after_is_obeyed_within_reason(asked: float, slept: float) -> None:
    stage = Script(refusal(RateLimitError, asked), "answer")
    stage.run(retrying(SUBMIT, STEADY, no_jitter))
    assert stage.pauses == [slept]


def test_jitter_takes_off_up_to_half() -> None:
    for jitter, expected in ((0.0, [1, 2, 3]), (0.5, [0.75, 1.5, 2.25]), (1.0, [0.5, 1, 1.5])):
        stage = Script(BROKEN, BROKEN, BROKEN, "answer")
        stage.run(retrying(LOOK, STEADY, lambda jitter=jitter: jitter))  # type: ignore[misc]
        assert stage.pauses == expected


# wait_for_job ---------------------------------------------------------------------------------------------------


def wait(stage: Stage, **options: Any) -> Job:
    return stage.run(wait_for_job("mnist", clock=stage.clock, **{"poll_interval": 10, **options}))


@pytest.mark.parametrize("word", ["SUCCEEDED", "FAILED", "STOPPED", "Completed"])
def test_waiting_gives_the_job_however_it_ended(word: str) -> None:
    stage = Script(job("WAITING"), job("RUNNING"), job(word))
    assert wait(stage).word == word
    assert stage.done == ["get_job", 10, "get_job", 10, "get_job"]


def test_a_job_that_is_over_is_not_waited_for() -> None:
    stage = Script(job("FAILED"))
    assert wait(stage, deadline=stage.now - 1).status is JobStatus.FAILED
    assert stage.done == ["get_job"]


def test_states_may_go_backward_and_may_be_unknown() -> None:
    words = ["RUNNING", "RESTARTING", "WAITING", "HIBERNATING", "RUNNING", "", "SUCCEEDED"]
    stage = Script(*map(job, words))
    assert wait(stage).word == "SUCCEEDED"
    assert len(stage.calls) == len(words)


def test_a_change_is_told_once() -> None:
    seen: list[str] = []
    words = ["WAITING", "WAITING", "RUNNING", "RUNNING", "RESTARTING", "RUNNING", "SUCCEEDED"]
    wait(Script(*map(job, words)), on_change=lambda job: seen.append(job.word))
    assert seen == ["WAITING", "RUNNING", "RESTARTING", "RUNNING", "SUCCEEDED"]


def test_a_failed_look_between_two_equal_states_is_no_change() -> None:
    seen: list[str] = []
    wait(Script(job("RUNNING"), TIMEOUT, job("RUNNING"), job("FAILED")), on_change=lambda job: seen.append(job.word))
    assert seen == ["RUNNING", "FAILED"]


def test_a_job_that_takes_long_is_looked_at_less_often_where_that_is_wished_for() -> None:
    stage = Script(*[job("RUNNING")] * 100, job("SUCCEEDED"))
    wait(stage, longest_poll_interval=60)
    assert stage.pauses[:20] == [10] * 20
    assert all(before <= after for before, after in pairwise(stage.pauses))
    assert stage.pauses[-1] == 60


@pytest.mark.parametrize("error", [TIMEOUT, RESET, NOT_CONNECTED, FOREIGN, BROKEN, BUSY], ids=repr)
def test_a_failed_look_says_nothing_about_the_job(error: BitaHubError) -> None:
    assert wait(Script(job("RUNNING"), *[error] * 50, job("SUCCEEDED"))).word == "SUCCEEDED"


def test_an_unreachable_platform_is_ridden_out_for_the_patience() -> None:
    stage = Script(BROKEN)
    with pytest.raises(TransportError, match=r"for 900 s .*ServerError.*never seen"):
        wait(stage)
    assert stage.now == 1000 + PATIENCE


def test_the_patience_may_be_another_and_the_job_as_last_seen_is_told() -> None:
    stage = Script(job("RUNNING"), TIMEOUT)
    with pytest.raises(TransportError, match=r"for 60 s .*When last seen, job 'mnist' is RUNNING"):
        wait(stage, patience=60)
    assert stage.now == 1000 + 10 + 60


def test_patience_begins_anew_with_every_answer() -> None:
    trouble = [TIMEOUT] * int(PATIENCE / 10 - 1)
    stage = Script(*trouble, job("RUNNING"), *trouble, MISSING, *trouble, job("SUCCEEDED"))
    assert wait(stage).word == "SUCCEEDED"


def test_a_token_that_was_good_before_may_be_renewed() -> None:
    expired = refusal(AuthenticationError)
    assert wait(Script(job("RUNNING"), expired, expired, job("SUCCEEDED"))).word == "SUCCEEDED"
    with pytest.raises(TransportError, match="AuthenticationError"):
        wait(Script(job("RUNNING"), expired))


def test_a_token_that_was_never_good_ends_the_waiting_at_once() -> None:
    stage = Script(refusal(AuthenticationError))
    with pytest.raises(AuthenticationError):
        wait(stage)
    assert len(stage.calls) == 1


@pytest.mark.parametrize("kind", [PermissionDeniedError, InvalidRequestError, APIError])
def test_being_refused_ends_the_waiting_at_once(kind: type[APIError]) -> None:
    stage = Script(job("RUNNING"), refusal(kind))
    with pytest.raises(kind):
        wait(stage)
    assert len(stage.calls) == 2


def test_a_job_may_be_denied_for_the_grace_period() -> None:
    assert wait(Script(MISSING, MISSING, job("RUNNING"), MISSING, MISSING, job("SUCCEEDED"))).word == "SUCCEEDED"


def test_a_job_denied_for_longer_is_lost() -> None:
    stage = Script(job("RUNNING"), MISSING)
    with pytest.raises(JobLostError, match="no longer knows it") as caught:
        wait(stage)
    assert caught.value.job_name == "mnist"
    assert stage.now == 1000 + 10 + GRACE


def test_trouble_before_the_first_denial_does_not_count_as_denial() -> None:
    stage = Script(job("RUNNING"), *[BROKEN] * 20, MISSING, job("SUCCEEDED"))
    assert wait(stage).word == "SUCCEEDED"


def test_trouble_between_denials_does_not_prolong_the_grace() -> None:
    with pytest.raises(JobLostError):
        wait(Script(*[MISSING, TIMEOUT] * 3))


def test_without_a_grace_period_a_job_may_come_late() -> None:
    assert wait(Script(*[MISSING] * 500, job("SUCCEEDED")), grace=None).word == "SUCCEEDED"


def test_the_deadline_is_looked_at_after_the_state() -> None:
    stage = Script(job("RUNNING"), job("SUCCEEDED"))
    assert wait(stage, deadline=1010).word == "SUCCEEDED"


def test_a_job_that_is_not_over_by_the_deadline() -> None:
    stage = Script(job("RUNNING", message="epoch 3"))
    with pytest.raises(JobTimeoutError, match="When last seen, job 'mnist' is RUNNING: epoch 3"):
        wait(stage, deadline=1025)
    assert stage.pauses == [10, 10, 5]


def test_a_job_that_was_never_seen_by_the_deadline() -> None:
    with pytest.raises(JobTimeoutError, match=r"the last answer: .*was never seen"):
        wait(Script(MISSING), deadline=1025, grace=None)


def test_a_job_that_does_not_begin_by_its_deadline() -> None:
    stage = Script(job("WAITING", message="waiting: 2 gtx-1080-ti asked for, 0 free"))
    with pytest.raises(JobQueueTimeoutError, match=r"did not begin in time.*is WAITING: waiting: 2 gtx-1080-ti"):
        wait(stage, queue_deadline=1025, deadline=5000)
    assert stage.pauses == [10, 10, 5]


@pytest.mark.parametrize(
    "seen",
    [job("RUNNING"), job("HIBERNATING"), Job(name="mnist", status=JobStatus.WAITING, word="RESTARTING", started_at=1)],
    ids=str,
)
def test_a_job_that_has_begun_or_may_have_is_not_held_to_the_queues_deadline(seen: Job) -> None:
    assert wait(Script(*[seen] * 9, job("SUCCEEDED")), queue_deadline=1025).word == "SUCCEEDED"


def test_an_old_answer_does_not_make_a_job_late() -> None:
    stage = Script(job("WAITING"), *[BROKEN] * 5, job("RUNNING"), job("SUCCEEDED"))
    assert wait(stage, queue_deadline=1015).word == "SUCCEEDED"


def test_a_job_that_went_back_to_the_queue_has_begun() -> None:
    stage = Script(job("RUNNING"), *[job("WAITING")] * 9, job("SUCCEEDED"))
    assert wait(stage, queue_deadline=1025).word == "SUCCEEDED"


def test_a_word_nobody_knows_is_no_beginning() -> None:
    with pytest.raises(JobQueueTimeoutError):
        wait(Script(job("HIBERNATING"), job("WAITING")), queue_deadline=1025)


def test_a_denial_after_a_long_outage_is_a_new_one() -> None:
    stage = Script(job("RUNNING"), MISSING, *[BROKEN] * 5, MISSING, job("SUCCEEDED"))
    assert wait(stage).word == "SUCCEEDED"


def test_a_platform_that_cannot_be_asked_does_not_make_a_job_late() -> None:
    stage = Script(*[TIMEOUT] * 9, job("RUNNING"), job("SUCCEEDED"))
    assert wait(stage, queue_deadline=1025).word == "SUCCEEDED"
    assert stage.pauses[:4] == [10, 10, 5, 10]


# end_job --------------------------------------------------------------------------------------------------------


def end(stage: Stage, **options: Any) -> Job | None:
    return stage.run(end_job("mnist", clock=stage.clock, **options))


@pytest.mark.parametrize("word", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_job_that_is_over_is_never_stopped(word: str) -> None:
    stage = Script(job(word))
    assert end(stage) == job(word)
    assert stage.done == ["get_job"]


@pytest.mark.parametrize("word", ["WAITING", "RUNNING", "RESTARTING", "HIBERNATING"])
def test_a_live_job_is_looked_at_and_stopped_once(word: str) -> None:
    stage = Script(job(word), None, job(word), job("STOPPING"), job(word), job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls == ["get_job", "stop_job", "get_job", "get_job", "get_job", "get_job"]


def test_a_job_that_is_being_stopped_is_not_stopped_again() -> None:
    stage = Script(job("STOPING"), job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert "stop_job" not in stage.calls


def test_a_job_that_is_not_there_needs_no_stop() -> None:
    stage = Script(MISSING)
    assert end(stage) is None
    assert stage.done == ["get_job"]


def test_a_job_that_may_still_appear_is_waited_for() -> None:
    stage = Script(*[MISSING] * 10, job("RUNNING"), None, job("STOPPED"))
    assert end(stage, may_appear=True) == job("STOPPED")
    stage = Script(MISSING)
    assert end(stage, may_appear=True) is None
    assert stage.now == 1000 + GRACE


def test_a_job_whose_record_goes_with_the_stop() -> None:
    assert end(Script(job("RUNNING"), None, MISSING)) is None


@pytest.mark.parametrize("error", [TIMEOUT, RESET, NOT_CONNECTED, BROKEN, CONFLICT, INVALID], ids=repr)
def test_a_stop_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    stage = Script(job("RUNNING"), error, job("STOPPING"), job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls.count("stop_job") == 1
    stage = Script(job("RUNNING"), error, job("SUCCEEDED"))
    assert end(stage) == job("SUCCEEDED")
    stage = Script(job("RUNNING"), error, job("RUNNING"), None, job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls.count("stop_job") == 2


def test_a_failed_look_is_repeated_before_anything_is_stopped() -> None:
    stage = Script(TIMEOUT, BROKEN, job("RUNNING"), None, job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls == ["get_job", "get_job", "get_job", "stop_job", "get_job"]


@pytest.mark.parametrize("kind", [AuthenticationError, PermissionDeniedError])
def test_who_may_not_stop_is_told_at_once(kind: type[APIError]) -> None:
    stage = Script(job("RUNNING"), refusal(kind))
    with pytest.raises(kind):
        end(stage)
    assert len(stage.calls) == 2


def test_one_need_not_stay_until_it_is_over() -> None:
    stage = Script(job("RUNNING"), None)
    assert end(stage, wait=False) == job("RUNNING")
    assert stage.done == ["get_job", "stop_job"]


def test_a_job_that_will_not_end() -> None:
    stage = Script(job("RUNNING"), None, job("STOPPING"))
    with pytest.raises(JobAliveError, match="still alive 60 s after it was asked to stop"):
        end(stage, timeout=60)
    assert stage.now == 1060
    with pytest.raises(JobAliveError, match="could not be stopped: no answer in time") as caught:
        end(Script(TIMEOUT), timeout=60)
    assert isinstance(caught.value.__cause__, RequestTimeoutError)


# ensure_job -----------------------------------------------------------------------------------------------------


class Died(BaseException):
    """The worker was killed."""


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
    """

    lag: float = 0
    plan: Sequence[tuple[float, JobStatus]] = ((25, JobStatus.SUCCEEDED),)
    lost: Sequence[int] = ()
    dropped: Sequence[int] = ()
    answers: dict[int, BitaHubError] = field(default_factory=dict)
    loss: BitaHubError = TIMEOUT
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
        return stored_job(self.saved[-1]) if self.saved else None

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
        return Job(name=name, status=status, word=status.value)

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
        job = self.ensure(task)
        if not job.status.is_terminal:
            job = self.run(wait_for_job(job.name, poll_interval=10, clock=self.clock))
        if not job.status.is_successful:
            raise JobFailedError(str(job), job.name)
        return job


def spec_of(record: JobRecord) -> JobSpec:
    return SPEC.model_copy(update={"job_name": record.job_name})


TASK = TaskIdentity(
    project="demo",
    run_date="20260101",
    marker="abc",
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
    with pytest.raises(JobStoppedError, match="stopped by somebody else") as caught:
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
    assert world.now >= 1000 + GRACE
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
    assert world.now == now


def test_a_job_that_was_accepted_and_does_not_show_stays_unconfirmed() -> None:
    world = Jobs(lag=GRACE + 10)
    with pytest.raises(UnexpectedResponseError, match=r"accepted job .* but does not show it"):
        world.ensure(TASK)
    assert world.record is not None
    assert not world.record.confirmed
    world.ensure(retry(TASK))
    assert len(world.submitted) == 1


@pytest.mark.parametrize("error", [TIMEOUT, RESET, FOREIGN, BROKEN, UNKNOWN_CODE], ids=repr)
def test_a_submission_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    world = Jobs(answers={1: error})
    world.ensure(TASK)
    first, second = (i for i, step in enumerate(world.done) if step == "submit_job")
    between = world.done[first + 1 : second]
    assert between[0] == between[-1] == "get_job"
    assert sum(step for step in between if not isinstance(step, str)) >= GRACE
    assert len(world.submitted) == 1


def test_a_submission_that_never_left_is_sent_again_without_waiting() -> None:
    world = Jobs(answers={1: NOT_CONNECTED})
    world.ensure(TASK)
    assert world.calls == ["submit_job", "get_job", "submit_job", "get_job"]
    assert world.pauses == []


@pytest.mark.parametrize("loss", [TIMEOUT, UNKNOWN_CODE], ids=repr)
@pytest.mark.parametrize("lag", [0, 20])
def test_a_submission_whose_answer_was_lost_is_found(lag: float, loss: BitaHubError) -> None:
    # The document does not show how success is told, so a code nobody knows may be one.
    world = Jobs(lost=[1], lag=lag, loss=loss)
    world.ensure(TASK)
    assert world.calls.count("submit_job") == 1


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
    world = Jobs(lost=[1], lag=GRACE + 1, answers={2: error})
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


@pytest.mark.parametrize("kind", [InvalidRequestError, AuthenticationError, PermissionDeniedError])
@pytest.mark.parametrize("task", [TASK, NAMED], ids=["own name", "given name"])
def test_a_refused_submission_leaves_nothing_to_adopt_or_to_stop(task: TaskIdentity, kind: type[APIError]) -> None:
    world = Jobs(answers={1: refusal(kind)})
    with pytest.raises(kind):
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


def every_death(attempt: Callable[[Sequence[tuple[int, bool]]], int]) -> None:
    """Make an attempt for every step a worker can die in, before and after it takes effect.

    The next worker dies, too: in every third step, which over all first deaths are all steps.
    """
    for took_effect in (False, True):
        for first in count(1):
            if attempt([(first, took_effect)]) == 0:
                break
            for second in count(1 + first % 3, 3):
                if attempt([(first, took_effect), (second, took_effect)]) < 2:
                    break


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


# ensure_serving -------------------------------------------------------------------------------------------------


def serving_spec(image: str = "flask:1") -> ServingSpec:
    return ServingSpec(
        name="mnist",
        model=Model(path="/models/u/m", mount_path="/model/u/m"),
        image=image,
        protocols=[Protocol()],
        commands=["python serving.py"],
    )


WANTED, OTHER = serving_spec("flask:1"), serving_spec("flask:2")


@dataclass
class FakeServing:
    """The one serving of `Servings`."""

    created: float
    image: str
    word: str = "RUNNING"
    is_ours: bool = True
    delete_asked: float | None = None


@dataclass
class Servings(Stage):
    """A platform in memory that knows one name. The parameters are those of `Jobs`; a removal takes 3 seconds."""

    lag: float = 0
    lost: Sequence[int] = ()
    dropped: Sequence[int] = ()
    answers: dict[int, BitaHubError] = field(default_factory=dict)
    skew: float = 0  # of the platform's clock
    current: FakeServing | None = None
    created: list[str] = field(default_factory=list)
    deleted: int = 0
    attempts: int = 0
    saved: list[ServingRecord] = field(default_factory=list)
    death: tuple[int, bool] | None = None
    steps: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def record(self) -> ServingRecord | None:
        return stored_serving(self.saved[-1]) if self.saved else None

    def put(self, image: str, word: str = "RUNNING", *, is_ours: bool = True) -> None:
        self.current = FakeServing(self.now + self.skew, image, word, is_ours)

    def answer(self, call: Call[Any]) -> Any:
        if self.current and self.current.delete_asked is not None and self.now >= self.current.delete_asked + 3:
            self.current = None
        if call.request.operation == "create_serving":
            return self._create(call.request.json_body["image"])
        assert (call.request.names, call.request.query) == ({"name": "mnist"}, {"version": "v1"})
        if self.current is None or self.now < self.current.created - self.skew + self.lag:
            raise fresh(MISSING)
        if call.request.operation == "delete_serving":
            assert self.current.is_ours, "a stranger's serving is removed"
            if self.current.delete_asked is None:
                self.current.delete_asked = self.now
                self.deleted += 1
            return None
        assert call.request.operation == "get_serving"
        return serving(self.current.word, created_at=self.current.created)

    def _create(self, image: str) -> None:
        assert self.record is not None, "nothing was written down before the creation"
        self.attempts += 1
        if self.attempts in self.dropped:
            raise fresh(TIMEOUT)
        if self.attempts in self.answers:
            self.now += 1  # which is when a late one may show
            raise fresh(self.answers[self.attempts])
        if self.current is not None:
            raise fresh(CONFLICT)
        self.put(image)
        self.created.append(image)
        if self.attempts in self.lost:
            raise fresh(TIMEOUT)

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

    def ensuring(self, spec: ServingSpec = WANTED, **options: Any) -> Procedure[tuple[Serving, ServingRecord | None]]:
        load, save = (lambda: self.record), self.saved.append
        return ensure_serving(spec, load=load, save=save, clock=self.clock, **options)

    def ensure(self, spec: ServingSpec = WANTED, **options: Any) -> Serving:
        serving, own = self.run(self.ensuring(spec, **options))
        assert own in (None, self.record), "what is returned is not what was written down"
        return serving


def deployed(spec: ServingSpec, **options: Any) -> Servings:
    """Give a platform on which we have this serving."""
    world = Servings(**options)
    world.ensure(spec)
    world.now += 100
    return world


def test_a_new_serving_is_created_and_remembered() -> None:
    world = Servings()
    created, own = world.run(world.ensuring())
    assert world.created == [WANTED.image]
    assert [record.since for record in world.saved] == [1000, None]
    assert own == world.record == ServingRecord(digest(WANTED.body()), created.created_at)


@pytest.mark.parametrize("skew", [-1e8, -3600, 3600])
def test_a_platform_whose_clock_is_wrong_tells_a_serving_of_ours_all_the_same(skew: float) -> None:
    world = Servings(skew=skew)
    world.ensure(OTHER)
    world.ensure()
    assert world.ensure().created_at == world.now + skew
    assert (world.created, world.deleted) == ([OTHER.image, WANTED.image], 1)


def test_whether_a_serving_was_created_for_this_task_is_told() -> None:
    world = deployed(WANTED)
    assert world.run(world.ensuring())[1] == world.record, "it never got ready"
    assert world.record is not None
    world.saved.append(replace(world.record, ready=True))
    assert world.run(world.ensuring())[1] is None
    assert world.record.ready
    world = Servings(saved=[ServingRecord(digest(WANTED.body()), since=1000)])
    world.put(WANTED.image)  # by the try before this one
    assert world.run(world.ensuring())[1] == ServingRecord(digest(WANTED.body()), 1000)


@pytest.mark.parametrize("error", [BUSY, NOT_CONNECTED], ids=repr)
def test_what_a_creation_without_effect_was_to_make_is_not_taken_for_ours(error: BitaHubError) -> None:
    world = Servings(answers=dict.fromkeys(range(1, 4), error))
    with pytest.raises(type(error)):
        world.ensure()
    world.put(WANTED.image, is_ours=False)
    for spec in (WANTED, OTHER):
        with pytest.raises(ServingRefusedError):
            world.ensure(spec)


def test_a_platform_that_tells_the_time_of_creation_only_later() -> None:
    world = Servings()
    creating = world.ensuring()
    assert next(creating) is not None
    creating.throw(MISSING)
    assert isinstance(creating.send(None), Call)
    with pytest.raises(StopIteration) as finished:
        creating.send(serving("WAITING", created_at=None))
    assert finished.value.value[1] == ServingRecord(digest(WANTED.body()), None, since=1000)
    world.put(WANTED.image)
    assert world.ensure().created_at == 1000
    assert world.attempts == 0


@pytest.mark.parametrize("word", ["WAITING", "DEPLOYING", "RUNNING", "HIBERNATING"])
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_our_serving_of_the_same_spec_is_adopted(if_exists: str, word: str) -> None:
    world = deployed(WANTED)
    assert world.current is not None
    world.current.word = word
    world.ensure(if_exists=if_exists)
    assert (world.created, world.deleted) == ([WANTED.image], 0)


@pytest.mark.parametrize("word", ["FAILED", "STOPPED", "STOPPING"])
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_our_serving_that_no_longer_serves_is_replaced(if_exists: str, word: str) -> None:
    world = deployed(WANTED)
    assert world.current is not None
    world.current.word = word
    world.ensure(if_exists=if_exists)
    assert (len(world.created), world.deleted) == (2, 1)


def test_our_serving_of_another_spec_is_replaced() -> None:
    world = deployed(OTHER)
    world.ensure()
    assert world.created == [OTHER.image, WANTED.image]
    assert world.deleted == 1
    assert world.calls[-2:] == ["create_serving", "get_serving"]


def test_our_serving_of_another_spec_is_not_replaced_if_so_asked() -> None:
    world = deployed(OTHER)
    saved = list(world.saved)
    with pytest.raises(ServingRefusedError, match="another specification"):
        world.ensure(if_exists="fail")
    assert (world.deleted, world.saved) == (0, saved)


@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_a_serving_nobody_remembers_is_left_alone(if_exists: str) -> None:
    world = Servings()
    world.put(WANTED.image, is_ours=False)
    with pytest.raises(ServingRefusedError, match="did not create"):
        world.ensure(if_exists=if_exists)
    assert (world.calls, world.saved) == (["get_serving"], [])


def test_a_serving_created_by_others_in_place_of_ours_is_left_alone() -> None:
    world = deployed(WANTED)
    world.put(WANTED.image, is_ours=False)
    with pytest.raises(ServingRefusedError):
        world.ensure()


def test_a_serving_that_others_removed_is_created_again() -> None:
    world = deployed(WANTED)
    world.current = None
    world.ensure()
    assert len(world.created) == 2


def test_a_stranger_that_comes_between_look_and_creation_is_left_alone_for_good() -> None:
    world = Servings(answers={1: CONFLICT})
    with pytest.raises(ServingFailedError, match="created by somebody else at the same moment"):
        world.ensure()
    world.put(WANTED.image, is_ours=False)
    for spec in (WANTED, OTHER):
        with pytest.raises(ServingRefusedError):
            world.ensure(spec)
    world.current = None
    world.ensure()
    assert world.created == [WANTED.image]


@pytest.mark.parametrize("kind", [InvalidRequestError, AuthenticationError, PermissionDeniedError])
def test_a_refused_creation_leaves_nothing_to_adopt_or_to_remove(kind: type[APIError]) -> None:
    world = Servings(answers={1: refusal(kind)})
    with pytest.raises(kind):
        world.ensure()
    world.put(WANTED.image, is_ours=False)
    with pytest.raises(ServingRefusedError):
        world.ensure()


@pytest.mark.parametrize("error", [TIMEOUT, RESET, FOREIGN, BROKEN, UNKNOWN_CODE], ids=repr)
def test_a_creation_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    world = Servings(answers={1: error})
    world.ensure()
    assert world.created == [WANTED.image]
    assert world.now >= 1000 + GRACE


def test_a_creation_that_never_left_is_sent_again_without_waiting() -> None:
    world = Servings(answers={1: NOT_CONNECTED})
    world.ensure()
    assert world.created == [WANTED.image]
    assert world.pauses == []


@pytest.mark.parametrize("lag", [0, 20])
def test_a_creation_whose_answer_was_lost_is_found(lag: float) -> None:
    world = Servings(lost=[1], lag=lag)
    world.ensure()
    assert world.attempts == 1


@pytest.mark.parametrize("error", [CONFLICT, INVALID], ids=repr)
def test_a_creation_that_got_through_very_late_is_found(error: BitaHubError) -> None:
    world = Servings(lost=[1], lag=GRACE + 1, answers={2: error})
    world.ensure()
    assert len(world.created) == 1


def test_a_creation_the_last_try_may_have_made_is_waited_for_before_another() -> None:
    world = Servings(lag=20, saved=[ServingRecord(digest(WANTED.body()), since=1000)])
    world.put(WANTED.image)
    world.ensure()
    assert world.attempts == 0


def test_a_creation_the_last_try_made_is_found_even_if_it_shows_very_late() -> None:
    world = Servings(lag=GRACE + 1, saved=[ServingRecord(digest(WANTED.body()), since=1000)])
    world.put(WANTED.image)
    world.ensure()
    assert (world.attempts, world.created) == (1, [])


def test_creating_ends() -> None:
    world = Servings(dropped=range(1, 100))
    with pytest.raises(RequestTimeoutError):
        world.ensure()
    assert world.attempts == 3


def test_a_serving_that_was_accepted_and_does_not_show() -> None:
    with pytest.raises(ServingFailedError, match="does not show it"):
        Servings(lag=GRACE + 10).ensure()


def test_a_rate_limit_is_no_refusal() -> None:
    world = Servings(answers={1: BUSY})
    with pytest.raises(RateLimitError):
        world.ensure()
    world.ensure()
    assert world.created == [WANTED.image]


@pytest.mark.parametrize("pause", [0, 600], ids=["at once", "much later"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lost": [1, 2]},
        {"dropped": [1]},
        {"answers": {1: NOT_CONNECTED, 2: NOT_CONNECTED}},
        {"lag": 20},
        {"lag": 20, "lost": [1, 2]},
    ],
)
@pytest.mark.parametrize("before", ["nothing", "other spec", "failed", "failed, not to be replaced"])
def test_a_worker_may_die_at_any_step_of_a_deployment(before: str, options: dict[str, Any], pause: float) -> None:
    def attempt(deaths: Sequence[tuple[int, bool]]) -> int:
        world = Servings(**options)
        if before != "nothing":
            world.ensure(OTHER if before == "other spec" else WANTED)
            assert world.current is not None
            world.current.word = "RUNNING" if before == "other spec" else "FAILED"
        already = len(world.created)
        died = 0
        for death in [*deaths, None]:
            world.death, world.steps = death, 0
            try:
                world.ensure(if_exists="fail" if "not to be" in before else "replace")
                break
            except Died:
                died += 1
                world.now += pause
        assert world.created[already:] == [WANTED.image], (deaths, world.created)
        assert world.current is not None
        assert (world.current.image, world.current.delete_asked) == (WANTED.image, None)
        assert world.record == ServingRecord(digest(WANTED.body()), world.current.created)
        return died

    every_death(attempt)


@pytest.mark.parametrize("before", ["nothing", "one to be replaced"])
@pytest.mark.parametrize("other", [WANTED, OTHER], ids=["same spec", "other spec"])
def test_two_deployments_at_once_leave_one_that_is_known(other: ServingSpec, before: str) -> None:
    def attempt(steps: int) -> bool:
        """Let one task do so many steps, then another one all of its, and then the first the rest."""
        world = Servings() if before == "nothing" else deployed(serving_spec("flask:0"))
        slow = world.ensuring()
        step = next(slow)
        for _ in range(steps):
            try:
                step = slow.send(world.perform(step))
            except NotFoundError as error:
                step = slow.throw(error)
            except StopIteration:
                return False
        succeeded = []
        for spec, task, begun in ((other, world.ensuring(other), None), (WANTED, slow, step)):
            with suppress(ServingFailedError):
                world.run(task, begun)
                succeeded.append(spec.image)
        assert world.current is not None
        if len(succeeded) == 2:
            assert (world.current.image, world.current.delete_asked) == (WANTED.image, None)
        else:
            assert succeeded == [other.image]
            world.ensure()  # the next try of the first task
            assert world.current.image == WANTED.image
        return True

    assert sum(1 for _ in takewhile(attempt, count())) > 2


# wait_for_serving -----------------------------------------------------------------------------------------------


def wait_serving(stage: Stage, **options: Any) -> Serving:
    return stage.run(wait_for_serving("mnist", "v1", clock=stage.clock, **{"poll_interval": 10, **options}))


def test_a_serving_is_ready_when_it_runs_and_answers() -> None:
    stage = Script(serving("WAITING"), serving("RUNNING"), RESET, serving("RUNNING"), False, serving("RUNNING"), True)
    assert wait_serving(stage) == serving("RUNNING")
    assert stage.calls == ["get_serving", "get_serving", "GET", "get_serving", "GET", "get_serving", "GET"]


@pytest.mark.parametrize("word", ["WAITING", "STOPPING", "HIBERNATING", ""])
def test_a_program_is_not_asked_while_the_platform_does_not_say_running(word: str) -> None:
    stage = Script(serving(word), serving("RUNNING"), True)
    wait_serving(stage)
    assert stage.calls == ["get_serving", "get_serving", "GET"]


def test_a_program_whose_address_is_not_told_yet_is_not_asked() -> None:
    stage = Script(serving("RUNNING", url=""), serving("RUNNING"), True)
    wait_serving(stage)
    assert stage.calls == ["get_serving", "get_serving", "GET"]


def test_the_program_is_asked_where_it_wants_to_be() -> None:
    steps = wait_for_serving("mnist", "v2", poll_interval=10, readiness_path="/health")
    look = next(steps)
    assert isinstance(look, Call)
    assert look.request.query == {"version": "v2"}
    probe = steps.send(serving("RUNNING"))
    assert isinstance(probe, Call)
    assert probe.request.operation == "GET http://mnist.example.com/health"


@pytest.mark.parametrize("word", ["FAILED", "STOPPED", "Completed"])
def test_a_serving_that_will_never_be_ready(word: str) -> None:
    with pytest.raises(ServingFailedError, match=f"serving 'mnist' is {word}") as caught:
        wait_serving(Script(serving("WAITING"), serving(word)))
    assert caught.value.serving_name == "mnist"


def test_a_servings_change_is_told_once() -> None:
    seen: list[str] = []
    stage = Script(serving("WAITING"), serving("WAITING"), serving("RUNNING"), False, serving("RUNNING"), True)
    wait_serving(stage, on_change=lambda serving: seen.append(serving.word))
    assert seen == ["WAITING", "RUNNING"]


@pytest.mark.parametrize("error", [TIMEOUT, RESET, NOT_CONNECTED, FOREIGN, BROKEN, BUSY], ids=repr)
def test_a_failed_look_says_nothing_about_the_serving(error: BitaHubError) -> None:
    wait_serving(Script(*[error] * 50, serving("RUNNING"), True))


def test_a_serving_denied_for_longer_than_the_grace_period() -> None:
    stage = Script(MISSING)
    with pytest.raises(NotFoundError):
        wait_serving(stage)
    assert stage.now == 1000 + GRACE
    wait_serving(Script(*[MISSING] * 500, serving("RUNNING"), True), grace=None)
    wait_serving(Script(*[BROKEN] * 20, MISSING, serving("RUNNING"), True))


def test_a_serving_that_is_not_ready_by_the_deadline() -> None:
    stage = Script(*[serving("RUNNING"), False] * 10)
    with pytest.raises(ServingTimeoutError, match=r"answering at '/ready'.*last seen, serving 'mnist' is RUNNING"):
        wait_serving(stage, deadline=1025, readiness_path="/ready")
    assert stage.pauses == [10, 10, 5]


def test_a_serving_that_is_ready_just_in_time() -> None:
    assert wait_serving(Script(serving("WAITING"), serving("RUNNING"), True), deadline=1010).word == "RUNNING"


def test_a_serving_that_was_replaced_meanwhile_is_not_taken_for_the_one_that_is_meant() -> None:
    stage = Script(serving("WAITING", created_at=7.0), serving("RUNNING", created_at=8.0), True)
    with pytest.raises(ServingFailedError, match="replaced by another deployment while it started"):
        wait_serving(stage, created_at=7.0)


# stop_own_serving -----------------------------------------------------------------------------------------------


def stop_own(stage: Stage, **options: Any) -> list[str]:
    stage.run(stop_own_serving("mnist", "v1", lambda created_at: created_at == 7, clock=stage.clock, **options))
    return stage.calls


def test_our_serving_is_stopped() -> None:
    assert stop_own(Script(serving("RUNNING", created_at=7), None)) == ["get_serving", "stop_serving"]


def test_one_that_took_its_place_is_left_alone() -> None:
    assert stop_own(Script(serving("RUNNING", created_at=8))) == ["get_serving"]


@pytest.mark.parametrize("word", ["STOPPING", "STOPPED", "FAILED"])
def test_one_that_serves_no_more_needs_no_stop(word: str) -> None:
    assert stop_own(Script(serving(word, created_at=7))) == ["get_serving"]


def test_one_that_is_not_there_may_still_appear() -> None:
    assert stop_own(Script(MISSING)) == ["get_serving"]
    assert stop_own(Script(MISSING, serving("WAITING", created_at=7), None), grace=2)[-1] == "stop_serving"


# end_serving ----------------------------------------------------------------------------------------------------


def remove(stage: Stage, **options: Any) -> None:
    stage.run(end_serving(serving("RUNNING"), "v1", clock=stage.clock, **options))


def test_a_serving_that_is_not_there_is_not_removed() -> None:
    stage = Script(MISSING)
    remove(stage)
    assert stage.calls == ["get_serving"]


def test_a_serving_is_looked_at_removed_and_watched_until_it_is_gone() -> None:
    stage = Script(serving("RUNNING"), None, serving("STOPPING"), serving("STOPPING"), MISSING)
    remove(stage)
    assert stage.calls == ["get_serving", "delete_serving", "get_serving", "get_serving", "get_serving"]


@pytest.mark.parametrize("error", [TIMEOUT, RESET, NOT_CONNECTED, BROKEN], ids=repr)
def test_a_removal_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    stage = Script(serving("RUNNING"), error, MISSING)
    remove(stage)
    assert stage.calls == ["get_serving", "delete_serving", "get_serving"]


def test_a_serving_that_took_the_place_of_the_removed_one_is_left_alone() -> None:
    stage = Script(serving("RUNNING"), None, serving("WAITING", created_at=2.0))
    remove(stage)
    assert stage.calls == ["get_serving", "delete_serving", "get_serving"]


def test_a_serving_that_goes_between_look_and_removal() -> None:
    remove(Script(serving("RUNNING"), MISSING))


def test_a_serving_that_will_not_go() -> None:
    with pytest.raises(ServingTimeoutError, match="still there 60 s after its removal"):
        remove(Script(serving("RUNNING"), None, serving("STOPPING")), timeout=60)
    with pytest.raises(ServingTimeoutError, match="could not be removed: no answer in time"):
        remove(Script(TIMEOUT), timeout=60)

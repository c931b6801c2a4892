"""Waiting for a job, and stopping one, stepped by hand: there is no server, loop or clock here."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest

from airflow_bitahub.api.job_reading import Job, JobPage
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.api.protocol import Call
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    JobAliveError,
    JobLostError,
    JobQueueTimeoutError,
    JobTimeoutError,
    PermissionDeniedError,
    RequestTimeoutError,
    StateUnknownError,
    TransportError,
)
from airflow_bitahub.procedures.jobs import JobPages, end_job, list_all_jobs, wait_for_job
from airflow_bitahub.procedures.retry import CONFIRM_ABSENCE, GRACE_PERIOD, UNREACHABLE_TIMEOUT
from tests.procedures.stage import (
    BROKEN,
    CONFLICT,
    INVALID,
    MISSING,
    ODD_REFUSALS,
    SAYS_NOTHING,
    TIMEOUT,
    UNKNOWN_CODE,
    Script,
    Stage,
    gateway,
    job,
    refusal,
)


def wait(stage: Stage, **options: Any) -> Job:
    return stage.run(wait_for_job("mnist", clock=stage.clock, **{"poll_interval": 10, **options}))


@pytest.mark.parametrize("word", ["SUCCEEDED", "FAILED", "STOPPED", "Completed"])
def test_waiting_gives_the_job_however_it_ended(word: str) -> None:
    stage = Script(job("WAITING"), job("RUNNING"), job(word))
    assert wait(stage).raw_state == word
    assert stage.calls == ["get_job"] * 3


def test_a_job_that_is_over_is_not_waited_for() -> None:
    stage = Script(job("FAILED"))
    assert wait(stage, deadline=stage.now - 1).status is JobStatus.FAILED
    assert stage.done == ["get_job"]


def test_states_may_go_backward_and_may_be_unknown() -> None:
    words = ["RUNNING", "RESTARTING", "WAITING", "HIBERNATING", "RUNNING", "", "SUCCEEDED"]
    stage = Script(*map(job, words))
    assert wait(stage).raw_state == "SUCCEEDED"
    assert len(stage.calls) == len(words)


def test_a_change_is_told_once() -> None:
    seen: list[str] = []
    words = ["WAITING", "WAITING", "RUNNING", "RUNNING", "RESTARTING", "RUNNING", "SUCCEEDED"]
    wait(Script(*map(job, words)), on_change=lambda job: seen.append(job.raw_state))
    assert seen == ["WAITING", "RUNNING", "RESTARTING", "RUNNING", "SUCCEEDED"]


def test_a_failed_look_between_two_equal_states_is_no_change() -> None:
    seen: list[str] = []
    wait(
        Script(job("RUNNING"), TIMEOUT, job("RUNNING"), job("FAILED")), on_change=lambda job: seen.append(job.raw_state)
    )
    assert seen == ["RUNNING", "FAILED"]


@pytest.mark.parametrize(("longest", "last"), [(0, 10), (5, 10), (60, 60)])
def test_the_pause_is_a_tenth_of_the_age_within_limits(longest: float, last: float) -> None:
    stage = Script(*[job("RUNNING")] * 100, job("SUCCEEDED"))
    wait(stage, longest_poll_interval=lambda: longest)
    assert stage.pauses[:10] == [0.5] * 10
    assert all(before <= after for before, after in pairwise(stage.pauses))
    ages = accumulate(stage.pauses)
    assert all(pause <= max(0.5, age / 10 + 1e-9) for age, pause in zip(ages, stage.pauses[1:], strict=False))
    assert stage.pauses[-1] == last
    stage = Script(job("RUNNING"), job("SUCCEEDED"))
    wait(stage, poll_interval=0.2)
    assert stage.pauses == [0.2]


@pytest.mark.parametrize(
    ("first", "second", "pause"),
    [
        (Job(name="mnist", status=JobStatus.RUNNING, started_at=970), None, 3),  # an old job, and a new waiter
        (Job(name="mnist", status=JobStatus.RUNNING, started_at=5000), None, 0.5),  # the platform's clock is fast
        (Job(name="mnist", status=JobStatus.WAITING, created_at=960), None, 4),
        # It has begun since the last query, whatever the platform's clock says.
        (
            Job(name="mnist", status=JobStatus.WAITING, created_at=1, raw_state="QUEUED"),
            Job(name="mnist", status=JobStatus.RUNNING, started_at=2),
            1,
        ),
    ],
    ids=str,
)
def test_the_age_counts_from_the_start_of_the_job_as_far_as_our_looks_leave_it_open(
    first: Job, second: Job | None, pause: float
) -> None:
    stage = Script(first, *([second] if second else []), job("SUCCEEDED"))
    wait(stage)
    assert stage.pauses[-1] == pause


def test_a_job_just_submitted_is_young_by_our_own_clock() -> None:
    old = Job(name="mnist", status=JobStatus.RUNNING, created_at=1, started_at=2)  # the platform's clock is slow
    stage = Script(*[old] * 4, job("SUCCEEDED"))
    wait(stage, known=old, is_new=True)
    assert stage.done[:6] == [pytest.approx(0.4), "get_job", 0.8, "get_job", 0.5, "get_job"]  # and 0.3 in `ensure_job`


# Waiting on a worker first ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "calls"),
    [
        ([job("RUNNING")], 25),  # until 20 s have passed
        ([job("WAITING")], 1),  # it may wait for its turn for hours
        ([job("RUNNING"), job("WAITING"), job("FAILED")], 3),  # it was restarted, and its turn has come before
        ([job("RUNNING"), TIMEOUT], 2),  # an outage may last
        ([job("RUNNING"), job("STOPPED")], 2),
    ],
    ids=str,
)
def test_a_worker_waits_for_a_young_job_only(answers: list[Any], calls: int) -> None:
    stage = Script(*answers)
    found = wait(stage, known=answers[0], is_new=True, defer_after=20)
    assert len(stage.calls) == calls
    assert found.status.is_terminal or stage.now <= 1000 + 22


@pytest.mark.parametrize("age", [0, 30])
def test_a_worker_does_not_wait_for_an_old_job_nor_where_it_may_not(age: float) -> None:
    stage = Script(job("RUNNING"))
    known = Job(name="mnist", status=JobStatus.RUNNING, started_at=stage.now - age)
    assert wait(stage, known=known, defer_after=20 if age else 0) is known
    assert stage.done == []


def test_what_ends_a_wait_ends_it_on_a_worker_too() -> None:
    queued = job("WAITING")
    with pytest.raises(JobQueueTimeoutError):
        wait(Script(queued), known=queued, is_new=True, defer_after=20, queue_deadline=1000)
    with pytest.raises(ConfigurationError):
        wait(Script(ConfigurationError("no cluster")), known=job("RUNNING"), defer_after=20)


# Failed looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [*SAYS_NOTHING, *ODD_REFUSALS], ids=str)
def test_a_failed_look_says_nothing_about_a_job_that_exists(error: BitaHubError) -> None:
    assert wait(Script(job("RUNNING"), *[error] * 50, job("SUCCEEDED"))).raw_state == "SUCCEEDED"
    assert wait(Script(*[error] * 50, job("SUCCEEDED")), is_known=True).raw_state == "SUCCEEDED"
    stage = Script(job("RUNNING"), error)
    with pytest.raises(StateUnknownError, match="for 900 s"):
        wait(stage)
    assert stage.now == 1000 + 0.5 + UNREACHABLE_TIMEOUT


def test_an_unreachable_platform_is_ridden_out_for_the_patience() -> None:
    stage = Script(BROKEN)
    with pytest.raises(TransportError, match=r"for 900 s .*ServerError.*never seen"):
        wait(stage)
    assert stage.now == 1000 + UNREACHABLE_TIMEOUT


def test_the_patience_may_be_another_and_the_job_as_last_seen_is_told() -> None:
    stage = Script(job("RUNNING"), TIMEOUT)
    with pytest.raises(TransportError, match=r"for 60 s .*When last seen, job 'mnist' is RUNNING"):
        wait(stage, unreachable_timeout=60)
    assert stage.now == 1000 + 0.5 + 60


def test_patience_begins_anew_with_every_answer() -> None:
    trouble = [TIMEOUT] * int(UNREACHABLE_TIMEOUT / 10 - 1)
    stage = Script(*trouble, job("RUNNING"), *trouble, MISSING, *trouble, job("SUCCEEDED"))
    assert wait(stage).raw_state == "SUCCEEDED"


@pytest.mark.parametrize("error", [*ODD_REFUSALS, UNKNOWN_CODE, gateway(AuthenticationError)], ids=str)
def test_being_refused_a_job_that_was_never_seen_ends_the_waiting_at_once(error: BitaHubError) -> None:
    stage = Script(error)
    with pytest.raises(type(error)):
        wait(stage)
    assert len(stage.calls) == 1


def test_a_gateway_that_refuses_a_job_never_seen_is_only_believed_after_the_grace_period() -> None:
    denied = gateway(PermissionDeniedError)
    assert wait(Script(denied, denied, job("SUCCEEDED"))).raw_state == "SUCCEEDED"
    stage = Script(denied)
    with pytest.raises(StateUnknownError, match="PermissionDeniedError of a gateway"):
        wait(stage)
    assert stage.now == 1000 + GRACE_PERIOD


def test_what_we_find_wrong_before_sending_ends_the_waiting() -> None:
    with pytest.raises(ConfigurationError):
        wait(Script(job("RUNNING"), ConfigurationError("no cluster")))


def test_a_job_may_be_denied_for_the_grace_period() -> None:
    assert wait(Script(MISSING, MISSING, job("RUNNING"), MISSING, MISSING, job("SUCCEEDED"))).raw_state == "SUCCEEDED"


def test_a_job_denied_for_longer_is_lost() -> None:
    stage = Script(job("RUNNING"), MISSING)
    with pytest.raises(JobLostError, match="no longer has it") as caught:
        wait(stage)
    assert caught.value.job_name == "mnist"
    assert stage.now == 1000 + 0.5 + GRACE_PERIOD


def test_trouble_before_the_first_denial_does_not_count_as_denial() -> None:
    stage = Script(job("RUNNING"), *[BROKEN] * 20, MISSING, job("SUCCEEDED"))
    assert wait(stage).raw_state == "SUCCEEDED"


def test_trouble_between_denials_does_not_prolong_the_grace() -> None:
    with pytest.raises(JobLostError):
        wait(Script(*[MISSING, TIMEOUT] * 3))


def test_without_a_grace_period_a_job_may_come_late() -> None:
    assert wait(Script(*[MISSING] * 500, job("SUCCEEDED")), grace=None).raw_state == "SUCCEEDED"


def test_the_deadline_is_looked_at_after_the_state() -> None:
    stage = Script(job("RUNNING"), job("SUCCEEDED"))
    assert wait(stage, deadline=1010).raw_state == "SUCCEEDED"


def test_a_job_that_is_not_over_by_the_deadline() -> None:
    stage = Script(job("RUNNING", message="epoch 3", started_at=1))
    with pytest.raises(JobTimeoutError, match="When last seen, job 'mnist' is RUNNING: epoch 3"):
        wait(stage, deadline=1025)
    assert stage.pauses == [10, 10, 5]


def test_a_job_that_was_never_seen_by_the_deadline() -> None:
    with pytest.raises(JobTimeoutError, match=r"the last answer: .*was never seen"):
        wait(Script(MISSING), deadline=1025, grace=None)


def test_a_job_that_does_not_begin_by_its_deadline() -> None:
    stage = Script(job("WAITING", message="waiting: 2 gtx-1080-ti asked for, 0 free", created_at=1))
    with pytest.raises(JobQueueTimeoutError, match=r"did not start in time.*is WAITING: waiting: 2 gtx-1080-ti"):
        wait(stage, queue_deadline=1025, deadline=5000)
    assert stage.pauses == [10, 10, 5]


@pytest.mark.parametrize(
    "seen",
    [
        job("RUNNING"),
        job("HIBERNATING"),
        Job(name="mnist", status=JobStatus.WAITING, raw_state="RESTARTING", started_at=1),
    ],
    ids=str,
)
def test_a_job_that_has_begun_or_may_have_is_not_held_to_the_queues_deadline(seen: Job) -> None:
    assert wait(Script(*[seen] * 9, job("SUCCEEDED")), queue_deadline=1025).raw_state == "SUCCEEDED"


def test_an_old_answer_does_not_make_a_job_late() -> None:
    stage = Script(job("WAITING"), *[BROKEN] * 5, job("RUNNING"), job("SUCCEEDED"))
    assert wait(stage, queue_deadline=1015).raw_state == "SUCCEEDED"


def test_a_job_that_went_back_to_the_queue_has_begun() -> None:
    stage = Script(job("RUNNING"), *[job("WAITING")] * 9, job("SUCCEEDED"))
    assert wait(stage, queue_deadline=1025).raw_state == "SUCCEEDED"


def test_a_word_nobody_knows_is_no_beginning() -> None:
    with pytest.raises(JobQueueTimeoutError):
        wait(Script(job("HIBERNATING"), job("WAITING")), queue_deadline=1025)


def test_a_denial_after_a_long_outage_is_a_new_one() -> None:
    stage = Script(job("RUNNING"), MISSING, *[BROKEN] * 5, MISSING, job("SUCCEEDED"))
    assert wait(stage).raw_state == "SUCCEEDED"


def test_a_platform_that_cannot_be_asked_does_not_make_a_job_late() -> None:
    stage = Script(*[TIMEOUT] * 9, job("RUNNING"), job("SUCCEEDED"))
    assert wait(stage, queue_deadline=1025).raw_state == "SUCCEEDED"
    assert stage.pauses[:4] == [10, 10, 5, 10]


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
    assert {*stage.calls} == {"get_job"}
    assert stage.now == 1000 + CONFIRM_ABSENCE


def test_a_job_that_is_denied_for_a_moment_is_stopped() -> None:
    stage = Script(MISSING, MISSING, job("RUNNING"), None, job("STOPPED"))
    assert end(stage) == job("STOPPED")


def test_a_stop_that_is_denied_for_a_moment_is_sent_again() -> None:
    stage = Script(job("RUNNING"), MISSING, job("RUNNING"), None, job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls.count("stop_job") == 2


def test_a_job_that_is_denied_after_an_outage_has_to_be_denied_twice() -> None:
    stage = Script(MISSING, *[TIMEOUT] * 8, MISSING, job("RUNNING"), None, job("STOPPED"))
    assert end(stage) == job("STOPPED")


def test_a_single_denial_at_the_end_of_an_outage_is_not_believed() -> None:
    stage = Script(*[TIMEOUT] * 60, MISSING)
    with pytest.raises(JobAliveError, match="could not be stopped"):
        end(stage, timeout=60)


def test_a_job_that_may_still_appear_is_waited_for() -> None:
    stage = Script(*[MISSING] * 10, job("RUNNING"), None, job("STOPPED"))
    assert end(stage, may_appear=True) == job("STOPPED")
    stage = Script(MISSING)
    assert end(stage, may_appear=True) is None
    assert stage.now == 1000 + GRACE_PERIOD


def test_a_job_that_does_not_appear_within_both_limits_is_not_there() -> None:
    class Slow(Script):
        def answer(self, call: Call[Any]) -> Any:
            self.now += 0.3
            return super().answer(call)

    assert end(Slow(MISSING), may_appear=True, timeout=GRACE_PERIOD) is None


@pytest.mark.parametrize("may_appear", [False, True])
def test_a_job_whose_record_goes_with_the_stop(may_appear: bool) -> None:
    stage = Script(job("RUNNING"), None, MISSING)
    assert end(stage, may_appear=may_appear) is None
    assert stage.calls == ["get_job", "stop_job", "get_job"]


def test_a_denial_does_not_prolong_a_short_time_limit_which_is_enough_to_see_that_a_job_is_gone() -> None:
    stage = Script(MISSING)
    assert end(stage, wait=False, timeout=4) is None
    assert stage.now == 1004


@pytest.mark.parametrize("error", [*SAYS_NOTHING, CONFLICT, INVALID], ids=str)
def test_a_stop_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    stage = Script(job("RUNNING"), error, job("STOPPING"), job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls.count("stop_job") == 1
    stage = Script(job("RUNNING"), error, job("SUCCEEDED"))
    assert end(stage) == job("SUCCEEDED")
    stage = Script(job("RUNNING"), error, job("RUNNING"), None, job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls.count("stop_job") == 2


@pytest.mark.parametrize("error", [*SAYS_NOTHING, *ODD_REFUSALS], ids=str)
def test_a_failed_look_is_repeated_before_anything_is_stopped(error: BitaHubError) -> None:
    stage = Script(error, error, job("RUNNING"), None, job("STOPPED"))
    assert end(stage) == job("STOPPED")
    assert stage.calls == ["get_job", "get_job", "get_job", "stop_job", "get_job"]


@pytest.mark.parametrize("kind", [AuthenticationError, PermissionDeniedError])
def test_who_may_not_stop_is_told_at_once(kind: type[APIError]) -> None:
    stage = Script(job("RUNNING"), refusal(kind, request="stop_job"))
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


def page(*names: str, size: int = 100) -> JobPage:
    return JobPage({name: job("RUNNING", name) for name in names}, set(names), size)


def test_pages_are_counted_and_return_each_job_once() -> None:
    pages = JobPages(2)
    assert pages.next_page().request.query == {"page": "1", "limit": "2"}
    assert pages.add(page("a", "b")).keys() == {"a", "b"}
    assert pages.next_page().request.query == {"page": "2", "limit": "2"}
    assert pages.add(page("b", "c", size=50)).keys() == {"c"}  # jobs may move on while the pages are read
    assert (pages.names, pages.count, pages.size, pages.is_complete) == ({"a", "b", "c"}, 2, 150, False)


@pytest.mark.parametrize("last", [page(), page("b", "a")], ids=["empty", "known"])
def test_page_without_a_new_name_is_the_last_one(last: JobPage) -> None:
    pages = JobPages(2)
    pages.add(page("a", "b"))
    assert pages.add(last) == {}
    assert pages.is_complete


def test_names_on_a_page_count_although_only_wanted_jobs_are_read() -> None:
    pages = JobPages(2, known={"c": None})
    assert pages.add(JobPage({}, {"a", "b"}, 100)) == {}
    assert not pages.is_complete
    assert pages.add(JobPage({"c": job("RUNNING", "c")}, {"c"}, 100)).keys() == {"c"}


def test_all_jobs_are_listed_from_all_pages() -> None:
    stage = Script(page("a", "b"), page("c"), page())
    jobs, unreadable = stage.run(list_all_jobs(2))
    assert ([job.name for job in jobs], unreadable) == (["a", "b", "c"], 0)
    assert stage.calls == ["list_jobs"] * 3

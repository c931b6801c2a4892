"""The checks find every broken promise, and the same seed gives the same plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checks import Orphan, Outcome, orphans, servings, shared, violations
from tests.chaos.faults import FAULTS
from tests.chaos.plan import KINDS, PLATFORM, draw_round
from tests.chaos.strikes import Act
from tests.chaos.tasks import Job, Task

TASK = Task("r1a", "w1")
NAME = "r1a-w1-1-20261123-aaaaaaaaaa-1"
TI: dict[str, Any] = {"state": "running", "max_tries": 8, "triggerer_job": None}


def job(token: str = "a" * 10, attempt: int = 1, created: float = 100, ended: float = 110, **changes: Any) -> Job:
    name = f"r1a-w1-1-20261123-{token}-{attempt}"
    return replace(Job(name, TASK.owner, token, attempt, "SUCCEEDED", created, ended), **changes)


def outcome(**changes: Any) -> Outcome:
    named = {"job_name": NAME}
    return replace(Outcome("success", 1, 8, named, named, f"{NAME} r1a w1 -1\n"), **changes)


def person(kind: str, time: float = 105, **changes: Any) -> Act:
    return Act(time, kind, "", {TASK: {**TI, **changes}})


def broken(outcome: Outcome, jobs: list[Job], *acts: Act) -> list[str]:
    return [problem.split(": ", 1)[1] for problem in violations({TASK: outcome}, jobs, acts)]


def test_job_that_succeeded_and_its_result_are_fine() -> None:
    assert broken(outcome(), [job()]) == []


def test_second_job_while_the_first_is_alive_is_found() -> None:
    doubled = [job(state="FAILED"), job(attempt=2, created=109, ended=120)]
    assert any("still alive" in problem for problem in broken(outcome(), doubled))
    assert any("still alive" in problem for problem in broken(outcome(), [job(ended=0), job("b" * 10, created=200)]))


def test_second_attempt_past_a_job_that_succeeded_is_found() -> None:
    problems = broken(outcome(), [job(), job(attempt=2, created=200, ended=210)])
    assert f"{NAME} was SUCCEEDED and yet followed" in problems


def test_attempt_that_was_left_out_is_found() -> None:
    assert any("attempts" in problem for problem in broken(outcome(), [job(attempt=2)]))


def test_job_of_nobody_is_found() -> None:
    [problem] = violations({}, [job()], [])
    assert "belong to no task instance" in problem


@pytest.mark.parametrize(
    ("max_tries", "stale"),
    [pytest.param(9, True, id="cleared"), pytest.param(8, False, id="a retry to Airflow, since its worker was dead")],
)
def test_result_of_the_generation_before_a_clear_is_found(max_tries: int, stale: bool) -> None:
    problems = broken(outcome(max_tries=max_tries), [job()], person("clear"))
    assert any("stale" in problem for problem in problems) is stale


@pytest.mark.parametrize(
    "changes",
    [
        {"content": f"{NAME} r1a w2 -1\n"},
        {"content": None},
        {"record": {"job_name": "another"}},
        {"result": {"job_name": "another"}},
        {"result": None},
    ],
)
def test_wrong_result_is_found(changes: dict[str, Any]) -> None:
    assert broken(outcome(**changes), [job()])


def test_result_of_a_job_that_failed_is_found() -> None:
    assert broken(outcome(), [job(state="FAILED")])


def test_task_that_was_marked_needs_no_result() -> None:
    assert broken(outcome(result=None), [job(state="STOPPED")], person("mark success")) == []


def test_mark_does_not_count_once_the_task_was_cleared() -> None:
    acts = [person("mark success"), person("clear", time=106)]
    assert broken(outcome(result=None), [job(state="STOPPED")], *acts) == ["it has no result"]


def test_task_that_failed_without_a_reason_is_found() -> None:
    failed = outcome(state="failed", result=None)
    asked = ({"method": "DELETE", "reached": True},)
    assert broken(failed, [job(state="STOPPED", requests=asked)])
    assert broken(failed, [job(state="STOPPED")]) == []  # the emulator was drained, with all its jobs
    assert broken(replace(failed, try_number=9), [job(state="FAILED")]) == []
    assert broken(failed, [job(state="STOPPED", requests=asked)], person("mark failed")) == []


def test_task_that_has_not_come_to_an_end_is_found() -> None:
    assert broken(outcome(state="up_for_retry"), [job()])


def test_live_job_of_a_task_that_is_over_is_an_orphan_with_an_excuse_and_wrong_without() -> None:
    marked, alive = {TASK: outcome(state="failed")}, [job(ended=0, state="RUNNING")]

    def found(*acts: Act) -> str:
        [item] = orphans(marked, alive, acts)
        return item.why if isinstance(item, Orphan) else "none"

    kill = Act(100, "kill -9 worker", "", {TASK: TI})
    freeze = Act(100, "SIGSTOP triggerer", "")
    assert found(person("mark failed")) == "none"
    assert "worker" in found(kill, person("mark failed"))
    assert "worker" in found(kill)
    assert found(replace(kill, tasks={Task("r1a", "w2"): TI}), person("mark failed")) == "none"
    assert "next try" in found(person("mark failed", state="up_for_retry"))
    assert "triggerer" in found(person("mark failed", state="deferred"))
    assert found(person("mark failed", state="deferred", triggerer_job={"id": 1})) == "none"
    assert "triggerer" in found(freeze, person("mark failed", state="deferred", triggerer_job={"id": 1}))
    assert found(kill, replace(person("mark failed"), calm=True)) == "none"


def test_serving_that_is_lost_or_runs_on_is_found() -> None:
    task = Task("r1a", "ws")

    def found(state: str, serving: str | None, *acts: Act) -> list[str]:
        end = Outcome(state, 1, 8, result={} if state == "success" else None)
        return list(servings({task: end}, {task.serving: serving} if serving else {}, acts))

    cleared = Act(100, "clear", "", {task: {**TI, "state": "success"}})
    assert found("success", "RUNNING") == found("failed", None) == found("failed", "STOPPED") == []
    assert found("success", None)
    assert found("success", "FAILED")
    assert found("success", "STOPPED")
    assert found("success", "STOPPED", Act(100, "SIGTERM emulator", "")) == []
    assert found("failed", "RUNNING")
    assert found("failed", "RUNNING", cleared) == []


def test_seed_draws_the_same_faults_again() -> None:
    assert draw_round(7, 3, 50) == draw_round(7, 3, 50)
    assert draw_round(7, 3, 50) != draw_round(7, 4, 50)
    assert {strike.kind for strike in draw_round(7, 3, 5000)} == set(KINDS)


def test_every_fault_of_the_platform_is_known_to_the_emulator() -> None:
    from airflow_bitahub.emulator.faults.faults import Fault

    assert FAULTS.keys() == PLATFORM.keys()
    for match, effect in FAULTS.values():
        Fault.model_validate({"match": match, "effect": effect})


def test_serving_that_several_runs_deploy_serves_as_its_record_says() -> None:
    version = {"spec": {"envs": {"VERSION": "r1a"}}}
    record = {"exists": True, "rollout": None, "versions": [version]}
    drained = [Act(0, "SIGTERM emulator", "emulator")]

    def complaints(answer: str | None, state: str = "RUNNING", acts: list[Act] | None = None, **changes: Any) -> int:
        answers = {"shared": answer} if answer else {}
        return len(list(shared({"shared": {**record, **changes}}, {"shared": state}, answers, acts or [])))

    assert complaints("r1a") == 0
    assert complaints("r1b") == 1
    assert complaints(None, "STOPPED") == 1
    assert complaints(None, "STOPPED", drained) == 0
    assert complaints("r1a", rollout={"phase": "switch"}) == 1
    assert len(list(shared({}, {"shared-next": "RUNNING"}, {}, []))) == 1

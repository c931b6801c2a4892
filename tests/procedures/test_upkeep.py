"""Whose turn it is, and stopping, starting, scaling and removing a serving, stepped by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.api.servings import Serving
from airflow_bitahub.exceptions import (
    ServingAliveError,
    ServingFailedError,
    ServingRefusedError,
    ServingTimeoutError,
)
from airflow_bitahub.procedures.deployments import Deployment, Intent, Owner, Rollout, Version
from airflow_bitahub.procedures.site import Site
from airflow_bitahub.procedures.turn import Turn
from airflow_bitahub.procedures.upkeep import delete_deployed, scale_deployed, start_deployed, stop_deployed
from tests.procedures.stage import MISSING, TIMEOUT, Died, MemoryRecords, Stage, every_death, fresh, serving

OTHER = Owner("d", "deploy", "r2")
SPEC = {"name": "mnist", "model": {"path": "/models/u/m/1", "mountPath": "/m"}, "image": "flask:1", "replicas": 2}
NOW = Version("now", {**SPEC, "protocols": [{"port": 5000}], "commands": ["serve"]})
DEPLOYED = Deployment(created_at=1.0, exists=True, versions=[NOW, Version("old", {})])
TRIAL = Rollout(
    OTHER, until=9000, version=Version("new", {}), has_candidate=True, candidate_created_at=2.0, replaces=True
)


class Platform(Stage):
    """Servings by name. A change takes effect a moment later."""

    def __init__(self, *servings: Serving, records: MemoryRecords | None = None) -> None:
        super().__init__()
        self.servings = {serving.name: serving for serving in servings}
        self.records = records or MemoryRecords(DEPLOYED)
        self.active: set[Owner] = set()
        self.said: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.is_idle = False  # whether changes never take effect

    def turn(self, **options: Any) -> Turn:
        site = Site("mnist", "v1", self.records, self.said.append, clock=self.clock)
        return Turn(site, self.active.__contains__, clock=self.clock, **{"deadline": 5000, **options})

    def set(self, word: str, **fields: Any) -> None:
        self.servings["mnist"] = self.servings["mnist"].model_copy(
            update={"status": serving(word).status, "raw_state": word, **fields}
        )

    def answer(self, call: Call[Any]) -> Any:
        request = call.request
        name = request.names.get("name", "")
        assert name
        if name not in self.servings:
            raise fresh(MISSING)
        match request.operation:
            case "get_serving":
                found = self.servings[name]
                if self.later and not self.is_idle:
                    self.later.pop(0)()
                return found
            case "stop_serving":
                self.set("STOPPING")
                self.later.append(lambda: self.set("STOPPED"))
            case "start_serving":
                self.later.append(lambda: self.set("WAITING"))
            case "scale_serving":
                self.later.append(lambda: self.set("RUNNING", replicas=request.json_body["replicas"]))
            case "delete_serving":
                del self.servings[name]
        return None


class Mortal(Platform):
    """A platform whose worker dies in some steps, before or after they take effect."""

    deaths: list[tuple[int, bool]]
    steps = 0

    def perform(self, step: Call[Any] | Sleep) -> Any:
        self.steps += 1
        if self.deaths and self.deaths[0][0] == self.steps:
            if self.deaths.pop(0)[1]:
                super().perform(step)
            raise Died
        return super().perform(step)


def running(name: str = "mnist", created_at: float = 1.0, word: str = "RUNNING") -> Serving:
    return serving(word, created_at=created_at).model_copy(update={"name": name, "replicas": 2})


def start(turn: Turn) -> Procedure[Serving]:
    return start_deployed(turn, lambda _: None)


def scale(turn: Turn) -> Procedure[Serving]:
    return scale_deployed(turn, 3)


# Whose turn it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [stop_deployed, start, scale, delete_deployed])
def test_another_tasks_deployment_is_waited_for(change: Callable[[Turn], Procedure[Any]]) -> None:
    stage = Platform(running(), running("mnist-next", 2.0), records=MemoryRecords(replace(DEPLOYED, rollout=TRIAL)))
    stage.active.add(OTHER)
    with pytest.raises(ServingTimeoutError, match=r"not free in time: task 'deploy' of d r2 is deploying it"):
        stage.run(change(stage.turn(deadline=2000)))
    assert stage.now == 2000
    assert stage.said == ["Waiting: task 'deploy' of d r2 is deploying it"]
    assert stage.servings.keys() == {"mnist", "mnist-next"}


@pytest.mark.parametrize("change", [stop_deployed, start, scale, delete_deployed])
@pytest.mark.parametrize("until", [9000, 900])
def test_a_deployment_that_was_left_is_ended_first(change: Callable[[Turn], Procedure[Any]], until: float) -> None:
    left = replace(DEPLOYED, rollout=replace(TRIAL, until=until))
    stage = Platform(running(), running("mnist-next", 2.0), records=MemoryRecords(left))
    if until < stage.now:  # Airflow does not say how its task is
        stage.active.add(OTHER)
    stage.run(change(stage.turn()))
    assert "mnist-next" not in stage.servings
    assert stage.records.record is not None
    assert stage.records.record.rollout is None


@pytest.mark.parametrize("is_active", [True, False])
def test_a_creation_that_is_not_on_record_yet_is_waited_for_or_removed(is_active: bool) -> None:
    intent = Intent(OTHER, "mnist-next", since=999)
    stage = Platform(running(), running("mnist-next", 1000.0), records=MemoryRecords(DEPLOYED, intent))
    stage.active |= {OTHER} if is_active else set()
    stage.run(stop_deployed(stage.turn()))
    assert "mnist-next" not in stage.servings
    waited = "task 'deploy' of d r2 has just begun to deploy it"
    assert (f"Waiting: {waited}" in stage.said) is is_active  # until it has certainly died


@pytest.mark.parametrize("change", [stop_deployed, start, scale, delete_deployed])
@pytest.mark.parametrize("record", [None, replace(DEPLOYED, exists=False, created_at=None), DEPLOYED])
def test_a_strangers_serving_is_left_alone(change: Callable[[Turn], Procedure[Any]], record: Deployment | None) -> None:
    stage = Platform(running(created_at=7.0), records=MemoryRecords(record))
    with pytest.raises(ServingRefusedError, match="this Airflow did not create"):
        stage.run(change(stage.turn()))
    assert set(stage.calls) == {"get_serving"}


def test_a_strangers_serving_with_the_candidates_name_stops_only_a_deployment() -> None:
    stage = Platform(running(), running("mnist-next", 7.0))
    assert stage.run(stage.turn().wait()) is None
    with pytest.raises(ServingRefusedError, match="'mnist-next'"):
        stage.run(stage.turn(owner=OTHER).wait())


# Stopping, starting, scaling, removing -------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["RUNNING", "WAITING", "STOPPING", "STOPPED", "FAILED"])
def test_stopping_ends_with_a_serving_that_has_ended(word: str) -> None:
    stage = Platform(running(word=word))
    if word == "STOPPING":
        stage.later.append(lambda: stage.set("STOPPED"))
    stopped = stage.run(stop_deployed(stage.turn()))
    assert stopped is not None
    assert stopped.status.is_terminal
    assert stage.calls.count("stop_serving") == (word in ("RUNNING", "WAITING"))


@pytest.mark.parametrize(
    ("word", "starts"), [("RUNNING", 0), ("WAITING", 0), ("STOPPING", 1), ("STOPPED", 1), ("FAILED", 1)]
)
def test_starting_starts_what_has_ended(word: str, starts: int) -> None:
    stage = Platform(running(word=word))
    if word == "STOPPING":
        stage.later.append(lambda: stage.set("STOPPED"))
    noted: list[str] = []
    found = stage.run(start_deployed(stage.turn(), lambda serving: noted.append(serving.raw_state)))
    assert not found.status.is_ending
    assert stage.calls.count("start_serving") == starts == len(noted)


def test_the_platform_may_accept_a_change_and_not_make_it() -> None:
    for change, problem in ((start, "was not started"), (scale, "has not 3 replicas")):
        stage = Platform(running(word="STOPPED" if change is start else "RUNNING"))
        stage.is_idle = True
        with pytest.raises(ServingAliveError, match=f"{problem} after 30 s"):
            stage.run(change(stage.turn()))


def test_scaling_changes_the_record_but_not_the_version() -> None:
    stage = Platform(running())
    for _ in range(2):  # the second time there is nothing to change
        assert stage.run(scale(stage.turn())).replicas == 3
        assert stage.calls.count("scale_serving") == 1
    assert stage.records.record is not None
    current = stage.records.record.current
    assert current == replace(NOW, spec={**NOW.spec, "replicas": 3})
    assert stage.records.record.versions[1:] == DEPLOYED.versions[1:]


def test_what_has_ended_cannot_be_scaled() -> None:
    stage = Platform(running(word="STOPPED"))
    with pytest.raises(ServingFailedError, match=r"is STOPPED. Start it first, with BitaHubStartServingOperator"):
        stage.run(scale(stage.turn()))


@pytest.mark.parametrize("change", [start, scale])
def test_what_was_removed_must_be_deployed(change: Callable[[Turn], Procedure[Any]]) -> None:
    stage = Platform()
    with pytest.raises(ServingFailedError, match="no longer on the platform"):
        stage.run(change(stage.turn()))
    assert stage.run(stop_deployed(stage.turn())) is None
    stage.records.record = None
    for never in (change, stop_deployed):
        with pytest.raises(ServingFailedError, match="This Airflow has deployed no serving 'mnist'"):
            stage.run(never(stage.turn()))


def test_removing_keeps_the_versions_on_record() -> None:
    stage = Platform(running())
    assert [stage.run(delete_deployed(stage.turn())) for _ in range(2)] == [True, False]
    assert not stage.servings
    assert stage.records.record == replace(DEPLOYED, exists=False, created_at=None)
    nothing = Platform(records=MemoryRecords(None, Intent(OTHER, "", since=1000)))
    assert nothing.run(delete_deployed(nothing.turn())) is False
    assert nothing.records.record is None


def test_a_creation_that_takes_effect_late_is_removed_too() -> None:
    """The worker of a deployment was killed while it created the serving."""
    stage = Platform(records=MemoryRecords(None, Intent(OTHER, "mnist", since=995)))
    answer = stage.answer

    def appearing(call: Call[Any]) -> Any:
        if stage.now >= 1010 and "delete_serving" not in stage.calls:
            stage.servings["mnist"] = running(created_at=1000.0)
        return answer(call)

    stage.answer = appearing  # type: ignore[method-assign]
    stage.run(delete_deployed(stage.turn()))
    assert not stage.servings
    assert stage.calls.count("delete_serving") == 1


def test_a_worker_that_dies_while_it_removes_leaves_a_removal_that_can_be_finished() -> None:
    def attempt(deaths: Sequence[tuple[int, bool]]) -> int:
        left = replace(DEPLOYED, rollout=TRIAL)
        stage = Mortal(running(), running("mnist-next", 2.0), records=MemoryRecords(left))
        stage.deaths = list(deaths)
        for _ in range(len(deaths) + 1):
            with suppress(Died):
                stage.run(delete_deployed(stage.turn()))
        assert not stage.servings
        assert stage.records.record == replace(DEPLOYED, exists=False, created_at=None)
        return len(deaths) - len(stage.deaths)

    every_death(attempt)


def test_a_lost_answer_to_the_removal_is_looked_up() -> None:
    stage = Platform(running())
    answer, lost = stage.answer, [TIMEOUT]

    def losing(call: Call[Any]) -> Any:
        result = answer(call)
        if call.request.operation == "delete_serving" and lost:
            raise fresh(lost.pop())
        return result

    stage.answer = losing  # type: ignore[method-assign]
    assert stage.run(delete_deployed(stage.turn())) is True
    assert stage.records.record == replace(DEPLOYED, exists=False, created_at=None)

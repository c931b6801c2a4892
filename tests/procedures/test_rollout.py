"""Deploying without losing the service that works, stepped by hand: there is no server, loop or clock here."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import Any

import pytest

from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.api.servings import Pod, Serving, ServingModel, ServingProtocol, ServingSpec
from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    InvalidRequestError,
    ServingAliveError,
    ServingCheckError,
    ServingError,
    ServingFailedError,
    ServingOutdatedError,
    ServingRefusedError,
    ServingTimeoutError,
)
from airflow_bitahub.procedures.checks import AnswerCheck
from airflow_bitahub.procedures.deployments import (
    Deployment,
    Owner,
    Rollout,
    Version,
    deployment_from_json,
    to_json,
)
from airflow_bitahub.procedures.plan import Deployed, Plan
from airflow_bitahub.procedures.questions import Picture, Question
from airflow_bitahub.procedures.repair import abandon
from airflow_bitahub.procedures.rollout import Deployer
from airflow_bitahub.procedures.site import Site
from airflow_bitahub.procedures.turn import Turn
from tests.procedures.stage import (
    BROKEN,
    CONFLICT,
    INVALID,
    MISSING,
    TIMEOUT,
    Died,
    MemoryRecords,
    Stage,
    every_death,
    fresh,
    serving,
)

NAME, NEXT = "mnist", "mnist-next"
SEVEN = AnswerCheck(Question("/image", (Picture("url", "seven.png", "http://pictures/7.png"),)), expected=7)
STRATEGIES = ["candidate", "in_place", "recreate"]
START = 4  # seconds that a program takes to start, and a removal to end


def spec_of(image: str, **fields: Any) -> ServingSpec:
    return ServingSpec(
        name=NAME,
        model=ServingModel(path=f"/models/u/{image}", mount_path="/model/u/m"),
        image=image,
        protocols=[ServingProtocol()],
        commands=["python serving.py"],
        **fields,
    )


@dataclass
class Fake:
    """A serving of `Platform`. By its image it works (`good:n`), answers wrongly, crashes, or never answers."""

    created: float
    image: str
    serves: str = ""  # the image whose program answers now
    started: float = 0
    removed: float | None = None
    is_ours: bool = True


@dataclass
class Airflow(MemoryRecords):
    """What outlasts a worker: the records, and which tasks are alive."""

    dead: set[Owner] = field(default_factory=set)


class Platform(Stage):
    """A platform in memory, whose servings start and end in `START` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.servings: dict[str, Fake] = {}
        self.airflow = Airflow()
        self.lost: set[int] = set()  # numbers of changing requests whose answers are lost
        self.dropped: set[int] = set()  # likewise, which are lost themselves
        self.changes = 0
        self.death: tuple[int, bool] | None = None
        self.steps = 0
        self.intruder: Fake | None = None  # takes the public name as soon as it is free
        self.refuses_updates = False
        self.holds_public = False
        self.hangs_at: float | None = None  # when the program of `good:2` stops answering
        self.slow_at = math.inf  # the first question after this is answered too late
        self.is_down: tuple[float, float] = (0, 0)  # from when until when its API gives no answer
        self.queries = 0
        self.denied = 0  # the number of a query whose serving the platform denies, since its API server restarts
        self.keeps = ""  # the name of a serving that cannot be removed
        self.lingers = 0.0  # for how long the name of a serving that is gone stays taken
        self.taken: dict[str, float] = {}  # until when the platform refuses a name although it shows no such serving
        self.away: list[tuple[float, bool]] = []  # the time, and whether the public name answers well
        self.story: list[str] = []
        self.ends: list[str] = []
        self.printed = "Traceback: it is broken"  # the log of every serving
        self.token = ""  # the access token of every serving

    # The platform --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        for name, fake in list(self.servings.items()):
            if fake.removed is not None and self.now >= fake.removed + START and name != self.keeps:
                del self.servings[name]
                self.taken[name] = self.now + self.lingers
            elif name == NAME and self.holds_public and fake.image == "good:2":
                continue
            elif fake.image.startswith(("good", "wrong")) and self.now >= fake.started + START:
                fake.serves = fake.image
        if self.intruder is not None and NAME not in self.servings and self.now >= self.taken.get(NAME, 0):
            self.servings[NAME] = self.intruder

    def answering(self, name: str = NAME) -> str:
        """Return the image whose program answers at a name; "": none."""
        self.settle()
        fake = self.servings.get(name)
        if (
            name == NAME
            and fake
            and fake.serves == "good:2"
            and self.hangs_at is not None
            and self.now >= self.hangs_at
        ):
            return ""
        return fake.serves if fake and fake.removed is None else ""

    def view(self, name: str, fake: Fake) -> Serving:
        has_crashed = fake.image.startswith("crash") and self.now >= fake.started + START
        is_updating = bool(fake.serves) and fake.serves != fake.image
        word = (
            "STOPPING"
            if fake.removed is not None
            else "RUNNING"
            if fake.serves
            else "FAILED"
            if has_crashed
            else "WAITING"
        )
        pod = Pod(
            name="0", raw_state="FAILED" if has_crashed else "STARTING", message="exit code 3" if has_crashed else ""
        )
        return serving(word, f"http://{name}", fake.created).model_copy(
            update={"name": name, "token": self.token, "pods": (pod,) if is_updating else ()}
        )

    def answer(self, call: Call[Any]) -> Any:
        self.settle()
        request = call.request
        operation = request.operation.partition(" ")[0]
        if self.is_down[0] <= self.now < self.is_down[1] and not request.is_foreign:
            raise fresh(BROKEN)
        if operation in ("create_serving", "update_serving", "delete_serving"):
            self.changes += 1
            if self.changes in self.dropped:
                raise fresh(TIMEOUT)
            self.change(operation, request)
            if self.changes in self.lost:
                raise fresh(TIMEOUT)
            return None
        if operation == "get_serving":
            self.queries += 1
            if self.queries == self.denied:
                raise fresh(MISSING)
            return self.view(request.names["name"], self.known(request))
        if operation == "get_serving_log":
            return self.printed
        name = request.operation.partition("//")[2].partition("/")[0]
        image = self.answering(name)
        if operation == "GET":
            if self.now >= self.slow_at:
                self.slow_at = math.inf
                return False
            return bool(image)
        return {"predictions": [3 if image.startswith("wrong") else 7]}

    def known(self, request: Any) -> Fake:
        assert request.query == {"version": "v1"}
        if request.names["name"] not in self.servings:
            raise fresh(MISSING)
        return self.servings[request.names["name"]]

    def change(self, operation: str, request: Any) -> None:
        body = request.json_body
        if operation != "delete_serving" and body["image"] == "unknown":
            raise fresh(INVALID)
        if operation == "create_serving":
            if body["name"] in self.servings or self.now < self.taken.get(body["name"], 0):
                raise fresh(CONFLICT)
            self.servings[body["name"]] = Fake(self.now, body["image"], started=self.now)
            return
        fake = self.known(request)
        assert fake.is_ours, "a stranger's serving is changed"
        if operation == "update_serving":
            if self.refuses_updates:
                raise fresh(INVALID)
            assert fake.removed is None
            fake.image, fake.started = body["image"], self.now
        elif fake.removed is None:
            fake.removed = self.now

    # Workers -------------------------------------------------------------------------------------------------

    def perform(self, step: Call[Any] | Sleep) -> Any:
        self.steps += 1
        if self.death is not None and self.steps == self.death[0]:
            if self.death[1]:
                with suppress(BitaHubError):
                    super().perform(step)
            raise Died
        self.away.append((self.now, self.answering().startswith("good")))
        return super().perform(step)

    def site(self) -> Site:
        return Site(NAME, "v1", self.airflow, self.story.append, clock=self.clock, on_end=self.ends.append)

    def deployment(self, image: str, task: str = "a", **changes: Any) -> Procedure[Deployed]:
        owner = Owner("dag", task, "run")
        spec, secrets = changes.pop("spec", spec_of(image)), changes.pop("secrets", {})
        version = Version.of(spec, secrets, run_date=changes.pop("run_date", None), deployed_by=str(owner))
        plan = Plan(spec, version, owner, secrets, **{"checks": (SEVEN,), "launch_timeout": 60, **changes})
        site = self.site()
        turn = Turn(site, self.is_active, owner, plan.turn_deadline, secrets, clock=self.clock)
        return Deployer(lambda _: plan, site, turn, clock=self.clock).deploy()

    def is_active(self, owner: Owner) -> bool:
        return owner not in self.airflow.dead

    def deploy(self, image: str, task: str = "a", **changes: Any) -> Deployed:
        return self.run(self.deployment(image, task, **changes))

    def live_through(self, image: str, deaths: Sequence[tuple[int, bool]] = (), **changes: Any) -> int:
        """Deploy, with workers that die at these steps and next tries. Return how many died."""
        self.steps = 0
        for number, self.death in enumerate([*deaths, None]):
            try:
                self.deploy(image, **changes)
            except Died:
                self.now += 30
                continue
            except ServingError:
                pass
            return number
        raise AssertionError("the last try cannot die")

    def seconds_away(self) -> float:
        times = [*self.away, (self.now, True)]
        return sum(end - start for (start, is_well), (end, _) in pairwise(times) if not is_well)

    def assert_serves(self, image: str) -> None:
        for _ in range(3):
            self.now += START
            self.settle()
        assert self.answering() == image
        assert list(self.servings) == ([NAME] if image else [])
        record = self.airflow.load()
        assert record is not None
        assert record.rollout is None
        assert not image or (record.current is not None and record.current.spec["image"] == image)


def platform_with(image: str = "good:1", **changes: Any) -> Platform:
    platform = Platform()
    platform.deploy(image, "first", **changes)
    platform.assert_serves(image)
    platform.away.clear()
    platform.changes = 0
    return platform


def ways() -> list[Any]:
    """Return the strategies, with and without updates in place, as plans have them."""
    return [
        pytest.param({"strategy": strategy, "can_update": can_update}, id=f"{strategy}{'-put' if can_update else ''}")
        for strategy in STRATEGIES
        for can_update in (False, True)
        if can_update or strategy != "in_place"
    ]


# What serves in the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ways())
def test_good_version_replaces_a_good_one(way: dict[str, Any]) -> None:
    platform = platform_with()
    deployed = platform.deploy("good:2", **way)
    platform.assert_serves("good:2")
    assert deployed.previous is not None
    assert deployed.previous.model_path == "/models/u/good:1"
    is_in_place = way["can_update"] and way["strategy"] != "recreate"
    # A removal, a start, and the queries between them.
    assert platform.seconds_away() == 0 if is_in_place else platform.seconds_away() <= 2 * START + 4
    assert deployed.away_seconds == pytest.approx(platform.seconds_away(), abs=1)


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("image", ["unknown", "crash", "silent", "wrong"])
def test_bad_version_leaves_the_good_one(image: str, way: dict[str, Any]) -> None:
    platform = platform_with()
    with pytest.raises((ServingError, InvalidRequestError)):
        platform.deploy(image, **way)
    platform.assert_serves("good:1")
    if way["strategy"] == "candidate":
        assert platform.seconds_away() == 0
        assert "delete_serving mnist" not in platform.done


@pytest.mark.parametrize(
    ("image", "changes", "steps"),
    [
        ("good:2", {}, ["candidate", "check", "switch", "verify", "tidy"]),
        ("good:2", {"strategy": "recreate", "checks": ()}, ["switch", "tidy"]),
        ("crash", {}, ["candidate"]),
        ("crash", {"strategy": "recreate"}, ["switch", "restore"]),
    ],
)
def test_each_step_is_on_record_with_its_begin(
    image: str, changes: dict[str, Any], steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = platform_with()
    saved: list[Rollout] = []
    save, since = platform.airflow.save, platform.now

    def save_and_tell(record: Deployment) -> None:
        save(record)
        saved.extend([record.rollout] if record.rollout else [])

    monkeypatch.setattr(platform.airflow, "save", save_and_tell)
    with suppress(ServingError):
        platform.deploy(image, **changes)
    assert [step.name for step in saved[-1].steps] == steps
    times = [step.at for step in saved[-1].steps]
    assert times == sorted(times)
    assert since <= times[0]
    assert times[-1] <= platform.now
    if len(steps) > 1:
        assert times[1] - times[0] >= START


@pytest.mark.parametrize(
    ("image", "changes", "ends"),
    [
        ("good:2", {}, ["deployed"]),
        ("good:2", {"withdraws": True}, ["reverted"]),
        ("good:1", {}, []),
        ("wrong", {}, ["rejected"]),
        ("wrong", {"strategy": "recreate"}, ["restored"]),
    ],
)
def test_end_of_a_deployment_is_told_once(image: str, changes: dict[str, Any], ends: list[str]) -> None:
    for step in count(1):
        platform = platform_with()
        assert platform.ends == ["deployed"]
        platform.ends.clear()
        if platform.live_through(image, [(step, True)], **changes) == 0:
            break
        assert platform.ends == ends


def test_end_of_what_others_clean_up_or_what_was_the_first_version_is_told() -> None:
    platform = Platform()
    with pytest.raises(ServingCheckError):
        platform.deploy("wrong")
    assert platform.ends == ["failed"]
    ended = set()
    for step in count(1):
        platform = platform_with()
        if platform_dies_at(platform, "good:2", (step, True), {"strategy": "candidate"}) == 0:
            break
        platform.run(abandon(platform.site(), Owner("dag", "a", "run"), {}, grace=5))
        ended |= {*platform.ends[1:]}
    assert ended == {"abandoned", "restored", "deployed"}


def test_error_says_what_failed_what_the_program_printed_and_what_serves() -> None:
    platform = platform_with()
    with pytest.raises(ServingCheckError) as caught:
        platform.deploy("wrong")
    for text in (
        "/models/u/wrong",
        "seven.png -> 3",
        "7 was expected",
        "it is broken",
        "/models/u/good:1) was not touched",
    ):
        assert text in str(caught.value)
    with pytest.raises(ServingFailedError, match=r"candidate failed: The serving 'mnist-next' is FAILED"):
        platform.deploy("crash")
    with pytest.raises(ServingCheckError, match=r"seven.png -> 3(.|\n)*good:1\) serves again; no version .* for \d"):
        platform.deploy("wrong", strategy="recreate")


def test_old_version_that_does_not_come_back_is_told_of() -> None:
    platform = platform_with()
    record = platform.airflow.record
    assert record is not None
    record.versions[0].spec["image"] = "silent"
    with pytest.raises(ServingError, match=r"crash\) was not deployed: (.|\n)*was restored, but it does not serve: "):
        platform.deploy("crash", strategy="recreate")
    assert platform.airflow.record is not None
    assert platform.airflow.record.rollout is None
    assert platform.servings[NAME].removed is None


def test_old_version_that_has_been_restored_is_not_restored_again() -> None:
    platform = platform_with()
    record, owner = platform.airflow.record, Owner("dag", "a", "run")
    assert record is not None
    rollout = Rollout(owner, platform.now + 60, record.versions[0], "restore", replaces=True, placed="old")
    platform.airflow.record = replace(record, rollout=rollout)
    platform.run(abandon(platform.site(), owner, {}))
    assert platform.changes == 0
    platform.assert_serves("good:1")


def test_version_that_was_withdrawn_once_and_serves_again_is_good_also_where_another_ends_its_deployment() -> None:
    platform = platform_with()
    record, owner = platform.airflow.record, Owner("dag", "a", "run")
    assert record is not None
    version = replace(record.versions[0], is_withdrawn=True)
    rollout = Rollout(owner, platform.now + 60, version, "switch", placed="new", ready_at=platform.now)
    platform.airflow.record = replace(record, rollout=rollout)
    platform.run(abandon(platform.site(), owner, {}))
    ended = platform.airflow.load()
    assert ended is not None
    assert ended.champion is not None


def test_first_deployment_is_checked_too_and_removed_if_it_fails() -> None:
    platform = Platform()
    with pytest.raises(ServingCheckError, match="It was removed"):
        platform.deploy("wrong")
    platform.assert_serves("")
    assert platform.deploy("good:1").previous is None
    platform.assert_serves("good:1")


def test_same_version_again_changes_nothing() -> None:
    platform = platform_with()
    assert platform.deploy("good:1").previous is None
    assert platform.changes == 0
    platform.assert_serves("good:1")


def test_serving_that_was_stopped_is_created_again() -> None:
    platform = platform_with()
    platform.servings[NAME].removed = platform.now
    platform.deploy("good:1", can_update=True)
    platform.assert_serves("good:1")


def test_new_version_is_watched_for_the_baking_time() -> None:
    platform = platform_with()
    start = platform.now
    platform.deploy("good:2", bake_seconds=100, can_update=True)
    assert platform.now - start > 100


def test_candidate_without_a_place_fails_with_a_sentence() -> None:
    platform = platform_with()
    with pytest.raises(ServingFailedError, match="waits for a place for too long"):
        platform.deploy("silent", candidate_timeout=10, launch_timeout=1000)
    platform.assert_serves("good:1")


# Whose turn it is --------------------------------------------------------------------------------------------------


def test_older_run_never_replaces_what_a_newer_one_deployed() -> None:
    platform = platform_with(run_date=200.0)
    with pytest.raises(ServingOutdatedError, match="a newer run, so it is not replaced"):
        platform.deploy("good:2", run_date=100.0)
    platform.assert_serves("good:1")
    platform.deploy("good:2", run_date=100.0, only_newer=False)
    platform.assert_serves("good:2")


@pytest.mark.parametrize("name", [NAME, NEXT])
def test_strangers_serving_is_left_alone(name: str) -> None:
    platform = platform_with() if name == NEXT else Platform()
    stranger = platform.servings[name] = Fake(platform.now - 9, "good:9", is_ours=False)
    with pytest.raises(ServingRefusedError, match=f"A serving named '{name}' .* is left alone"):
        platform.deploy("good:2")
    assert platform.servings[name] is stranger


def test_what_exists_is_not_replaced_where_that_is_asked() -> None:
    platform = platform_with()
    with pytest.raises(ServingRefusedError, match="if_exists='fail'"):
        platform.deploy("good:2", if_exists="fail")
    platform.assert_serves("good:1")


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("seed", range(12))
def test_of_several_tasks_one_goes_first(seed: int, way: dict[str, Any]) -> None:
    platform, order = platform_with(), random.Random(seed)
    images = {"a": "good:2", "b": "good:3", "c": "wrong"}
    running: dict[str, Any] = {
        task: platform.deployment(image, task, **way, turn_deadline=platform.now + 900)
        for task, image in images.items()
    }
    wake: dict[str, tuple[float, Any]] = dict.fromkeys(running, (platform.now, None))
    ended: list[str] = []
    while running:
        soonest = min(time for time, _ in wake.values())
        task = order.choice([task for task, (time, _) in wake.items() if time <= soonest + 0.5])
        time, answer = wake[task]
        platform.now = max(platform.now, time)
        assert sum(name == NAME for name in platform.servings) <= 1
        try:
            procedure = running[task]
            step = procedure.throw(answer) if isinstance(answer, BitaHubError) else procedure.send(answer)
        except (StopIteration, ServingError) as end:
            ended.append(f"{task}: {end!r}")
            del running[task], wake[task]
            if isinstance(end, StopIteration):
                last = images[task]
            continue
        if isinstance(step, Sleep):
            wake[task] = platform.now + step.seconds, None
            continue
        try:
            wake[task] = platform.now + order.random() / 10, platform.perform(step)
        except BitaHubError as error:
            wake[task] = platform.now + order.random() / 10, error
    assert not any("overtaken" in text.lower() for text in ended), ended
    assert {text[0] for text in ended} == set(images)
    assert any("StopIteration" in text for text in ended), ended
    platform.assert_serves(last)


def test_waiting_for_ones_turn_ends_with_a_sentence() -> None:
    platform = platform_with()
    platform.steps, platform.death = 0, (12, True)
    with pytest.raises(Died):
        platform.deploy("good:2")
    platform.death = None
    with pytest.raises(ServingTimeoutError, match="task 'a' of dag run is deploying it"):
        platform.deploy("good:3", "b", turn_deadline=platform.now + 60)


@pytest.mark.parametrize("name", [NAME, NEXT])
def test_name_that_is_still_taken_is_waited_for(name: str) -> None:
    platform = platform_with() if name == NEXT else Platform()
    platform.taken[name] = platform.now + 10
    platform.deploy("good:2")
    platform.assert_serves("good:2")


@pytest.mark.parametrize("turn_deadline", [1060.0, None])
def test_name_that_stays_taken_by_what_nobody_sees_ends_with_a_sentence(turn_deadline: float | None) -> None:
    platform = Platform()
    platform.taken[NAME] = math.inf
    with pytest.raises(ServingTimeoutError, match=r"name 'mnist' is taken.*shows no serving .*version 'v1'"):
        platform.deploy("good:1", turn_deadline=turn_deadline)
    assert 1060 <= platform.now < 1070
    assert platform.changes < 40


# Deaths and lost answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize(("image", "serves"), [("good:2", "good:2"), ("wrong", "good:1"), ("crash", "good:1")])
def test_worker_may_die_at_any_step(image: str, serves: str, way: dict[str, Any]) -> None:
    def attempt(deaths: Sequence[tuple[int, bool]]) -> int:
        platform = platform_with()
        died = platform.live_through(image, deaths, **way)
        platform.assert_serves(serves)
        return died

    every_death(attempt)


@pytest.mark.parametrize("way", ways())
def test_worker_of_the_first_deployment_may_die_at_any_step(way: dict[str, Any]) -> None:
    def attempt(deaths: Sequence[tuple[int, bool]]) -> int:
        platform = Platform()
        died = platform.live_through("good:1", deaths, **way)
        platform.assert_serves("good:1")
        return died

    every_death(attempt)


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("image", ["good:2", "wrong"])
@pytest.mark.parametrize("end", ["abandoned", "taken over"])
def test_what_a_dead_task_left_is_cleaned_up(end: str, image: str, way: dict[str, Any]) -> None:
    for took_effect in (False, True):
        for step in count(1):
            platform = platform_with()
            if platform_dies_at(platform, image, (step, took_effect), way) == 0:
                break
            if end == "abandoned":
                platform.run(abandon(platform.site(), Owner("dag", "a", "run"), {}, grace=5))
                for _ in range(3):
                    platform.now += START
                assert platform.answering() in ("good:1", "good:2")
                platform.assert_serves(platform.answering())
            else:
                platform.airflow.dead.add(Owner("dag", "a", "run"))
                platform.deploy("good:3", "b", **way)
                platform.assert_serves("good:3")


def platform_dies_at(platform: Platform, image: str, death: tuple[int, bool], way: dict[str, Any]) -> int:
    platform.steps, platform.death = 0, death
    try:
        platform.deploy(image, **way)
    except Died:
        return 1
    except ServingError:
        return 0
    finally:
        platform.death = None
    return 0


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize(("image", "serves"), [("good:2", "good:2"), ("wrong", "good:1")])
@pytest.mark.parametrize("kind", ["lost", "dropped"])
def test_any_answer_may_be_lost(kind: str, image: str, serves: str, way: dict[str, Any]) -> None:
    for number in count(1):
        platform = platform_with()
        getattr(platform, kind).add(number)
        tries = 0
        while tries < 3:
            tries += 1
            try:
                platform.deploy(image, **way)
            except ServingError:
                break
            except BitaHubError:
                continue
            break
        platform.assert_serves(serves)
        if number > platform.changes:
            break


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize(("image", "serves"), [("good:2", "good:2"), ("wrong", "good:1")])
def test_serving_on_record_may_be_denied_once(image: str, serves: str, way: dict[str, Any]) -> None:
    for number in count(1):
        platform = platform_with()
        platform.queries, platform.denied = 0, number
        with nullcontext() if image == serves else pytest.raises(ServingCheckError):
            platform.deploy(image, **way)
        platform.assert_serves(serves)
        if number > platform.queries:
            break


@pytest.mark.parametrize("name", [NAME, NEXT])
def test_strangers_serving_is_left_alone_also_after_a_refused_creation(name: str) -> None:
    platform = platform_with()
    with pytest.raises(InvalidRequestError):
        platform.deploy("unknown")
    if name == NAME:
        platform.servings.clear()
    platform.now += 900
    stranger = platform.servings[name] = Fake(platform.now, "good:9", is_ours=False)
    with pytest.raises(ServingRefusedError):
        platform.deploy("good:2")
    assert platform.servings[name] is stranger


def test_stranger_who_takes_the_name_in_the_gap_is_left_alone() -> None:
    platform = platform_with()
    platform.intruder = Fake(0, "good:9", "good:9", is_ours=False)
    with pytest.raises(ServingRefusedError):
        platform.deploy("good:2")
    assert platform.servings == {NAME: platform.intruder}
    record = platform.airflow.load()
    assert record is not None
    assert (record.exists, record.rollout) == (False, None)


@pytest.mark.parametrize("strategy", ["candidate", "in_place"])
def test_update_that_the_platform_refuses_changes_nothing_and_blocks_nothing(strategy: str) -> None:
    platform = platform_with()
    platform.refuses_updates = True
    with pytest.raises(BitaHubError):
        platform.deploy("good:2", strategy=strategy, can_update=True)
    platform.assert_serves("good:1")
    platform.refuses_updates = False
    platform.deploy("good:2", "b", strategy=strategy, can_update=True)
    platform.assert_serves("good:2")


def test_new_version_that_does_not_answer_is_not_kept_by_the_clean_up() -> None:
    platform = platform_with()
    platform.holds_public = True  # its program does not start under the public name
    procedure = platform.deployment("good:2")
    step = next(procedure)
    while platform.servings[NAME].image != "good:2" if NAME in platform.servings else True:
        try:
            step = procedure.send(platform.perform(step))
        except BitaHubError as error:
            step = procedure.throw(error)
    procedure.close()
    platform.holds_public = False
    platform.run(abandon(platform.site(), Owner("dag", "a", "run"), {}))
    platform.assert_serves("good:1")


def test_candidate_that_cannot_be_removed_costs_no_version_that_serves() -> None:
    platform = platform_with()
    platform.keeps = NEXT
    with pytest.raises(ServingError, match="still there"):
        platform.deploy("good:2", can_update=True)
    assert platform.answering() == "good:2"
    platform.keeps = ""
    platform.deploy("good:2", can_update=True)
    platform.assert_serves("good:2")


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize(("image", "serves"), [("good:2", "good:2"), ("wrong", "good:1")])
def test_name_that_stays_taken_after_a_removal_costs_no_service(image: str, serves: str, way: dict[str, Any]) -> None:
    platform = platform_with()
    platform.lingers = 20
    with nullcontext() if image == serves else pytest.raises(ServingCheckError):
        platform.deploy(image, **way)
    platform.assert_serves(serves)


def test_name_that_stays_taken_for_too_long_after_a_removal_is_left_to_the_next_try() -> None:
    platform = platform_with()
    platform.lingers = 1000
    with pytest.raises(ServingAliveError, match="name 'mnist' is still taken 120 s after"):
        platform.deploy("good:2")
    assert platform.changes < 140
    platform.now += 1000
    platform.deploy("good:2")
    platform.assert_serves("good:2")


def test_strangers_serving_that_takes_the_name_late_is_left_alone() -> None:
    platform = platform_with()
    platform.lingers, platform.intruder = 10, Fake(0, "good:9", "good:9", is_ours=False)
    with pytest.raises(ServingRefusedError):
        platform.deploy("good:2")
    assert platform.servings == {NAME: platform.intruder}


def test_program_that_hangs_while_it_is_watched_is_replaced_soon() -> None:
    platform = platform_with()
    platform.hangs_at = platform.now + 60
    with pytest.raises(ServingFailedError, match="has not answered"):
        platform.deploy("good:2", bake_seconds=3000, launch_timeout=3000)
    assert platform.now < 1500
    platform.assert_serves("good:1")


@pytest.mark.parametrize("seconds", [50, 110, 500])
@pytest.mark.parametrize("is_slow", [False, True])
def test_good_version_is_kept_where_no_query_is_answered_at_the_end_of_its_watch(is_slow: bool, seconds: int) -> None:
    platform = platform_with()
    until = platform.now + 600
    platform.is_down = until, until + seconds
    if is_slow:
        platform.slow_at = until + seconds
    platform.deploy("good:2", bake_seconds=600)
    platform.assert_serves("good:2")


# What is on record ---------------------------------------------------------------------------------------------------


def test_no_secret_is_on_record() -> None:
    secrets = {"API_TOKEN": "hush", "KEY": "mum"}
    spec = spec_of("good:1", envs={"KEY": "mum", "MODE": "x"}).model_copy(
        update={"commands": ["serve --token hush --mode x"]}
    )
    platform = Platform()
    platform.deploy("good:1", spec=spec, secrets=secrets)
    record = platform.airflow.record
    assert record is not None
    stored = json.dumps(to_json(record))
    assert "hush" not in stored
    assert "mum" not in stored
    assert deployment_from_json(json.loads(stored)) == record
    assert record.versions[0].to_spec(secrets) == spec
    with pytest.raises(ConfigurationError, match=r"needs the secret values API_TOKEN, KEY, which are kept nowhere"):
        record.versions[0].to_spec({})


def test_version_without_the_secrets_of_the_one_before_is_deployed_with_a_warning() -> None:
    platform = Platform()
    platform.deploy("good:1", spec=spec_of("good:1", envs={"KEY": "mum"}), secrets={"KEY": "mum"})
    with pytest.raises(ServingCheckError, match="was not touched"):
        platform.deploy("wrong")
    platform.assert_serves("good:1")
    platform.deploy("good:2", "b")
    platform.assert_serves("good:2")
    assert any("needs the secret values KEY, which this task does not know" in line for line in platform.story)


def test_version_that_cannot_be_restored_blocks_no_further_deployment() -> None:
    platform = Platform()
    platform.deploy("good:1", spec=spec_of("good:1", envs={"KEY": "mum"}), secrets={"KEY": "mum"})
    with pytest.raises(ServingError, match="needs secret values that this task does not know"):
        platform.deploy("unknown", strategy="recreate")
    platform.deploy("good:2", strategy="recreate")
    platform.assert_serves("good:2")


def platform_with_a_version_left(way: dict[str, Any], *, is_killed: bool) -> Platform:
    """Return a platform where `good:2` failed under the name, and `good:1` could not be restored."""
    platform = Platform()
    platform.deploy("good:1", spec=spec_of("good:1", envs={"KEY": "mum"}), secrets={"KEY": "mum"}, run_date=100.0)
    platform.holds_public, old = True, platform.servings[NAME]
    if is_killed:
        procedure = platform.deployment("good:2", "b", **way, run_date=200.0)
        step = next(procedure)
        is_there = False
        while not is_there:
            try:
                step = procedure.send(platform.perform(step))
            except BitaHubError as error:
                step = procedure.throw(error)
            found, record = platform.servings.get(NAME), platform.airflow.record
            is_created = found is not None and found.image == "good:2" and found.created > old.created
            is_there = is_created or bool(record and record.rollout and record.rollout.placed == "new")
        procedure.close()
        platform.run(abandon(platform.site(), Owner("dag", "b", "run"), {}))
    else:
        with pytest.raises(ServingError, match="needs secret values that this task does not know"):
            platform.deploy("good:2", "b", **way, run_date=200.0)
    assert platform.servings[NAME].image == "good:2"
    return platform


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("way", ways())
def test_failed_version_that_was_left_is_not_taken_for_the_one_before(way: dict[str, Any], is_killed: bool) -> None:
    platform = platform_with_a_version_left(way, is_killed=is_killed)
    record = platform.airflow.load()
    assert record is not None
    assert [(each.spec["image"], each.is_withdrawn) for each in record.versions] == [
        ("good:2", True),
        ("good:1", False),
    ]
    assert record.current is not None
    assert record.champion is None
    spec = spec_of("good:1", envs={"KEY": "mum"})
    platform.deploy("good:1", spec=spec, secrets={"KEY": "mum"}, run_date=100.0, **way)
    platform.assert_serves("good:1")


def test_failed_version_that_was_left_counts_as_good_once_it_answers_rightly() -> None:
    platform = platform_with_a_version_left({}, is_killed=False)
    with pytest.raises(ServingError):
        platform.deploy("good:2", "c")
    platform.holds_public = False
    platform.deploy("good:2", "d")
    record = platform.airflow.load()
    assert record is not None
    assert record.champion is not None
    assert record.champion.spec["image"] == "good:2"
    assert record.champion.deployed_at == platform.now


def test_failed_version_that_was_left_is_watched_again_where_it_is_to_be_watched() -> None:
    platform = platform_with_a_version_left({}, is_killed=False)
    platform.holds_public = False
    start = platform.now
    platform.deploy("good:2", "c", bake_seconds=1000)
    assert platform.now - start > 1000
    record = platform.airflow.load()
    assert record is not None
    assert record.champion is not None


def test_version_before_counts_as_the_one_that_serves_where_its_update_was_refused() -> None:
    platform = Platform()
    platform.deploy("good:1", spec=spec_of("good:1", envs={"KEY": "mum"}), secrets={"KEY": "mum"})
    platform.refuses_updates = True
    with pytest.raises(ServingError, match="needs secret values that this task does not know"):
        platform.deploy("good:2", "b", strategy="in_place", can_update=True)
    platform.assert_serves("good:1")


def test_secret_that_the_program_printed_is_not_in_the_error_or_on_record() -> None:
    platform = platform_with()
    secrets = {"KEY": "it is broken"}
    with pytest.raises(ServingError) as caught:
        platform.deploy(
            "wrong", strategy="recreate", spec=spec_of("wrong", envs={"KEY": "it is broken"}), secrets=secrets
        )
    assert "Traceback: ***" in str(caught.value)


@pytest.mark.parametrize("strategy", ["candidate", "recreate"])
def test_access_token_in_a_request_that_the_program_printed_is_not_in_the_error(strategy: str) -> None:
    platform = platform_with()
    platform.token = "sesame-of-the-serving"
    platform.printed = "Authorization: Bearer sesame-of-the-serving"
    with pytest.raises(ServingError) as caught:
        platform.deploy("wrong", strategy=strategy)
    assert "The last lines of its log:\nAuthorization: Bearer ***" in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_no_line_of_a_secret_is_in_an_error_where_the_log_begins_within_it() -> None:
    platform = platform_with()
    platform.printed = "the second line\nthe third line\nready"
    secret = "the first line\nthe second line\nthe third line"
    with pytest.raises(ServingError) as caught:
        platform.deploy("wrong", spec=spec_of("wrong", envs={"KEY": secret}), secrets={"KEY": secret})
    assert "its log:\n***\n***\nready\n" in str(caught.value)


@pytest.mark.parametrize("before", range(220, 256, 5))
def test_no_part_of_a_secret_is_in_an_error_where_a_long_line_is_cut(before: int) -> None:
    platform = platform_with()
    platform.printed = f"{'.' * before}sesame{'.' * 1000}sesame{'.' * before}"
    with pytest.raises(ServingError) as caught:
        platform.deploy("wrong", spec=spec_of("wrong", envs={"KEY": "sesame"}), secrets={"KEY": "sesame"})
    [line] = [line for line in str(caught.value).splitlines() if "left out" in line]
    assert not set("sm") & set(line.replace("characters left out", ""))


def test_versions_are_kept_newest_first_and_once() -> None:
    platform = Platform()
    for number in (1, 2, 1, 3, 4, 5, 6):
        platform.deploy(f"good:{number}")
    record = platform.airflow.load()
    assert record is not None
    assert [version.spec["image"] for version in record.versions] == [f"good:{number}" for number in (6, 5, 4, 3, 1)]

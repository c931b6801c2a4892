"""One serving of a specification, stepped by hand: there is no server, loop or clock here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, takewhile
from typing import Any

import pytest

from airflow_bitahub.api.protocol import Call, Procedure, Sleep
from airflow_bitahub.api.servings import Serving, ServingModel, ServingProtocol, ServingSpec
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    ServingFailedError,
    ServingRefusedError,
)
from airflow_bitahub.procedures.retry import GRACE_PERIOD
from airflow_bitahub.procedures.rollout import ServingRecord, digest, ensure_serving
from tests.procedures.stage import (
    BUSY,
    CONFLICT,
    INVALID,
    MISSING,
    NOT_CONNECTED,
    SAYS_NOTHING,
    TIMEOUT,
    UNKNOWN_USER,
    Died,
    Stage,
    every_death,
    fresh,
    gateway,
    refusal,
    serving,
)


def serving_spec(image: str = "flask:1") -> ServingSpec:
    return ServingSpec(
        name="mnist",
        model=ServingModel(path="/models/u/m", mount_path="/model/u/m"),
        image=image,
        protocols=[ServingProtocol()],
        commands=["python serving.py"],
    )


UNSETTLED = [error for error in SAYS_NOTHING if error not in (NOT_CONNECTED, BUSY, UNKNOWN_USER)]
WANTED, OTHER = serving_spec("flask:1"), serving_spec("flask:2")


@lru_cache
def stored(record: ServingRecord) -> ServingRecord:
    """Return the record that another process reads after this one was stored."""
    return ServingRecord(**json.loads(json.dumps(vars(record))))


@dataclass
class FakeServing:
    """The one serving of `Servings`."""

    created: float
    image: str
    raw_state: str = "RUNNING"
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
    failed_looks: list[BitaHubError] = field(default_factory=list)
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
        return stored(self.saved[-1]) if self.saved else None

    def put(self, image: str, raw_state: str = "RUNNING", *, is_ours: bool = True) -> None:
        self.current = FakeServing(self.now + self.skew, image, raw_state, is_ours)

    def answer(self, call: Call[Any]) -> Any:
        if self.current and self.current.delete_asked is not None and self.now >= self.current.delete_asked + 3:
            self.current = None
        if call.request.operation == "create_serving":
            return self._create(call.request.json_body["image"])
        assert (call.request.names, call.request.query) == ({"name": "mnist"}, {"version": "v1"})
        if call.request.operation == "get_serving" and self.failed_looks:
            raise fresh(self.failed_looks.pop())
        if self.current is None or self.now < self.current.created - self.skew + self.lag:
            raise fresh(MISSING)
        if call.request.operation == "delete_serving":
            assert self.current.is_ours, "a stranger's serving is removed"
            if self.current.delete_asked is None:
                self.current.delete_asked = self.now
                self.deleted += 1
            return None
        assert call.request.operation == "get_serving"
        return serving(self.current.raw_state, created_at=self.current.created)

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
    assert own == world.record == ServingRecord(digest(WANTED), created.created_at)


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
    world = Servings(saved=[ServingRecord(digest(WANTED), since=1000)])
    world.put(WANTED.image)  # by the try before this one
    assert world.run(world.ensuring())[1] == ServingRecord(digest(WANTED), 1000)


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
    assert finished.value.value[1] == ServingRecord(digest(WANTED), None, since=1000)
    world.put(WANTED.image)
    assert world.ensure().created_at == 1000
    assert world.attempts == 0


@pytest.mark.parametrize("word", ["WAITING", "DEPLOYING", "RUNNING", "HIBERNATING"])
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_our_serving_of_the_same_spec_is_adopted(if_exists: str, word: str) -> None:
    world = deployed(WANTED)
    assert world.current is not None
    world.current.raw_state = word
    world.ensure(if_exists=if_exists)
    assert (world.created, world.deleted) == ([WANTED.image], 0)


@pytest.mark.parametrize("word", ["FAILED", "STOPPED", "STOPPING"])
@pytest.mark.parametrize("if_exists", ["replace", "fail"])
def test_our_serving_that_no_longer_serves_is_replaced(if_exists: str, word: str) -> None:
    world = deployed(WANTED)
    assert world.current is not None
    world.current.raw_state = word
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
    with pytest.raises(ServingFailedError, match="created by someone else at the same moment"):
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


@pytest.mark.parametrize("error", UNSETTLED, ids=str)
def test_a_creation_of_unknown_outcome_is_settled_by_looking(error: BitaHubError) -> None:
    world = Servings(answers={1: error})
    world.ensure()
    assert world.created == [WANTED.image]
    assert world.now >= 1000 + GRACE_PERIOD


def test_a_creation_that_never_left_is_sent_again_without_waiting() -> None:
    world = Servings(answers={1: NOT_CONNECTED})
    world.ensure()
    assert world.created == [WANTED.image]
    assert world.pauses == []


@pytest.mark.parametrize("skew", [-1e8, -300, 0, 3600])
@pytest.mark.parametrize("lag", [0, 20])
@pytest.mark.parametrize("before", ["nothing", "other spec"])
def test_a_creation_whose_answer_was_lost_is_found_whatever_the_platforms_clock_says(
    before: str, lag: float, skew: float
) -> None:
    world = Servings(lag=lag, skew=skew)
    if before == "other spec":
        world.ensure(OTHER)
    world.lost = [world.attempts + 1]
    world.ensure()
    assert world.created[-1] == WANTED.image
    assert world.attempts == len(world.created)
    world.now += 10_000
    world.ensure()
    assert world.attempts == len(world.created)


@pytest.mark.parametrize("skew", [-300, 3600])
def test_a_creation_of_a_try_that_died_is_known_again_by_the_next_one_whatever_the_clock(skew: float) -> None:
    world = Servings(skew=skew, saved=[ServingRecord(digest(WANTED), since=1000)])
    world.put(WANTED.image)
    world.now += 900  # for Airflow to notice, and its default retry_delay
    world.ensure()
    assert world.attempts == 0


def test_failed_looks_neither_create_again_nor_give_a_serving_up() -> None:
    world = Servings(lost=[1])
    failures = [gateway(PermissionDeniedError)] * 10
    world.failed_looks = [*failures]
    with pytest.raises(PermissionDeniedError):  # of the platform itself, where nothing of ours exists
        Servings(failed_looks=[refusal(PermissionDeniedError)]).ensure()
    world.ensure()
    world.failed_looks = [INVALID, *failures] * 20
    world.ensure()
    assert world.attempts == 1


@pytest.mark.parametrize("error", [CONFLICT, INVALID], ids=repr)
def test_a_creation_that_got_through_very_late_is_found(error: BitaHubError) -> None:
    world = Servings(lost=[1], lag=GRACE_PERIOD + 1, answers={2: error})
    world.ensure()
    assert len(world.created) == 1


def test_a_creation_the_last_try_may_have_made_is_waited_for_before_another() -> None:
    world = Servings(lag=20, saved=[ServingRecord(digest(WANTED), since=1000)])
    world.put(WANTED.image)
    world.ensure()
    assert world.attempts == 0


def test_a_creation_the_last_try_made_is_found_even_if_it_shows_very_late() -> None:
    world = Servings(lag=GRACE_PERIOD + 1, saved=[ServingRecord(digest(WANTED), since=1000)])
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
        Servings(lag=GRACE_PERIOD + 10).ensure()


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
            world.current.raw_state = "RUNNING" if before == "other spec" else "FAILED"
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
        assert world.record == ServingRecord(digest(WANTED), world.current.created)
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


# ServingRecord -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "created_at", "owns", "describes"),
    [  # found at 10,000
        pytest.param(ServingRecord("d", 5.0), 5.0, True, True, id="the one we saw"),
        pytest.param(ServingRecord("d", 5.0), 6.0, False, False, id="a later one"),
        pytest.param(ServingRecord("d", 5.0), None, False, False, id="one of no known time"),
        pytest.param(ServingRecord("d"), 5.0, False, False, id="ours had no known time"),
        pytest.param(ServingRecord("d"), None, True, True, id="nobody tells times"),
        pytest.param(ServingRecord("d", since=1000), 1001, True, True, id="our creation may have got through"),
        pytest.param(ServingRecord("d", since=1000), 970, True, True, id="likewise, by a clock that is late"),
        pytest.param(ServingRecord("d", since=1000), 900, False, False, id="from before our creation"),
        pytest.param(ServingRecord("d", since=1000), 9000, False, False, id="from long after our creation"),
        pytest.param(ServingRecord("d", since=9900), 900, True, True, id="by a clock that is wrong, soon after"),
        pytest.param(ServingRecord("d", 900, since=9900), 900, True, False, id="the one to be replaced, soon after"),
        pytest.param(ServingRecord("d", 990, since=1000), 990, True, False, id="the one to be replaced"),
        pytest.param(ServingRecord("d", 990, since=1000), 1002, True, True, id="the one that replaced it"),
    ],
)
def test_a_serving_is_known_again_by_its_time_of_creation(
    record: ServingRecord, created_at: float | None, owns: bool, describes: bool
) -> None:
    assert record.owns(created_at, 10_000) is owns
    assert record.describes(created_at, 10_000) is describes


def test_a_digest_differs_with_the_specification_and_not_with_its_order() -> None:
    def spec(**envs: str) -> ServingSpec:
        return WANTED.model_copy(update={"envs": envs})

    assert digest(spec(A="1", B="2")) == digest(spec(B="2", A="1"))
    assert digest(spec(A="1")) != digest(spec(A="2"))

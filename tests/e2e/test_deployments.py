"""A service that works is never lost: good and bad versions on a real scheduler, while a client asks all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import DEPLOYED

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.long]

GOOD = {"first", "good", "good-in-place", "good-recreated"}
BAD = {"unknown-image", "unknown-model", "crash", "wrong", "slow", "crash-in-place", "wrong-recreated"}


@pytest.mark.usefixtures("short_deferrals")  # which run meanwhile
@pytest.mark.dag_runs("deployments")
def test_only_versions_that_work_serve_and_none_is_lost(world: World) -> None:
    dag, run_id, _ = world.finish("deployments")
    answers = world.asking.stop()
    tasks = world.airflow.tasks(dag, run_id)
    assert {name: task["state"] for name, task in tasks.items()} == {
        **dict.fromkeys(GOOD | {"back"}, "success"),
        **dict.fromkeys(BAD, "failed"),
    }
    begin = next(index for index, answer in enumerate(answers) if answer.version == "first")
    versions = [answer.version for answer in answers[begin:]]
    recreated = versions.index("wrong-recreated") if "wrong-recreated" in versions else len(versions)
    safe = versions[: max(index for index, version in enumerate(versions[:recreated]) if version == "good") + 1]
    assert list(dict.fromkeys(safe)) == ["first", "good", "good-in-place"], "only good versions, and no moment without"
    assert versions[-1] == "good-recreated"
    assert DEPLOYED in world.servings()
    assert f"{DEPLOYED}-next" not in world.servings()
    xcoms = {name: world.airflow.xcom(dag, run_id, name) for name in ("first", "good", "good-in-place")}
    assert [(xcom["away_seconds"], xcom["previous"] is None) for xcom in xcoms.values()] == [
        (0, True),
        (0, False),
        (0, False),
    ]

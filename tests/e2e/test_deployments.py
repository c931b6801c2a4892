"""A service that works is never lost: good and bad versions on a real scheduler, while a client asks all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from airflow_bitahub.demo import platform
from tests.e2e.conftest import SECONDS

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e

NAME = "again-and-again"
GOOD = {"first", "good", "good-in-place", "good-recreated"}
BAD = {"unknown-image", "unknown-model", "crash", "wrong", "slow", "crash-in-place", "wrong-recreated"}


class Answer(NamedTuple):
    """What a client was answered. It is "" where no program answered."""

    time: float
    version: str


@contextmanager
def asked_all_the_time(world: World) -> Iterator[list[Answer]]:
    """Ask the service under its public name five times a second."""
    answers: list[Answer] = []
    has_ended = threading.Event()

    def ask() -> None:
        headers = {"Authorization": f"Bearer {world.emulator.token}"}
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not has_ended.wait(0.2):
                version = ""
                with suppress(httpx.TransportError, LookupError, TypeError):  # TypeError: there is no such serving
                    found = client.get(
                        f"{world.emulator.url}{platform_path()}/{NAME}?version=v1", headers=headers
                    ).json()["data"]
                    answer = client.get(found["hosts"])
                    version = answer.text if answer.status_code == 200 else ""
                answers.append(Answer(time.time(), version))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        has_ended.set()
        thread.join()


def platform_path() -> str:
    return "/lapis/inference.leinao.ai/v1/workspaces/bitahub/namespaces/inference/serving"


def test_only_versions_that_work_serve_and_none_is_lost(world: World) -> None:
    folder = platform.server_folder(world.emulator.storage, platform.FOLDERS.model("served")[0])
    folder.mkdir(parents=True, exist_ok=True)
    with asked_all_the_time(world) as answers:
        run_id = world.airflow.trigger("deployments")
        world.airflow.wait("deployments", run_id, seconds=SECONDS)
    tasks = world.airflow.tasks("deployments", run_id)
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
    assert NAME in world.servings()
    assert f"{NAME}-next" not in world.servings()
    xcoms = {name: world.airflow.xcom("deployments", run_id, name) for name in ("first", "good", "good-in-place")}
    assert [(xcom["away_seconds"], xcom["previous"] is None) for xcom in xcoms.values()] == [
        (0, True),
        (0, False),
        (0, False),
    ]

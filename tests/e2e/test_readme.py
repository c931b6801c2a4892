"""The requests in the README work exactly as written."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.conftest import SECONDS

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


def example(language: str, words: str) -> str:
    """Return the README's one piece of code in this language that contains these words."""
    text = (REPOSITORY / "README.md").read_text("utf-8")
    [code] = [code for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if words in code]
    return str(code)


def test_the_documents_own_requests_lead_from_training_to_an_answer(world: World) -> None:
    emulator = world.emulator
    told = {"EMULATOR": emulator.url, "TOKEN": emulator.token, "STORAGE": str(emulator.storage)}
    done = subprocess.run(
        ["bash", "-eu", "-c", example("bash", "send train_job")],
        cwd=REPOSITORY,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["data"]["predictions"] == [7], done.stdout
    assert "mnist-serving-demo-1234" in world.servings()

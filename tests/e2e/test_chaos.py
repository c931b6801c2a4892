"""A short selection of ``make chaos``: one round of the same, drawn from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.rounds import play
from tests.chaos.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_jobs_are_neither_lost_nor_doubled_nor_left_running_whatever_dies(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        report = play(world, seed=3010, number=1, size=14, runs=1, pace=0.25)
    assert report.acts
    assert report.violations == [], str(report)

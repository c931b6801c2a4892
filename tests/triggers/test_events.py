"""A trigger reports late enough for Airflow's scheduler to have recorded that its task was deferred."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_bitahub.triggers.events import earliest_report


@pytest.mark.parametrize("heartbeat", [1, 5])
@pytest.mark.parametrize(
    ("first_part", "waited", "extra"), [(0, 0, 0), (10, 0, 10), (23, 20, 3), (86_400, 20, 15), (-60, 0, 0)]
)
def test_report_waits_for_a_heartbeat_and_longer_on_a_busy_machine(
    heartbeat: int, first_part: float, waited: float, extra: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", str(heartbeat))
    now = datetime.now(timezone.utc)
    monkeypatch.setattr("airflow_bitahub.triggers.events.time.time", now.timestamp)
    started = now - timedelta(seconds=first_part)
    assert earliest_report(started, waited) == pytest.approx(now.timestamp() + heartbeat + 5 + extra)

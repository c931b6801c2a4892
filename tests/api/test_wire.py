"""Times in every form seen, and the header that names a task."""

from __future__ import annotations

import time
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from airflow_bitahub.api.wire import task_url_header, to_epoch


@pytest.mark.parametrize(
    "value",
    [
        1663470891,
        1663470891000,
        "1663470891",
        "1663470891000",
        1663470891.0,
        "2022-09-18T03:14:51Z",
        "2022-09-18T03:14:51+00:00",
        "2022-09-18T11:14:51.000+08:00",
    ],
)
def test_times_are_read_in_every_form_seen(value: Any) -> None:
    assert to_epoch(value) == 1663470891


@pytest.mark.parametrize(("zone", "expected"), [("UTC", 1663470891), ("Asia/Shanghai", 1663442091)])
def test_a_time_without_an_offset_is_the_platforms(zone: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")  # of this worker
    time.tzset()
    try:
        assert to_epoch("2022-09-18T03:14:51", ZoneInfo(zone)) == expected
        assert to_epoch("2022-09-18T03:14:51Z", ZoneInfo(zone)) == 1663470891
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        *(
            "yesterday",
            [],
            {},
            "--5",
            "²",
            True,
            float("nan"),
            float("inf"),
            10**400,
            "9" * 6000,
            "2022-13-40T00:00:00Z",
        ),
        "0001-01-01T00:00:00+09:00",
    ],
)
def test_what_is_no_time_is_not_known(value: Any) -> None:
    assert to_epoch(value) is None


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("", None),
        ("http://a.test/dags/训练/runs/a%20b", "http://a.test/dags/%E8%AE%AD%E7%BB%83/runs/a%20b"),
        ("http://a.test/x\r\nCookie: y", "http://a.test/x%0D%0ACookie:%20y"),
        ("http://a.test/" + "x" * 2000, None),
    ],
)
def test_the_header_that_names_a_task(url: str, sent: str | None) -> None:
    assert task_url_header(url) == ({} if sent is None else {"X-Airflow-Task-URL": sent})

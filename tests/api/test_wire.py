"""Times in every form seen."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_bitahub.api.wire import to_epoch


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


@pytest.mark.parametrize("value", ["yesterday", [], {}, "--5", "²", float("nan"), "2022-13-40T00:00:00Z"])
def test_what_is_no_time_is_not_known(value: Any) -> None:
    assert to_epoch(value) is None

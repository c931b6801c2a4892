"""What a serving has used, in whatever shape it is told. The documented shape is in `test_golden`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_bitahub.api.metering import Metering, get_metered_serving
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Response


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        (None, Metering()),
        ("soon", Metering()),
        ({"runningMinutes": "1", "usedCpuCoreMinutes": -1, "usedMemoryGBMinutes": True}, Metering()),
        ({"runningMinutes": 2, "accDeviceMetering": {"a": 1}}, Metering(running=2)),
        (
            {"accDeviceMetering": [{"accDeviceType": "a", "accDeviceNumMinutes": n} for n in (1, None, 2)] + [3]},
            Metering(accelerators={"a": 3}),
        ),
    ],
)
def test_what_cannot_be_read_is_left_out(detail: Any, expected: Metering) -> None:
    body = {"status": {"code": 0}, "data": {"name": "m", "status": "RUNNING", "meteringDetail": detail}}
    response = Response(200, {}, json.dumps(body).encode())
    assert get_metered_serving("m").read(response, Platform())[1] == expected

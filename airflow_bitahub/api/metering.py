"""What a serving has used, as the platform tells it together with the serving (seed)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from airflow_bitahub.api.envelope import unwrap
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Call, Response
from airflow_bitahub.api.servings import Serving, get_serving
from airflow_bitahub.texts import shorten


class Metering(BaseModel):
    """What a serving has used, in minutes. None: the platform does not tell it.

    :param accelerators: device type -> device minutes. The platform may leave the type empty
    """

    model_config = ConfigDict(frozen=True)

    running: float | None = None
    cpu_cores: float | None = None
    memory_gb: float | None = None
    accelerators: dict[str, float] = Field(default_factory=dict)


def get_metered_serving(name: str, version: str = "v1") -> Call[tuple[Serving, Metering]]:
    """Query a serving and what it has used. Raises NotFoundError when the platform has none."""
    query = get_serving(name, version)

    def read(response: Response, platform: Platform) -> tuple[Serving, Metering]:
        return query.read(response, platform), _read_metering(unwrap(response, query.request, platform))

    return Call(query.request, read, safe_to_repeat=True)


def _read_metering(data: dict[str, Any]) -> Metering:
    """Return what an answer says about use. What cannot be read is left out."""
    detail = data.get("meteringDetail")
    if not isinstance(detail, dict):
        return Metering()
    devices, minutes = detail.get("accDeviceMetering"), dict[str, float]()
    for device in devices if isinstance(devices, list) else ():
        used = _number(device.get("accDeviceNumMinutes")) if isinstance(device, dict) else None
        if used is not None:
            kind = shorten(str(device.get("accDeviceType") or ""), 100)
            minutes[kind] = minutes.get(kind, 0) + used
    return Metering(
        running=_number(detail.get("runningMinutes")),
        cpu_cores=_number(detail.get("usedCpuCoreMinutes")),
        memory_gb=_number(detail.get("usedMemoryGBMinutes")),
        accelerators=minutes,
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e15 else None

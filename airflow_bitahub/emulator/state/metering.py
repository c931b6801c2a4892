"""What a serving has used, as the platform bills it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_bitahub.api.servings import ServingResource


@dataclass(frozen=True)
class Usage:
    """What a serving has used from its creation up to a time, across stops, restarts and updates.

    Each amount is in milliseconds multiplied by the quantity used: one core for one second is 1000. A replica counts
    while its program runs.

    :param until: milliseconds since the epoch
    :param running: milliseconds in which at least one replica ran
    :param accelerators: per device type
    """

    until: int = 0
    running: int = 0
    cores: int = 0
    memory_mb: int = 0
    accelerators: Mapping[str, int] = field(default_factory=dict)

    def extended(self, now: int, resources: Sequence[ServingResource]) -> Usage:
        """Return the usage up to `now`, if replicas with these `resources` have run since `until`."""
        elapsed = max(0, now - self.until)
        accelerators = dict(self.accelerators)
        for device in filter(None, (resource.acc_device for resource in resources)):
            used = accelerators.get(device.device_type, 0)
            accelerators[device.device_type] = used + elapsed * device.requests
        return Usage(
            until=now,
            running=self.running + (elapsed if resources else 0),
            cores=self.cores + elapsed * sum(resource.cpu for resource in resources),
            memory_mb=self.memory_mb + elapsed * sum(resource.memory_mb for resource in resources),
            accelerators=accelerators,
        )

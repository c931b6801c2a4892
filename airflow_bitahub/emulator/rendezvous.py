"""How the replicas of a job find one another: an address each, and the variables that tell all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from airflow_bitahub.api.jobs import TaskRole

PORT = 2222  # every replica has an address of its own, so that all may have the same port
_LOOPBACK = "127.0.0.1"


def addresses(roles: Sequence[TaskRole], block: int) -> dict[tuple[str, int], str]:
    """Give each replica, by its role and index, an address on this machine that no other one has.

    :param block: a number that differs for jobs that run at the same time
    """
    replicas = [(role.task_role_name, index) for role in roles for index in range(role.task_number)]
    if sys.platform != "linux":  # elsewhere only one address leads to this machine without further ado
        return dict.fromkeys(replicas, _LOOPBACK)
    second, third = 64 + block // 256 % 64, block % 256
    return {replica: f"127.{second}.{third}.{number}" for number, replica in enumerate(replicas, 1)}


def variables(
    job_name: str, role: TaskRole, index: int, roles: Sequence[TaskRole], hosts: dict[tuple[str, int], str]
) -> dict[str, str]:
    """Give a replica's variables, in the spelling of Volcano (``VC_``, ``VK_``) and of OpenPAI (``PAI_``)."""
    told = {
        "VC_TASK_INDEX": str(index),
        "VK_TASK_INDEX": str(index),
        "VC_TASK_NAME": role.task_role_name,
        "PAI_JOB_NAME": job_name,
        "PAI_TASK_INDEX": str(index),
        "PAI_CURRENT_TASK_ROLE_NAME": role.task_role_name,
        "PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX": str(index),
    }
    for other in roles:
        name = other.task_role_name
        found = [hosts[name, number] for number in range(other.task_number)]
        volcano = name.upper().replace("-", "_")
        told[f"VC_{volcano}_HOSTS"] = ",".join(found)
        told[f"VC_{volcano}_NUM"] = str(other.task_number)
        told[f"PAI_TASK_ROLE_{name.replace('-', '_')}_HOST_LIST"] = ",".join(f"{host}:{PORT}" for host in found)
    return told

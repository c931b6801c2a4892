"""How the replicas of a job find one another: an address and a port each, and the variables that tell all of them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from airflow_bitahub.api.jobs import TaskRole


class Endpoint(NamedTuple):
    """Where a replica can be reached. Some programs, TensorFlow's for one, take their port on all addresses."""

    host: str
    port: int


def endpoints(roles: Sequence[TaskRole], block: int) -> dict[tuple[str, int], Endpoint]:
    """Give each replica, by its role and index, an address on this machine and a port that no other one has.

    :param block: a number that differs for jobs that run at the same time
    """
    replicas = [(role.task_role_name, index) for role in roles for index in range(role.task_number)]
    second, third = 64 + block // 256 % 64, block % 256
    found = {}
    with ExitStack() as taken:
        for number, replica in enumerate(replicas, 1):
            # Elsewhere only one address leads to this machine without further ado.
            host = f"127.{second}.{third}.{number}" if sys.platform == "linux" else "127.0.0.1"
            free = taken.enter_context(socket.create_server(("127.0.0.1", 0)))
            found[replica] = Endpoint(host, free.getsockname()[1])
    return found


def variables(
    job_name: str, role: TaskRole, index: int, roles: Sequence[TaskRole], found: dict[tuple[str, int], Endpoint]
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
        replicas = [found[name, number] for number in range(other.task_number)]
        volcano = name.upper().replace("-", "_")
        told[f"VC_{volcano}_HOSTS"] = ",".join(host for host, _ in replicas)
        told[f"VC_{volcano}_NUM"] = str(other.task_number)
        listed = ",".join(f"{host}:{port}" for host, port in replicas)
        told[f"PAI_TASK_ROLE_{name.replace('-', '_')}_HOST_LIST"] = listed
    return told

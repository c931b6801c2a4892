"""How the replicas of a job find each other: each has an address and a port, and variables list all of them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from airflow_bitahub.api.jobs import TaskRole


class Endpoint(NamedTuple):
    """Where a replica can be reached."""

    host: str
    port: int


def assign_endpoints(roles: Sequence[TaskRole], block: int) -> dict[tuple[str, int], Endpoint]:
    """Return an address on this machine and a port for each replica, by its role and index.

    No two replicas get the same port, since some programs, such as TensorFlow, listen on all addresses.

    :param block: a number that differs between jobs that run at the same time
    """
    replicas = [(role.task_role_name, index) for role in roles for index in range(role.task_number)]
    second, third = 64 + block // 256 % 64, block % 256
    endpoints = {}
    with ExitStack() as reserved:
        for number, replica in enumerate(replicas, 1):
            # Other systems than Linux have only one loopback address without further configuration.
            host = f"127.{second}.{third}.{number}" if sys.platform == "linux" else "127.0.0.1"
            free = reserved.enter_context(socket.create_server(("127.0.0.1", 0)))
            endpoints[replica] = Endpoint(host, free.getsockname()[1])
    return endpoints


def replica_variables(
    job_name: str, role: TaskRole, index: int, roles: Sequence[TaskRole], endpoints: dict[tuple[str, int], Endpoint]
) -> dict[str, str]:
    """Return a replica's environment variables, as Volcano (``VC_``, ``VK_``) and OpenPAI (``PAI_``) spell them."""
    variables = {
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
        replicas = [endpoints[name, number] for number in range(other.task_number)]
        volcano = name.upper().replace("-", "_")
        variables[f"VC_{volcano}_HOSTS"] = ",".join(host for host, _ in replicas)
        variables[f"VC_{volcano}_NUM"] = str(other.task_number)
        host_list = ",".join(f"{host}:{port}" for host, port in replicas)
        variables[f"PAI_TASK_ROLE_{name.replace('-', '_')}_HOST_LIST"] = host_list
    return variables

"""A program that uses more memory than it asked for is killed, and says so."""

from __future__ import annotations

import pytest

from tests.emulator.conftest import Api

# It fills what it reserves, and then waits to be killed.
GREEDY = "python -c 'import time; kept = b\"x\" * (300 << 20); time.sleep(600)'"
ROLE = {"cpuNumber": 1, "shmMB": 64, "taskRoleName": "task1", "taskNumber": 1}


def roles(api: Api, command: str, memory: int) -> list[dict[str, object]]:
    [role] = api.job_body()["taskRoles"]
    return [{**role, **ROLE, "memoryMB": memory, "command": command}]


@pytest.mark.parametrize("command", [GREEDY, f"setsid {GREEDY}"], ids=["plain", "in a session of its own"])
def test_a_job_that_uses_too_much_memory_is_killed(api: Api, command: str) -> None:
    job, log = api.run(command, taskRoles=roles(api, command, 128))
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 137)
    assert "of memory, and it may use 128 MB" in log


def test_a_job_that_uses_what_it_asked_for_is_left_alone(api: Api) -> None:
    command = GREEDY.replace("600", "2.5")
    assert api.run(command, taskRoles=roles(api, command, 512))[0]["state"] == "SUCCEEDED"

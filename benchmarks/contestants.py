"""What is compared: this package's trigger in both modes, other providers' triggers as released, and bare loops.

Each contestant is a function. It takes the number of jobs, the seconds between two polls, the server's address and a
callback. It yields coroutines that wait for the jobs and call the callback with the number of each finished job.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

OnFinished = Callable[[int], None]
Contestant = Callable[[int, float, str, OnFinished], Iterator[Awaitable[None]]]

JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"
WITH_LOGS = "bitahub, with the jobs' logs"
FEW = 16  # connections of a bare loop that limits them
PAGE = 500  # jobs on a page of the list, as in this package


def _connect(name: str, **connection: Any) -> None:
    os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)


async def _event(trigger: Any, number: int, on_finished: OnFinished) -> None:
    async for _ in trigger.run():
        on_finished(number)
        return


def leave_out_aiohttp() -> None:
    """Let this process's next clients use httpx for everything, as where aiohttp is not installed."""
    mock.patch("airflow_bitahub.client.find_spec", return_value=None).start()


def _bitahub(watch: str, *, by_aiohttp: bool = True) -> Contestant:
    def start(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
        from airflow_bitahub.triggers.job import BitaHubJobTrigger

        if not by_aiohttp:
            leave_out_aiohttp()
        _connect(
            "bitahub", conn_type="bitahub", host=f"https://{address}", password="token-token", extra={"watch": watch}
        )
        for number in range(jobs):
            yield _event(BitaHubJobTrigger("bitahub", f"job-{number}", interval), number, on_finished)

    return start


def _bitahub_with_logs(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    """Each job prints 5 lines a second. Airflow stores how far they were logged in about 20 ms."""
    from airflow.sdk.execution_time.xcom import XCom

    from airflow_bitahub.triggers.job import BitaHubJobTrigger

    async def store(**_: Any) -> None:
        await asyncio.sleep(0.02)

    XCom.aget_one = XCom.aset = store
    _connect("bitahub", conn_type="bitahub", host=f"https://{address}", password="token-token")
    for number in range(jobs):
        trigger = BitaHubJobTrigger("bitahub", f"job-{number}", interval, log_interval=30)
        trigger.task_instance = SimpleNamespace(dag_id="dag", task_id=f"task-{number}", run_id="run", map_index=-1)
        yield _event(trigger, number, on_finished)


def _databricks(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

    host, port = address.split(":")
    _connect("databricks", conn_type="databricks", host=host, port=int(port), password="token-token")
    for number in range(jobs):
        trigger = DatabricksExecutionTrigger(number, "databricks", polling_period_seconds=int(interval))
        yield _event(trigger, number, on_finished)


def _dbt_cloud(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    _connect("dbt", conn_type="dbt_cloud", host=address, login="1", password="token-token")
    for number in range(jobs):
        trigger = DbtCloudRunJobTrigger("dbt", number, time.time() + 3600, interval, 1)
        yield _event(trigger, number, on_finished)


def _livy(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    from airflow.providers.apache.livy.triggers.livy import LivyTrigger

    _connect("livy", conn_type="livy", host=f"https://{address}")
    for number in range(jobs):
        trigger = LivyTrigger(number, {}, "livy", polling_interval=int(interval))
        yield _event(trigger, number, on_finished)


def _sagemaker(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger

    endpoint = {"endpoint_url": f"https://{address}", "region_name": "eu-central-1"}
    _connect("aws", conn_type="aws", login="access-key", password="secret-key", extra=endpoint)
    for number in range(jobs):
        trigger = SageMakerTrigger(f"job-{number}", "Training", waiter_delay=int(interval), aws_conn_id="aws")
        yield _event(trigger, number, on_finished)


# Bare loops -------------------------------------------------------------------------------------------------------


def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _poll(get: Callable[[int], Awaitable[bytes]], number: int, interval: float, on_finished: OnFinished) -> None:
    await asyncio.sleep(interval * random.random())
    due = time.monotonic()
    while json.loads(await get(number))["data"]["status"] != "SUCCEEDED":
        due += interval
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    on_finished(number)


def _httpx(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    import httpx

    client = httpx.AsyncClient(verify=_context(), timeout=60)

    async def get(number: int) -> bytes:
        return (await client.get(f"https://{address}{JOBS}/job-{number}")).content

    return (_poll(get, number, interval, on_finished) for number in range(jobs))


def _httpx_few(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    import httpx

    limits = httpx.Limits(max_connections=FEW, keepalive_expiry=60)
    client = httpx.AsyncClient(verify=_context(), timeout=60, limits=limits)
    few = asyncio.Semaphore(FEW)

    async def get(number: int) -> bytes:
        async with few:
            return (await client.get(f"https://{address}{JOBS}/job-{number}")).content

    return (_poll(get, number, interval, on_finished) for number in range(jobs))


def _aiohttp(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=_context(), limit=FEW))

    async def get(number: int) -> bytes:
        async with session.get(f"https://{address}{JOBS}/job-{number}") as response:
            return await response.read()

    return (_poll(get, number, interval, on_finished) for number in range(jobs))


def _sockets(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    host, port = address.split(":")
    context, few = _context(), asyncio.Semaphore(FEW)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(number: int) -> bytes:
        async with few:
            reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(f"GET {JOBS}/job-{number} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.rpartition(b": ")[2]))
            idle.append((reader, writer))
            return body

    return (_poll(get, number, interval, on_finished) for number in range(jobs))


def _one_list(jobs: int, interval: float, address: str, on_finished: OnFinished) -> Iterator[Awaitable[None]]:
    async def poll() -> None:
        import httpx

        known = {f"job-{number}": "" for number in range(jobs)}
        async with httpx.AsyncClient(verify=_context(), timeout=60) as client:
            due = time.monotonic()
            while True:
                for page in range(1, 1 + -(-jobs // PAGE)):
                    answer = await client.get(f"https://{address}{JOBS}", params={"page": page, "limit": PAGE})
                    for entry in json.loads(answer.content)["data"]["items"]:
                        name, state = entry["name"], entry["status"]
                        if known[name] != state:
                            known[name] = state
                            if state == "SUCCEEDED":
                                on_finished(int(name[4:]))
                due += interval
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    yield poll()


CONTESTANTS: dict[str, Contestant] = {
    "bitahub, collection": _bitahub("auto"),
    WITH_LOGS: _bitahub_with_logs,
    "bitahub, single": _bitahub("single"),
    "bitahub, single, without aiohttp": _bitahub("single", by_aiohttp=False),
    "databricks": _databricks,
    "dbt cloud": _dbt_cloud,
    "livy": _livy,
    "sagemaker": _sagemaker,
    "bare list": _one_list,
    "bare sockets": _sockets,
    "bare aiohttp": _aiohttp,
    "bare httpx, bounded": _httpx_few,
    "bare httpx": _httpx,
}

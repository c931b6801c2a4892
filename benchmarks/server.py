"""One server that plays the platforms of all contestants: over TLS, with 20 ms latency, on the loopback interface.

It is told on its standard input what to play and what to count, and gives its counts as one line of JSON:

    begin NUMBER SINCE UNTIL END     so many jobs; count between the first two times; every tenth ends in what follows
    report
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import time
from collections import Counter
from urllib.parse import parse_qs, urlsplit

LATENCY = 0.02  # seconds
_JOB = re.compile(r"(?:job-|/runs/|/batches/|run_id\W{1,4})(\d+)")


class Stage:
    """The jobs, and what was asked about them."""

    def __init__(self) -> None:
        self.begin(0, 0.0, 0.0, 0.0)

    def begin(self, jobs: int, since: float, until: float, end: float) -> None:
        """Start to count."""
        self.jobs, self.since, self.until, self.end = jobs, since, until, end
        self.running = [_entry(number, over=False) for number in range(jobs)]
        self.looks = [0] * jobs  # at each job, in the time that counts
        self.first: dict[int, float] = {}  # when each was first looked at
        self.requests = 0
        self.per_second: Counter[int] = Counter()
        self.opened = self.open = self.peak = 0

    def is_over(self, number: int) -> bool:
        """Tell whether a job has ended by now: every tenth does, one after the other once all has been counted."""
        return number % 10 == 0 and time.time() >= end_of(number, self.jobs, self.until, self.end)

    def note_request(self) -> None:
        """Count a request."""
        now = time.time()
        self.per_second[int(now)] += 1
        self.requests += self.since <= now < self.until

    def note_look(self, number: int) -> None:
        """Count a look at a job."""
        now = time.time()
        self.first.setdefault(number, now)
        self.looks[number] += self.since <= now < self.until

    def report(self) -> dict[str, object]:
        """Give the counts."""
        return {
            "requests": self.requests,
            "looks": self.looks,
            "first": self.first,
            "busiest_second": max(self.per_second.values(), default=0),
            "opened": self.opened,
            "peak": self.peak,
        }


def end_of(number: int, jobs: int, first: float, last: float) -> float:
    """Give the time at which a job ends."""
    return first + (last - first) * number / jobs


def _entry(number: int, *, over: bool) -> str:
    return json.dumps(
        {
            "name": f"job-{number}",
            "jobName": f"job-{number}",
            "namespace": "bita-user",
            "kind": "training",
            "createdTime": 1663470891571,
            "launchedTime": 1663470892000,
            "updatedTime": 1663470892274,
            "stopedTime": 1663474186000 if over else 0,
            "status": "SUCCEEDED" if over else "RUNNING",
        }
    )


def _answer(stage: Stage, path: str, body: bytes) -> str:
    """Give the JSON that a platform would answer with."""
    url = urlsplit(path)
    if url.path.endswith("/jobs"):
        query = parse_qs(url.query)
        page, limit = int(query["page"][0]), int(query["limit"][0])
        numbers = range(stage.jobs)[(page - 1) * limit : page * limit]
        for number in numbers:
            stage.note_look(number)
        entries = (_entry(number, over=True) if stage.is_over(number) else stage.running[number] for number in numbers)
        items = ",".join(entries)
        return f'{{"status":{{"code":0,"msg":"success"}},"data":{{"items":[{items}],"totalItems":{stage.jobs}}}}}'
    match = _JOB.search(path + body.decode("latin-1"))
    if match is None or url.path.endswith(("/log", "/get-output")):  # not about a job's state
        return '{"log": [], "metadata": {}}'
    number = int(match[1])
    over = stage.is_over(number)
    stage.note_look(number)
    if "lapis" in path:
        return f'{{"status":{{"code":0,"msg":"success"}},"data":{_entry(number, over=over)}}}'
    if "/api/2." in path:
        state = {"life_cycle_state": "TERMINATED" if over else "RUNNING", "state_message": ""}
        if over:
            state["result_state"] = "SUCCESS"
        return json.dumps({"run_id": number, "run_page_url": "", "state": state, "tasks": []})
    if "/api/v2" in path:
        return json.dumps({"status": {"code": 200}, "data": {"id": number, "status": 10 if over else 3}})
    if "/batches" in path:
        return json.dumps({"id": number, "state": "success" if over else "running"})
    return json.dumps({"TrainingJobName": f"job-{number}", "TrainingJobStatus": "Completed" if over else "InProgress"})


class Connection(asyncio.Protocol):
    """One connection, kept as long as the client likes."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        self._transport = transport
        self._stage.opened += 1
        self._stage.open += 1
        self._stage.peak = max(self._stage.peak, self._stage.open)

    def connection_lost(self, _: Exception | None) -> None:
        """Count it."""
        self._stage.open -= 1

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1")
            length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._stage.note_request()
            asyncio.get_running_loop().call_later(LATENCY, self._answer, head.split(" ", 2)[1], body)

    def _answer(self, path: str, body: bytes) -> None:
        content = _answer(self._stage, path, body).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        if not self._transport.is_closing():
            self._transport.write(head.encode() + content)  # type: ignore[attr-defined]


async def main(certificate: str) -> None:
    """Serve until the standard input ends."""
    stage = Stage()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(stage), "127.0.0.1", 0, ssl=context, backlog=8192, ssl_handshake_timeout=120
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        if line[0] == "begin":
            stage.begin(int(line[1]), *map(float, line[2:]))
        print(json.dumps(stage.report() if line[0] == "report" else "ready"), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

"""A server that answers like the platforms of all contestants, over TLS on the loopback address, with 20 ms latency.

It reads commands from its standard input, and answers each with one line of JSON:

    begin JOBS SINCE UNTIL END    serve this number of jobs; count polls between the times SINCE and UNTIL; from UNTIL
                                  to END, every tenth job finishes, one after the other
    report                        return the counts
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
_LINE = len(f"step {0:>16}  loss 0.1234567\n")
_JOB = re.compile(r"(?:job-|/runs/|/batches/|run_id\W{1,4})(\d+)")


class Stage:
    """The jobs, and the counts of requests and polls."""

    def __init__(self) -> None:
        self.begin(0, 0.0, 0.0, 0.0)

    def begin(self, jobs: int, since: float, until: float, end: float) -> None:
        """Start with new jobs and new counts."""
        self.jobs, self.since, self.until, self.end = jobs, since, until, end
        self.began = time.time()
        self.running = [_entry(number, finished=False) for number in range(jobs)]
        self.polls = [0] * jobs  # polls of each job, between `since` and `until`
        self.first: dict[int, float] = {}  # the time of each job's first poll
        self.requests = 0
        self.per_second: Counter[int] = Counter()
        self.opened = self.open = self.peak = 0

    def has_finished(self, number: int) -> bool:
        """Return whether a job has finished. Every tenth job does, one after the other, once the counting has ended."""
        return number % 10 == 0 and time.time() >= end_of(number, self.jobs, self.until, self.end)

    def note_request(self) -> None:
        """Count a request."""
        now = time.time()
        self.per_second[int(now)] += 1
        self.requests += self.since <= now < self.until

    def note_poll(self, number: int) -> None:
        """Count a poll of a job."""
        now = time.time()
        self.first.setdefault(number, now)
        self.polls[number] += self.since <= now < self.until

    def report(self) -> dict[str, object]:
        """Return the counts."""
        return {
            "requests": self.requests,
            "polls": self.polls,
            "first": self.first,
            "busiest_second": max(self.per_second.values(), default=0),
            "opened": self.opened,
            "peak": self.peak,
        }


def end_of(number: int, jobs: int, first: float, last: float) -> float:
    """Return the time at which a job finishes."""
    return first + (last - first) * number / jobs


def _entry(number: int, *, finished: bool) -> str:
    return json.dumps(
        {
            "name": f"job-{number}",
            "jobName": f"job-{number}",
            "namespace": "bita-user",
            "kind": "training",
            "createdTime": 1663470891571,
            "launchedTime": 1663470892000,
            "updatedTime": 1663470892274,
            "stopedTime": 1663474186000 if finished else 0,
            "status": "SUCCEEDED" if finished else "RUNNING",
        }
    )


def _log(stage: Stage, query: dict[str, list[str]]) -> str:
    """Return what a job has printed after an offset: 5 lines of 40 characters a second."""
    begin, most = int(query["offset"][0]) // _LINE, int(query["tailLines"][0])
    count = max(0, int((time.time() - stage.began) * 5))
    start = max(begin, count - most)
    text = "".join(f"step {number:>16}  loss 0.1234567\\n" for number in range(start, count))
    numbers = f'"offset":{start * _LINE},"nextOffset":{count * _LINE},"skippedLines":{start - begin}'
    return f'{{"status":{{"code":0,"msg":"success"}},"data":{{"log":"{text}",{numbers}}}}}'


def _answer(stage: Stage, path: str, body: bytes) -> str:
    """Return the JSON that the platform of this path would answer with."""
    url = urlsplit(path)
    if url.path.endswith("/jobs"):
        query = parse_qs(url.query)
        page, limit = int(query["page"][0]), int(query["limit"][0])
        numbers = range(stage.jobs)[(page - 1) * limit : page * limit]
        for number in numbers:
            stage.note_poll(number)
        entries = (
            _entry(number, finished=True) if stage.has_finished(number) else stage.running[number] for number in numbers
        )
        items = ",".join(entries)
        return f'{{"status":{{"code":0,"msg":"success"}},"data":{{"items":[{items}],"totalItems":{stage.jobs}}}}}'
    if url.path.endswith("/log") and "lapis" in path:
        return _log(stage, parse_qs(url.query))
    match = _JOB.search(path + body.decode("latin-1"))
    if match is None or url.path.endswith(("/log", "/get-output")):  # it does not ask for a job's state
        return '{"log": [], "metadata": {}}'
    number = int(match[1])
    finished = stage.has_finished(number)
    stage.note_poll(number)
    if "lapis" in path:
        return f'{{"status":{{"code":0,"msg":"success"}},"data":{_entry(number, finished=finished)}}}'
    if "/api/2." in path:
        state = {"life_cycle_state": "TERMINATED" if finished else "RUNNING", "state_message": ""}
        if finished:
            state["result_state"] = "SUCCESS"
        return json.dumps({"run_id": number, "run_page_url": "", "state": state, "tasks": []})
    if "/api/v2" in path:
        return json.dumps({"status": {"code": 200}, "data": {"id": number, "status": 10 if finished else 3}})
    if "/batches" in path:
        return json.dumps({"id": number, "state": "success" if finished else "running"})
    return json.dumps(
        {"TrainingJobName": f"job-{number}", "TrainingJobStatus": "Completed" if finished else "InProgress"}
    )


class Connection(asyncio.Protocol):
    """One connection, open until the client closes it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count an opened connection."""
        self._transport = transport
        self._stage.opened += 1
        self._stage.open += 1
        self._stage.peak = max(self._stage.peak, self._stage.open)

    def connection_lost(self, _: Exception | None) -> None:
        """Count a closed connection."""
        self._stage.open -= 1

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
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
    """Serve until the standard input is closed."""
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

"""Connects a sandbox's own network with the emulator. It runs in the sandbox, by an image's Python, 3.8 or newer.

Usage: ``relay.py FOLDER PORT PROXY_PORT PROGRAM ...`` starts the program and passes on, for as long as it runs:

- connections at the socket file `INSIDE` of the folder to the program's port. The file appears once it listens there.
- requests to the HTTP proxy at PROXY_PORT to the socket file `OUTSIDE`, at which the emulator connects them further. An
  address such as ``localhost`` is the program's own if something listens there, otherwise the emulator's machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import urlsplit

WRITABLE = "program"  # the only part of the folder in which the program can change something
INSIDE, OUTSIDE = WRITABLE + "/inside", "outside"
_LAST_ANSWERS = 1  # seconds for answers that are on their way when the last program ends
_FOR_THE_PROXY = (b"connection:", b"proxy-", b"keep-alive:")


class Connection(NamedTuple):
    """Both ends of an open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def connect_outside(file: str, host: str, port: int) -> Connection:
    """Open a connection by the emulator. Raises OSError with the emulator's words if it cannot."""
    emulator = Connection(*await asyncio.open_unix_connection(file))
    try:
        emulator.writer.write(f"CONNECT {host} {port}\n".encode())
        answer = (await emulator.reader.readline()).decode().strip()
        if answer != "connected":
            raise OSError(answer or "the emulator has closed the connection")
    except BaseException:
        emulator.writer.close()
        raise
    return emulator


async def join(one: Connection, other: Connection) -> None:
    """Pass on everything between two connections, until both are at their end or one of them breaks."""
    ways = [
        asyncio.ensure_future(_pass_on(one.reader, other.writer)),
        asyncio.ensure_future(_pass_on(other.reader, one.writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        one.writer.close()
        other.writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read(65536)
    while data:
        writer.write(data)
        await writer.drain()
        data = await reader.read(65536)
    writer.write_eof()


def _is_listening(port: int) -> bool:
    """Return whether a program listens on a port of this network."""
    end = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:  # noqa: PTH123
                fields = [line.split() for line in lines]
        except OSError:
            continue
        if any(line[1].endswith(end) and line[3] == "0A" for line in fields):
            return True
    return False


async def _serve_program(file: str, port: int) -> None:
    """Accept connections at a socket file once the program listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            program = Connection(*await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            writer.close()
            return
        await join(Connection(reader, writer), program)

    while not _is_listening(port):
        await asyncio.sleep(0.05)
    await asyncio.start_unix_server(serve, file + ".new")
    os.rename(file + ".new", file)  # noqa: PTH104


def _target(head: bytes) -> tuple[str, int, bytes]:
    """Return where a request to a proxy leads, and its head for the server there; b"" for a tunnel."""
    first, _, rest = head.partition(b"\r\n")
    method, address, version = first.decode("latin-1").split(" ")
    url = urlsplit("//" + address if method == "CONNECT" else address)
    if not url.hostname or (method != "CONNECT" and url.scheme != "http"):
        raise ValueError("not the address of a web page: " + address)
    if method == "CONNECT":
        return url.hostname, url.port or 443, b""
    path = (url.path or "/") + ("?" + url.query if url.query else "")
    fields = [line for line in rest.split(b"\r\n") if line and not line.lower().startswith(_FOR_THE_PROXY)]
    lines = [f"{method} {path} {version}".encode("latin-1"), *fields, b"Connection: close", b"", b""]
    return url.hostname, url.port or 80, b"\r\n".join(lines)


def _is_own(host: str, port: int) -> bool:
    return (host in ("localhost", "::1") or host.startswith("127.")) and _is_listening(port)


def proxy(file: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return what serves a connection to the HTTP proxy."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            host, port, head = _target(await reader.readuntil(b"\r\n\r\n"))
            if _is_own(host, port):
                server = Connection(*await asyncio.open_connection("127.0.0.1", port))
            else:
                server = await connect_outside(file, host, port)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
            # Most programs report the first line of an answer, and nothing else of it.
            reason = " ".join(str(error).split())[:200].encode("ascii", "replace")
            writer.write(b"HTTP/1.1 502 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % reason)
            writer.close()
            return
        if head:
            server.writer.write(head)
        else:
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await join(Connection(reader, writer), server)

    return serve


async def main(folder: str, port: int, listener: socket.socket) -> None:
    """Serve until all programs have ended: the sandbox waits for this process, too."""
    await asyncio.start_server(proxy(f"{folder}/{OUTSIDE}"), sock=listener)
    waiting = asyncio.ensure_future(_serve_program(f"{folder}/{INSIDE}", port))
    while _runs_program():
        await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=_LAST_ANSWERS)


def _runs_program() -> bool:
    """Return whether a process runs besides this one and the sandbox's first."""
    processes = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
    return bool(processes - {1, os.getpid()})


if __name__ == "__main__":
    # The program starts after the proxy listens, so its first request finds it.
    listening = socket.create_server(("127.0.0.1", int(sys.argv[3])))
    if os.fork():
        listening.close()
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and what is ignored would stay so
            signal.signal(ignored, signal.SIG_DFL)
        os.execvp(sys.argv[4], sys.argv[4:])  # noqa: S606
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the program may still answer
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), listening))

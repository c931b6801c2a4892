"""Passes connections at a socket file on to a port. It runs in a sandbox with its own network, by an image's Python.

Usage: ``relay.py SOCKET PORT``. The file appears once a program listens on the port.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys


def is_listening(port: int) -> bool:
    """Return whether a program listens on the port."""
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


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on everything that comes."""
    try:
        data = await reader.read(65536)
        while data:
            writer.write(data)
            await writer.drain()
            data = await reader.read(65536)
    except OSError:
        pass


async def main(socket: str, port: int) -> None:
    """Serve until killed."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        ways = [pass_on(reader, inner_writer), pass_on(inner_reader, writer)]
        await asyncio.wait(list(map(asyncio.ensure_future, ways)), return_when=asyncio.FIRST_COMPLETED)
        writer.close()
        inner_writer.close()

    while not is_listening(port):
        await asyncio.sleep(0.05)
    await asyncio.start_unix_server(relay, socket + ".new")
    os.rename(socket + ".new", socket)  # noqa: PTH104
    await asyncio.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the program may still answer; the sandbox ends with it
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

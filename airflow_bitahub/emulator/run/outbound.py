"""What leads a program with a network of its own out of it: the emulator opens its connections; see `mounts.relay`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType

from airflow_bitahub.emulator.mounts.relay import Connection, join

_CONNECT_SECONDS = 30
_MAX_CONNECTIONS = 64  # of one program; each needs two file descriptors of the emulator


class Outbound:
    """Opens connections for one program, as an asynchronous context manager.

    Each connection to its socket file begins with a line ``CONNECT host port``. The answer is the line ``connected``,
    after which everything is passed on, or why there is no connection.

    :param file: the socket file; one that an earlier emulator left behind is replaced
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connections = set[asyncio.Task[None]]()

    async def __aenter__(self) -> Outbound:
        self._file.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, self._file)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.write(f"the program has {_MAX_CONNECTIONS} connections already\n".encode())
            writer.close()
            return
        task = asyncio.create_task(_serve(Connection(reader, writer)))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)


async def _serve(program: Connection) -> None:
    reader, writer = program
    try:
        server = await asyncio.wait_for(_connect(reader), _CONNECT_SECONDS)
    except (OSError, ValueError, asyncio.TimeoutError) as error:
        words = " ".join(str(error).split()) or f"no connection after {_CONNECT_SECONDS} s"
        writer.write(f"{words}\n".encode())
        writer.close()
        return
    except BaseException:
        writer.close()
        raise
    writer.write(b"connected\n")
    await join(program, server)


async def _connect(reader: asyncio.StreamReader) -> Connection:
    _, host, port = (await reader.readline()).decode().split()
    return Connection(*await asyncio.open_connection(host, int(port)))

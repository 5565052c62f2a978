"""A network between two processes, to be cut or frozen at will."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from yarl import URL


class Relay:
    """Passes bytes on to `host:port`. Frozen, it holds them back, as a half-open connection does."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._freezes_in: int | None = None
        self.port = 0
        self.connections = 0

    @property
    def frozen(self) -> bool:
        return not self._flowing.is_set()

    def freeze(self) -> None:
        self._flowing.clear()

    def freeze_after(self, count: int) -> None:
        """Go silent once so many more bytes have arrived, of either side."""
        self._freezes_in = count

    def thaw(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while chunk := await reader.read(65536):
                self._count(len(chunk))
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()

    def _count(self, arrived: int) -> None:
        if self._freezes_in is not None:
            self._freezes_in -= arrived
            if self._freezes_in <= 0:
                self._freezes_in = None
                self.freeze()


@asynccontextmanager
async def relay_to(url: str) -> AsyncIterator[tuple[str, Relay]]:
    """The same URL through a relay, and the relay."""
    target = URL(url)
    relay = Relay(target.host or "127.0.0.1", target.port or 0)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield str(target.with_host("127.0.0.1").with_port(relay.port)), relay
    finally:
        server.close()
        relay.thaw()
        relay.cut()
        await server.wait_closed()

"""Server-Sent Events: a read of the log that goes on until its story is over."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from litestar.types import Receive, Scope, Send
from msgspec import Struct

from app.state.database import DatabaseUnavailable
from app.state.log import Log, within

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
SLOWEST_WRITE_S = 30.0
RETRY_MS = 2000
DATABASE_PAUSE_S = 1.0

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Page(Struct, frozen=True, kw_only=True):
    """The next events, as they go over the wire, up to `position`.

    `full`: there may be more at once. `over`: nothing will ever follow.
    """

    frames: bytes
    position: int
    full: bool
    over: bool


ReadPage = Callable[[int], Awaitable[Page]]


def frame(position: int, event_type: str, data: str) -> bytes:
    """One event. A line break in stored JSON is white space, and would end the field."""
    line = data.replace("\r", " ").replace("\n", " ")
    return f"id: {position}\nevent: {event_type}\ndata: {line}\n\n".encode()


class EventStream:
    """An ASGI answer that begins with `first` and reads on from there whenever the log has news.

    It ends with its story, with its reader, or with the app. A reader that takes nothing for SLOWEST_WRITE_S is cut
    off, and can resume.
    """

    def __init__(self, first: Page, read: ReadPage, log: Log, job_id: UUID | None) -> None:
        self._first = first
        self._read = read
        self._log = log
        self._job_id = job_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            telling.cancel()
            leaving.cancel()
            await asyncio.gather(telling, leaving, return_exceptions=True)
        if not telling.cancelled() and (error := telling.exception()):
            raise error

    async def _tell(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        try:
            await self._tell_all(send)
        except TimeoutError:
            logger.info("slow reader was cut off", extra={"job_id": self._job_id})

    async def _tell_all(self, send: Send) -> None:
        page = self._first
        with self._log.watching(self._job_id) as news:
            news.set()  # something may have been stored since the first page was read
            await _write(send, f"retry: {RETRY_MS}\n\n".encode() + page.frames)
            while not page.over and not self._log.closed:
                if not await within(news, HEARTBEAT_S):
                    await _write(send, b":\n\n")
                    continue
                news.clear()
                page = await self._read_on(page, news)
                if page.frames:
                    await _write(send, page.frames)
                if page.full:
                    news.set()
        await _write(send, b"", more=False)

    async def _read_on(self, page: Page, news: asyncio.Event) -> Page:
        try:
            return await self._read(page.position)
        except DatabaseUnavailable:
            await asyncio.sleep(DATABASE_PAUSE_S)
            news.set()
            return Page(frames=b"", position=page.position, full=False, over=False)


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    """Raises TimeoutError for a reader that takes nothing."""
    async with asyncio.timeout(SLOWEST_WRITE_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

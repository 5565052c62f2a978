"""The tail of the projection's log: whoever waits for something to be stored is told here."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

import asyncpg
from msgspec import Struct

from app.state import queries
from app.state.database import AWAY, Database

logger = logging.getLogger(__name__)

CHANNEL = "llmbench_log"
POLL_S = 2.0
SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
BATCH = 1000
CROWD = 8  # from here on it costs less to let the waiting gather than to read for each of them
GATHER_S = 0.005


Key = TypeVar("Key")
Waiter = TypeVar("Waiter")


class Entry(Struct, frozen=True):
    position: int
    event_id: UUID
    job_id: UUID | None
    type: str


class Log:
    """Follows the log from the moment it is first seen. `following` is False while the database is away."""

    def __init__(self, database: Database, heard: Callable[[Entry], None]) -> None:
        self.position: int | None = None
        self.following = False
        self.closed = False
        self._database = database
        self._heard = heard
        self._expected: dict[UUID, set[asyncio.Future[None]]] = {}
        self._watchers: dict[UUID | None, set[asyncio.Event]] = {}

    @contextmanager
    def expecting(self, event_id: UUID) -> Iterator["asyncio.Future[None]"]:
        """A future that is done once the event is stored. Enter before publishing, or it may have been missed."""
        stored = asyncio.get_running_loop().create_future()
        self._expected.setdefault(event_id, set()).add(stored)
        try:
            yield stored
        finally:
            _discard(self._expected, event_id, stored)

    async def stored(self, expected: "asyncio.Future[None]", timeout: float) -> bool:
        """Wait for it, unless the log cannot be followed: then nobody could tell."""
        if self.following:
            await asyncio.wait([expected], timeout=timeout)
        return expected.done()

    @contextmanager
    def watching(self, job_id: UUID | None) -> Iterator[asyncio.Event]:
        """Set whenever something of this job was stored, or of any job for None; and once the log is closed."""
        news = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(news)
        try:
            yield news
        finally:
            _discard(self._watchers, job_id, news)

    @property
    def watchers(self) -> int:
        return sum(len(watchers) for watchers in self._watchers.values())

    def close(self) -> None:
        """Wake all watchers for the last time."""
        self.closed = True
        for watchers in self._watchers.values():
            for news in watchers:
                news.set()

    async def follow(self) -> None:
        """Read whatever is stored, and again after the database was away; until cancelled."""
        pause = SHORTEST_PAUSE_S
        while True:
            try:
                async with self._database.listening() as connection:
                    await self._catch_up_and_listen(connection)
            except AWAY as error:
                logger.warning("log cannot be followed", extra={"error": str(error) or repr(error), "pause_s": pause})
            finally:
                followed, self.following = self.following, False
            pause = SHORTEST_PAUSE_S if followed else min(LONGEST_PAUSE_S, pause * 2)
            await asyncio.sleep(pause)

    async def _catch_up_and_listen(self, connection: asyncpg.Connection) -> None:
        notified = asyncio.Event()
        await connection.add_listener(CHANNEL, lambda *_: notified.set())
        connection.add_termination_listener(lambda _: notified.set())
        head = await queries.select_log_head(connection)
        self.position = head if self.position is None else min(self.position, head)
        self.following = True
        logger.info("log is followed", extra={"position": self.position})
        while True:
            notified.clear()
            while await self._read(connection) == BATCH:
                pass
            await within(notified, POLL_S)
            if len(self._expected) > CROWD:
                await asyncio.sleep(GATHER_S)

    async def _read(self, connection: asyncpg.Connection) -> int:
        rows = await queries.select_log_entries(connection, self.position or 0, BATCH)
        for row in rows:
            self._tell(Entry(*row))
        return len(rows)

    def _tell(self, entry: Entry) -> None:
        self.position = entry.position
        self._heard(entry)
        for stored in self._expected.get(entry.event_id, ()):
            if not stored.done():
                stored.set_result(None)
        for watched in (entry.job_id, None) if entry.job_id else (None,):
            for news in self._watchers.get(watched, ()):
                news.set()


async def within(event: asyncio.Event, timeout: float) -> bool:
    """Wait for it, but not longer. Return whether it is set."""
    try:
        async with asyncio.timeout(timeout):
            return await event.wait()
    except TimeoutError:
        return False


def _discard(waiting: dict[Key, set[Waiter]], key: Key, waiter: Waiter) -> None:
    waiting[key].discard(waiter)
    if not waiting[key]:
        del waiting[key]

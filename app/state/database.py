"""Postgres, read only and never waited for longer than a client would wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

TIMEOUT_S = 3.0
CONNECTIONS = 10

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedTableError,  # not migrated yet: the projection does that
    asyncpg.UndefinedColumnError,
)

_SESSION = {"application_name": "llm-bench app", "default_transaction_read_only": "on"}


class DatabaseUnavailable(Exception):
    """Postgres is away, does not answer in time, or is not ready for us."""


class Database:
    """A pool that connects when it is first asked, and raises DatabaseUnavailable while that is in vain."""

    def __init__(self, url: str, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._url = url
        self._pool = pool

    async def fetch(self, sql: str, *arguments: Any, timeout: float = TIMEOUT_S) -> list[asyncpg.Record]:
        async with self._connection(timeout) as connection:
            return await connection.fetch(sql, *arguments, timeout=timeout)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own, which may keep a LISTEN. Raises what AWAY names."""
        connection = await asyncpg.connect(
            self._url, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S, server_settings=_SESSION
        )
        try:
            yield connection
        finally:
            connection.terminate()

    @asynccontextmanager
    async def _connection(self, timeout: float) -> AsyncIterator[PoolConnectionProxy]:
        try:
            connection = await self._pool.acquire(timeout=timeout)
        except AWAY as error:
            raise DatabaseUnavailable(str(error) or repr(error)) from error
        try:
            yield connection
        except AWAY as error:
            _terminate(connection)
            raise DatabaseUnavailable(str(error) or repr(error)) from error
        except asyncio.CancelledError:
            _terminate(connection)
            raise
        finally:
            await self._pool.release(connection)


def _terminate(connection: PoolConnectionProxy) -> None:
    """To cancel the statement politely could take as long as the statement. A lost connection is the pool's already."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Nothing connects before somebody asks, so that the app starts without Postgres."""
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=CONNECTIONS,
        timeout=TIMEOUT_S,
        command_timeout=TIMEOUT_S,
        server_settings=_SESSION,
        reset=_leave_as_is,
    )
    async with pool:
        try:
            yield Database(url, pool)
        finally:
            pool.terminate()


async def _leave_as_is(_connection: asyncpg.Connection) -> None:
    """Single SELECTs leave nothing behind that a round trip would have to reset."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from consumers.projection.migrate import migrate
from consumers.projection.queries import Connection
from events.bus.memory import MemoryBus


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    await migrate(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def database(database_url: str, connection: Connection) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=3) as database:
        yield database


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()

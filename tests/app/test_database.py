import asyncio

import asyncpg
import pytest

from app.state.database import DatabaseUnavailable, open_database
from tests.servers import RunningPostgres
from tests.waiting import until

ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"


async def test_a_database_that_dies_in_the_middle_of_a_statement_is_unavailable(
    postgres: RunningPostgres, database_url: str
) -> None:
    watcher = await asyncpg.connect(database_url)
    async with open_database(database_url) as database:
        reading = asyncio.create_task(database.fetch("SELECT pg_sleep(60)", timeout=60))
        await until(lambda: watcher.fetchval(ASLEEP))

        await postgres.kill()

        with pytest.raises(DatabaseUnavailable):
            await reading
        await postgres.start()
        assert await database.fetch("SELECT 1")
    watcher.terminate()

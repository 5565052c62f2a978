"""One running app for the tests that only ask it something; tests that take something away start their own."""

from collections.abc import AsyncIterator

import pytest

from tests.app import serving
from tests.app.serving import Api
from tests.servers import RunningPostgres, fresh_name


@pytest.fixture(scope="session")
async def api(session_postgres: RunningPostgres) -> AsyncIterator[Api]:
    name = fresh_name()
    async with serving.api(await session_postgres.create_database(name)) as api:
        yield api
    await session_postgres.drop_database(name)

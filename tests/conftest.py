"""The servers that tests share. They start with the first test that asks for them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import servers
from tests.servers import RunningBroker, RunningPostgres


@pytest.fixture(scope="session")
async def servers_folder() -> AsyncIterator[Path]:
    await servers.end_abandoned_sessions()
    with servers.session_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
async def session_broker(servers_folder: Path) -> AsyncIterator[RunningBroker]:
    async with servers.session_broker(servers_folder) as broker:
        yield broker


@pytest.fixture(scope="session")
async def session_postgres(servers_folder: Path) -> AsyncIterator[RunningPostgres]:
    async with servers.session_postgres(servers_folder) as postgres:
        yield postgres


@pytest.fixture
async def broker(session_broker: RunningBroker) -> AsyncIterator[RunningBroker]:
    """The broker of all tests: what a test kills or stops runs again for the next one."""
    yield session_broker
    if not session_broker.process.running:
        await session_broker.start()


@pytest.fixture
async def postgres(session_postgres: RunningPostgres) -> AsyncIterator[RunningPostgres]:
    """The PostgreSQL of all tests: what a test kills or stops runs again for the next one."""
    yield session_postgres
    if not session_postgres.process.running:
        await session_postgres.start()


@pytest.fixture
async def broker_url(session_broker: RunningBroker) -> AsyncIterator[str]:
    """The URL of an empty virtual host, for this test alone."""
    name = servers.fresh_name()
    yield await session_broker.create_vhost(name)
    if not session_broker.process.running:
        await session_broker.start()
    await session_broker.delete_vhost(name)


@pytest.fixture
async def database_url(session_postgres: RunningPostgres) -> AsyncIterator[str]:
    """The URL of an empty database, for this test alone."""
    name = servers.fresh_name()
    yield await session_postgres.create_database(name)
    if not session_postgres.process.running:
        await session_postgres.start()
    await session_postgres.drop_database(name)

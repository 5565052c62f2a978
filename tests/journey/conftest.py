from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.journey.service import Service, a_service


@pytest.fixture
async def empty_service(broker_url: str, database_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    """On a broker and a database of its own; no process of it runs yet."""
    async with a_service(broker_url, database_url, tmp_path) as service:
        service.environment["OMP_NUM_THREADS"] = "1"  # two workers with a thread for each core get in each other's way
        yield service


@pytest.fixture
async def service(empty_service: Service) -> Service:
    """App and projection run; the test starts the workers that it wants."""
    empty_service.start_projection()
    empty_service.start_app()
    await empty_service.until_healthy()
    return empty_service

from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from app.application import Settings, create_app
from app.state.database import open_database
from app.state.fleet import FleetWorker, choose_pool
from events.benchmark import Pool
from events.bus.memory import MemoryBus
from events.messages import BenchmarkRequested
from tests.app import serving
from tests.app.serving import Api
from tests.builders import NOON, a_spec, reported
from tests.waiting import until

CPU, GPU = FleetWorker("cpu"), FleetWorker("gpu")


@pytest.mark.parametrize(
    ("wanted", "workers", "pool"),
    [
        ({"use_gpu": True, "device": "auto"}, [CPU, GPU], "gpu"),
        ({"use_gpu": True, "device": "auto"}, [CPU], "cpu"),
        ({"use_gpu": True, "device": "auto"}, [], "cpu"),
        ({"use_gpu": True, "device": "cuda"}, [GPU], "gpu"),
        ({"use_gpu": True, "device": "cuda"}, [CPU], "cpu"),
        ({"use_gpu": True, "device": "cpu"}, [CPU, GPU], "cpu"),
        ({"use_gpu": True, "device": "cpu"}, [GPU], "gpu"),
        ({"use_gpu": False, "device": "auto"}, [CPU, GPU], "cpu"),
        ({"use_gpu": False, "device": "auto"}, [GPU], "gpu"),
        ({"use_gpu": False, "device": "auto"}, [], "cpu"),
    ],
)
def test_a_benchmark_goes_to_the_pool_that_serves_it(
    wanted: dict[str, Any], workers: list[FleetWorker], pool: Pool
) -> None:
    assert choose_pool(a_spec(**wanted), workers) == pool


async def listed(api: Api) -> dict[str, dict[str, Any]]:
    return {worker["worker_id"]: worker for worker in (await api.get("/api/v1/workers")).json()["items"]}


async def test_a_worker_that_reports_is_alive(api: Api) -> None:
    name, job_id = str(uuid4()), uuid4()
    await api.bus.publish(reported(worker_id=name, state="busy", job_id=job_id, hardware={"cores": 8}))

    await until(lambda: _knows(api, name))

    worker = (await listed(api))[name]
    assert (worker["alive"], worker["state"], worker["job_id"]) == (True, "busy", str(job_id))
    assert (worker["pool"], worker["host"], worker["hardware"]) == ("cpu", "host", {"cores": 8})
    assert "type" not in worker


async def _knows(api: Api, name: str) -> bool:
    return name in await listed(api)


async def test_a_worker_that_said_goodbye_is_not_alive(api: Api) -> None:
    name = str(uuid4())
    await api.bus.publish(reported(worker_id=name, state="stopping", reported_at=NOON))

    await until(lambda: _knows(api, name))

    assert (await listed(api))[name]["alive"] is False


async def test_silence_is_measured_by_the_clock_of_the_database(database_url: str) -> None:
    async with serving.api(database_url) as api:
        await api.bus.publish(reported(worker_id="silent"))
        await until(lambda: _knows(api, "silent"))

        await _silence_all(database_url)

        assert (await listed(api))["silent"]["alive"] is False


async def _silence_all(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE workers SET heard_at = now() - interval '31 s'")
    await connection.close()


async def test_a_gpu_worker_draws_benchmarks_that_want_a_gpu(database_url: str) -> None:
    async with serving.api(database_url) as api:
        await api.bus.publish(reported(worker_id="with-gpu", pool="gpu"))
        await until(lambda: api.parts.fleet.live_workers() == (GPU,))

        await api.submit()

        [event] = [event for event in api.bus.events if isinstance(event, BenchmarkRequested)]
        assert event.pool == "gpu"


async def test_where_nobody_lives_the_pools_of_those_who_did_are_expected_back(database_url: str) -> None:
    async with serving.api(database_url) as api:
        await api.bus.publish(reported(worker_id="with-gpu", pool="gpu"))
        await until(lambda: api.parts.fleet.live_workers() == (GPU,))
        await _silence_all(database_url)
        await until(lambda: api.parts.fleet.live_workers() == ())

        await api.submit()

        [event] = [event for event in api.bus.events if isinstance(event, BenchmarkRequested)]
        assert event.pool == "gpu"


async def test_the_first_request_finds_a_fleet_that_was_read(database_url: str) -> None:
    async with serving.api(database_url) as api:
        await api.bus.publish(reported(worker_id="with-gpu", pool="gpu"))
        await until(lambda: _knows(api, "with-gpu"))

    async with open_database(database_url) as database:
        app = create_app(MemoryBus(), database, Settings(database_url=database_url))
        async with app.lifespan():
            assert app.state.parts.fleet.live_workers() == (GPU,)

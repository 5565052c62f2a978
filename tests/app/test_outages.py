"""What works, and what is said, while the database or the projection is away; and that nothing hangs."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from app.benchmark import EXAMPLE
from app.state.log import POLL_S
from events.bus.memory import MemoryBus
from tests.app import serving
from tests.app.serving import Api, kind
from tests.app.stories import Run
from tests.app.test_events import events_of, listening
from tests.servers import RunningPostgres
from tests.waiting import until

BENCHMARKS = "/api/v1/benchmarks"


@asynccontextmanager
async def without(postgres: RunningPostgres) -> AsyncIterator[None]:
    await postgres.stop()
    try:
        yield
    finally:
        await postgres.start()


async def known_models(api: Api) -> None:
    await until(lambda: len(api.parts.catalogue) > 0)


async def test_without_the_database_benchmarks_are_accepted_and_reads_say_so(
    postgres: RunningPostgres, database_url: str
) -> None:
    async with serving.api(database_url) as api:
        await known_models(api)
        before = await api.submit()
        async with without(postgres):
            began = time.monotonic()
            job = await api.submit()
            took = time.monotonic() - began
            own = await api.get(f"{BENCHMARKS}/{job['job_id']}")
            refused = [
                await api.get(path)
                for path in (f"{BENCHMARKS}/{before['job_id']}", BENCHMARKS, "/api/v1/models", "/api/v1/workers")
            ]
            unknown_model = await api.post(BENCHMARKS, EXAMPLE | {"model_id": "nobody/nothing"})
            keyed = await api.post(BENCHMARKS, EXAMPLE, headers={"Idempotency-Key": "k"})
            health = await api.get("/api/v1/health")
            ready = await api.get("/api/v1/health/ready")

        assert took < 1.5
        assert (own.status_code, own.json()) == (200, job)
        assert {kind(answer) for answer in (*refused, unknown_model, keyed)} == {(503, "database-unavailable")}
        assert all("retry-after" in answer.headers for answer in refused)
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["database"] == {"state": "down"}
        assert ready.status_code == 503

        await until(lambda: len(api.parts.accepted) == 0, timeout=20)
        assert (await api.get(f"{BENCHMARKS}/{job['job_id']}")).json() == job


async def test_a_stream_waits_for_a_database_that_restarts(postgres: RunningPostgres, database_url: str) -> None:
    async with serving.api(database_url) as api:
        job = await api.submit()
        async with listening(api, events_of(job)) as listener:
            await until(lambda: listener.told)
            async with without(postgres):
                pass
            await until(lambda: api.parts.log.following, timeout=20)

            await Run(api, job).start()

            await until(lambda: len(listener.told) == 2)


@pytest.mark.parametrize("url", ["postgresql://x:y@127.0.0.1:1/none", "postgresql://x@/y?host=/nowhere"])
async def test_a_database_url_that_does_not_answer_leaves_a_service_that_says_so(url: str) -> None:
    async with serving.serving(MemoryBus(), url) as (_, _, base), httpx.AsyncClient(base_url=base) as client:
        health = await client.get("/api/v1/health")
        submitted = await client.post(BENCHMARKS, json=EXAMPLE)
        live = await client.get("/api/v1/health/live")

    assert (health.status_code, health.json()["status"]) == (503, "unavailable")
    assert kind(submitted) == (503, "database-unavailable")
    assert live.json() == {"status": "alive"}


async def test_a_database_that_accepts_and_never_answers_is_no_hang() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    silent = await asyncio.start_server(ignore, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with (
        silent,
        serving.serving(MemoryBus(), f"postgresql://x:y@127.0.0.1:{port}/none") as (_, _, base),
        httpx.AsyncClient(base_url=base, timeout=10) as client,
    ):
        began = time.monotonic()
        health = await client.get("/api/v1/health")
        took = time.monotonic() - began
        listed = await client.get(BENCHMARKS)

    assert (health.status_code, took < 1.5) == (503, True)
    assert kind(listed) == (503, "database-unavailable")


async def test_a_database_that_freezes_in_mid_session_is_no_hang(database_url: str) -> None:
    async with serving.api(database_url) as api:
        assert (await api.get(BENCHMARKS)).status_code == 200
        await serving.signal_sessions_of_the_app(database_url, signal.SIGSTOP)
        try:
            began = time.monotonic()
            frozen = await api.get(BENCHMARKS)
            took = time.monotonic() - began
        finally:
            await serving.signal_sessions_of_the_app(database_url, signal.SIGCONT)

        async def recovered() -> bool:
            return (await api.get(BENCHMARKS)).status_code == 200

        await until(recovered)

    assert (kind(frozen), took < 5) == ((503, "database-unavailable"), True)


async def test_a_database_that_is_not_migrated_yet_is_unavailable_until_it_is(database_url: str) -> None:
    async with (
        serving.serving(MemoryBus(), database_url) as (app, _, base),
        httpx.AsyncClient(base_url=base) as client,
    ):
        early = await client.get(BENCHMARKS)
        await serving.prepare(database_url)
        await until(lambda: app.state.parts.log.following)
        late = await client.get(BENCHMARKS)

    assert kind(early) == (503, "database-unavailable")
    assert late.json() == {"items": [], "next_cursor": None}


async def test_health_is_ok_when_all_is_well(api: Api) -> None:
    health = await api.get("/api/v1/health")

    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert (health.json()["broker"], health.json()["database"]) == ({"state": "up"}, {"state": "up"})
    assert health.json()["projection"]["lag_s"] == 0.0
    assert (await api.get("/api/v1/health/ready")).status_code == 200


async def test_health_is_bad_while_no_benchmark_could_be_accepted(api: Api) -> None:
    api.bus.available = False
    try:
        health, live = await api.get("/api/v1/health"), await api.get("/api/v1/health/live")
    finally:
        api.bus.available = True

    assert (health.status_code, health.json()["status"], live.status_code) == (503, "unavailable", 200)


async def test_health_tells_for_how_long_the_projection_has_been_late(database_url: str) -> None:
    async with serving.api(database_url, projected=False) as api:
        await api.submit()

        health = (await api.get("/api/v1/health")).json()

    assert health["projection"]["lag_s"] > POLL_S - 1
    assert health["projection"]["heard_s"] is None

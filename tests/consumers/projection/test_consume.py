import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from consumers.projection import queries
from consumers.projection.consume import consume
from consumers.projection.housekeeping import cancel_jobs_of_silent_workers, repeat_cancels
from consumers.projection.migrate import SchemaMismatch, migrate
from consumers.projection.queries import Connection
from consumers.projection.seed import seed, seed_models
from consumers.projection.store import store
from events.bus.memory import MemoryBus
from events.bus.topology import PROJECTION
from events.messages import BenchmarkCancelled, BenchmarkCancelRequested
from tests.builders import REQUEST, a_model, a_spec, cancel_requested, completed, progressed, requested, started
from tests.consumers.projection.arrivals import arrived, select_job
from tests.servers import RunningPostgres
from tests.waiting import until


@asynccontextmanager
async def projecting(bus: MemoryBus, database: asyncpg.Pool) -> AsyncIterator[None]:
    async with bus.subscribe(PROJECTION, prefetch=100) as subscription:
        task = asyncio.create_task(consume(subscription, database, bus))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_what_arrives_is_stored_and_acknowledged(
    connection: Connection, database: asyncpg.Pool, bus: MemoryBus
) -> None:
    async with projecting(bus, database):
        await bus.publish(requested())

        await until(lambda: connection.fetchval("SELECT count(*) FROM jobs"))

    assert not bus.queues[PROJECTION.name].waiting


async def test_only_the_event_that_the_database_refuses_is_parked(
    connection: Connection, database: asyncpg.Pool, bus: MemoryBus
) -> None:
    await bus.publish(requested())
    await bus.publish(requested(job_id=uuid4(), spec=a_spec(model=a_model(model_id="a\0b"))))
    await bus.publish(progressed())

    async with projecting(bus, database):
        await until(lambda: bus.parked)
        await until(lambda: connection.fetchval("SELECT count(*) FROM events"))

    assert [reason.split(":")[0] for _, reason in bus.parked] == ["cannot be stored"]
    assert await connection.fetchval("SELECT count(*) FROM events") == 2


async def test_a_body_that_is_no_event_is_parked_and_the_rest_goes_on(
    connection: Connection, database: asyncpg.Pool, bus: MemoryBus
) -> None:
    bus.put(b'{"type": "somebody.elses.v1"}', "somebody.elses.v1")
    await bus.publish(requested())

    async with projecting(bus, database):
        await until(lambda: connection.fetchval("SELECT count(*) FROM jobs"))

    assert [body for body, _ in bus.parked] == [b'{"type": "somebody.elses.v1"}']


async def test_a_batch_is_kept_until_postgres_is_back(
    postgres: RunningPostgres, connection: Connection, database: asyncpg.Pool, database_url: str, bus: MemoryBus
) -> None:
    async with projecting(bus, database):
        await postgres.kill()
        await bus.publish(requested(), event_id=REQUEST)
        await bus.publish(completed())
        await postgres.start()
        again = await asyncpg.connect(database_url)
        await until(lambda: again.fetchval("SELECT count(*) = 2 FROM events"), timeout=30)

    assert (await select_job(again))["status"] == "completed"
    await again.close()


async def test_a_job_whose_worker_is_silent_is_cancelled(connection: Connection, bus: MemoryBus) -> None:
    await store(connection, [arrived(requested()), arrived(started()), arrived(cancel_requested())], bus)

    await cancel_jobs_of_silent_workers(connection, bus, 30)
    assert bus.events == []

    await connection.execute("UPDATE runs SET heard_at = now() - interval '31 s'")
    await cancel_jobs_of_silent_workers(connection, bus, 30)
    assert [type(event) for event in bus.events] == [BenchmarkCancelled]


async def test_a_cancel_that_a_worker_has_missed_is_said_again(connection: Connection, bus: MemoryBus) -> None:
    await store(connection, [arrived(requested()), arrived(started()), arrived(cancel_requested())], bus)

    await repeat_cancels(connection, bus, 5)
    await store(connection, [arrived(completed())], bus)
    await repeat_cancels(connection, bus, 5)

    assert [type(event) for event in bus.events] == [BenchmarkCancelRequested]


async def test_saying_twice_that_a_job_is_cancelled_is_saying_the_same(connection: Connection, bus: MemoryBus) -> None:
    await store(connection, [arrived(requested()), arrived(started()), arrived(cancel_requested())], bus)
    await connection.execute("UPDATE runs SET heard_at = now() - interval '31 s'")

    await cancel_jobs_of_silent_workers(connection, bus, 30)
    await cancel_jobs_of_silent_workers(connection, bus, 30)

    assert len({event_id for event_id, _ in bus.published}) == 1


async def test_jobs_that_are_over_for_long_are_forgotten(connection: Connection, bus: MemoryBus) -> None:
    await store(connection, [arrived(requested()), arrived(started()), arrived(completed())], bus)
    await store(connection, [arrived(requested(job_id=uuid4()), uuid4())], bus)

    forgotten = await queries.delete_jobs_before(connection, 1.0)

    rows = await connection.fetch("SELECT (SELECT count(*) FROM jobs) UNION ALL SELECT count(*) FROM events")
    assert forgotten == 1
    assert [row[0] for row in rows] == [1, 1]


async def test_migrating_twice_at_once_migrates_once(database_url: str) -> None:
    one, other = await asyncpg.connect(database_url), await asyncpg.connect(database_url)

    applied = await asyncio.gather(migrate(one), migrate(other))

    assert sorted(map(len, applied)) == [0, 2]
    await one.close()
    await other.close()


async def test_a_migration_that_was_changed_afterwards_is_refused(connection: Connection) -> None:
    await connection.execute("UPDATE migrations SET checksum = 'x' WHERE version = 1")

    with pytest.raises(SchemaMismatch, match="0001"):
        await migrate(connection)


async def test_a_database_of_a_newer_version_is_refused(connection: Connection) -> None:
    await connection.execute("INSERT INTO migrations (version, name, checksum) VALUES (99, 'later', 'x')")

    with pytest.raises(SchemaMismatch, match="99"):
        await migrate(connection)


async def test_the_catalogue_is_seeded_and_never_undoes_a_retirement(connection: Connection) -> None:
    await seed(connection)
    await connection.execute("UPDATE models SET retired_at = now() WHERE model_id = 'gpt2'")

    await seed(connection)

    assert await connection.fetchval("SELECT count(*) FROM models") == len(seed_models())
    assert await connection.fetchval("SELECT retired_at FROM models WHERE model_id = 'gpt2'") is not None

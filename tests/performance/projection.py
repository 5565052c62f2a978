"""Events a second through the projection, against bare aio-pika consume-and-ack of the same messages."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import aio_pika
import asyncpg

from consumers.projection.consume import BATCH, consume
from consumers.projection.migrate import migrate
from events.bus.rabbit import RabbitBus, open_bus
from events.bus.topology import PROJECTION
from events.messages import AnyEvent
from tests.builders import completed, progressed, requested, sampled, started

JOBS = 250
EVENTS_OF_A_JOB = 12


def a_run() -> list[tuple[UUID, AnyEvent]]:
    """A short run as workers tell it, each event with its id: started, progress and samples in turn, the end."""
    request_id = uuid4()
    job = {"job_id": uuid4(), "run_id": uuid4(), "request_id": request_id}
    middle: list[AnyEvent] = []
    for seq in range(1, EVENTS_OF_A_JOB - 2, 2):
        middle += [progressed(**job, seq=seq, tokens=seq), sampled(**job, seq=seq + 1)]
    told = [started(**job), *middle[: EVENTS_OF_A_JOB - 3], completed(**job, seq=99)]
    return [(request_id, requested(job_id=job["job_id"])), *((uuid4(), event) for event in told)]


async def publish_runs(bus: RabbitBus) -> int:
    events = [event for _ in range(JOBS) for event in a_run()]
    for start in range(0, len(events), 200):
        await asyncio.gather(
            *(bus.publish(event, event_id=event_id) for event_id, event in events[start : start + 200])
        )
    return len(events)


async def bare_rate(url: str, count: int) -> float:
    """Consume and acknowledge one by one with the same prefetch, and do nothing else."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=2 * BATCH)
        queue = await channel.get_queue(PROJECTION.name)
        seen, done = 0, asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal seen
            await message.ack()
            seen += 1
            if seen == count:
                done.set()

        begun = time.perf_counter()
        await queue.consume(take)
        await done.wait()
        return count / (time.perf_counter() - begun)


async def projected_rate(bus: RabbitBus, database: asyncpg.Pool, count: int) -> float:
    before = await database.fetchval("SELECT count(*) FROM events")
    begun = time.perf_counter()
    async with (
        bus.subscribe(PROJECTION, prefetch=2 * BATCH) as subscription,
        _in_background(subscription, database, bus),
    ):
        stored = "SELECT position FROM log_head"
        while await database.fetchval(stored) < before + count:  # noqa: ASYNC110 - another process, in effect
            await asyncio.sleep(0.01)
        return count / (time.perf_counter() - begun)


@asynccontextmanager
async def _in_background(subscription: object, database: asyncpg.Pool, bus: RabbitBus) -> AsyncIterator[None]:
    task = asyncio.create_task(consume(subscription, database, bus))  # type: ignore[arg-type] # a RabbitSubscription
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measure(broker_url: str, database_url: str, rounds: int = 5) -> list[tuple[float, float]]:
    """Alternating rounds: events a second of the projection, and of the baseline."""
    pairs = []
    async with (
        asyncpg.create_pool(database_url, min_size=1, max_size=4) as database,
        open_bus(broker_url, f"bench/{os.getpid()}") as bus,
    ):
        async with database.acquire() as connection:
            await migrate(connection)
        await bus.until_connected()
        for _ in range(rounds):
            bare = await bare_rate(broker_url, await publish_runs(bus))
            pairs.append((await projected_rate(bus, database, await publish_runs(bus)), bare))
    return pairs

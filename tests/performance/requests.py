"""Accepted POSTs and GETs of one job, each against the least that any service would have to do."""

import asyncio
import os
import socket
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import httpx
import msgspec

from events.bus.rabbit import open_bus
from events.bus.topology import declare
from events.envelope import CONTENT_TYPE, encode
from tests.builders import NOON, requested, started
from tests.builders import completed as a_completion
from tests.journey.service import Service, a_body
from tests.performance.load import get, post, requests_per_second
from tests.waiting import until

POSTS = 3000
GETS = 3000
IN_FLIGHT = 32


async def bare_publishes(url: str) -> float:
    """Confirmed, mandatory, persistent publishes of the same event to the same queues, 32 in flight."""
    left = iter(range(POSTS))
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await declare(channel)

        async def publish_all() -> None:
            for _ in left:
                body = encode(requested(job_id=uuid4()), event_id=uuid4(), source="bench", time=NOON)
                message = aio_pika.Message(
                    body,
                    content_type=CONTENT_TYPE,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    message_id=str(uuid4()),
                )
                await exchange.publish(message, "benchmark.requested.v1.cpu", mandatory=True)

        begun = time.perf_counter()
        await asyncio.gather(*(publish_all() for _ in range(IN_FLIGHT)))
        return POSTS / (time.perf_counter() - begun)


async def accepted_posts(service: Service) -> float:
    body = msgspec.json.encode(a_body())
    return await requests_per_second(
        "127.0.0.1", service.port, lambda: post("/api/v1/benchmarks", body), POSTS, expected=b"202"
    )


async def a_finished_job(broker_url: str, database_url: str) -> UUID:
    """A completed job in the tables, told by events as a worker would tell it."""
    job_id, run_id, request_id = uuid4(), uuid4(), uuid4()
    run = {"job_id": job_id, "run_id": run_id, "request_id": request_id}
    async with open_bus(broker_url, f"bench/{os.getpid()}") as bus:
        await bus.until_connected()
        await bus.publish(requested(job_id=job_id), event_id=request_id)
        await bus.publish(started(**run))
        await bus.publish(a_completion(**run, seq=1))
    database = await asyncpg.connect(database_url)
    await until(lambda: database.fetchval("SELECT outcome FROM jobs WHERE job_id = $1", job_id), timeout=30)
    await database.close()
    return job_id


async def gets_of_a_job(service: Service, job_id: UUID) -> float:
    request = get(f"/api/v1/benchmarks/{job_id}")
    return await requests_per_second("127.0.0.1", service.port, lambda: request, GETS, expected=b"200")


async def gets_of_bytes(payload: bytes, folder: Path) -> float:
    """A bare Litestar route that answers with the same bytes, in a process of its own."""
    (folder / "payload.json").write_bytes(payload)
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    module = ["-m", "tests.performance.bare_route", str(folder / "payload.json"), str(port)]
    server = await asyncio.create_subprocess_exec(sys.executable, *module)
    try:
        await until(lambda: _answers(port), timeout=30)
        return await requests_per_second("127.0.0.1", port, lambda: get("/"), GETS, expected=b"200")
    finally:
        server.terminate()
        await server.wait()


async def _answers(port: int) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            response = await client.get(f"http://127.0.0.1:{port}/")
        except httpx.TransportError:
            return False
        return response.status_code == 200

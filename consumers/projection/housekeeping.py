"""What nobody sends a message for: cancels that no worker will answer, and history that nobody wants to keep."""

import asyncio
import logging
from datetime import UTC, datetime

import asyncpg

from consumers.projection import queries
from consumers.projection.consume import AWAY
from consumers.projection.store import publish_cancelled
from events.bus import Bus
from events.messages import BenchmarkCancelRequested

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
WORKER_SILENCE_S = 30.0
SILENT_WORKER_DAYS = 1.0


async def keep_house(database: asyncpg.Pool, bus: Bus, retention_days: float, silence_s: float) -> None:
    """Look around every few seconds, until cancelled. `retention_days` 0 keeps everything."""
    while True:
        try:
            async with database.acquire(timeout=10) as connection:
                await cancel_jobs_of_silent_workers(connection, bus, silence_s)
                await repeat_cancels(connection, bus, INTERVAL_S)
                await forget(connection, retention_days)
        except AWAY as error:
            logger.warning("housekeeping waits", extra={"error": repr(error)})
        await asyncio.sleep(INTERVAL_S)


async def cancel_jobs_of_silent_workers(connection: queries.Connection, bus: Bus, silence_s: float) -> None:
    silent = await queries.select_jobs_of_silent_workers(connection, silence_s)
    for job in (await queries.select_jobs(connection, silent)).values():
        logger.warning("cancelling for a silent worker", extra={"job_id": job.job_id, "attempt": job.attempt})
        await publish_cancelled(job, bus)


async def repeat_cancels(connection: queries.Connection, bus: Bus, after_s: float) -> None:
    """A worker that was cut off when a cancel was said has not heard it."""
    for job_id in await queries.select_jobs_that_run_on(connection, after_s):
        await bus.publish(BenchmarkCancelRequested(job_id=job_id, requested_at=datetime.now(UTC)))


async def forget(connection: queries.Connection, retention_days: float) -> None:
    await queries.delete_silent_workers(connection, SILENT_WORKER_DAYS)
    if retention_days > 0:
        forgotten = await queries.delete_jobs_before(connection, retention_days)
        if forgotten:
            logger.info("jobs forgotten", extra={"jobs": forgotten, "older_than_days": retention_days})

"""From the queue to the tables: takes batches, waits out a lost Postgres, and parks what Postgres refuses."""

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from consumers.projection.store import Arrival, store
from events.bus import BrokerUnavailable, Bus, Delivery, OutcomeUnknown, Settlement, Subscription
from events.envelope import Undecodable, decode

logger = logging.getLogger(__name__)

BATCH = 500
LONGEST_PAUSE_S = 5.0

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    BrokerUnavailable,
    OutcomeUnknown,
)


async def consume(subscription: Subscription, database: asyncpg.Pool, bus: Bus) -> None:
    """Project whatever arrives, until cancelled."""
    while True:
        batch = await subscription.next_batch(BATCH)
        readable = await _park_unreadable(batch)
        refused = await _store_all(readable, database, bus)
        for delivery, reason in refused:
            await delivery.settle(Settlement.PARK, reason)
        settled = {id(delivery) for delivery, _ in refused}
        await subscription.acknowledge_batch([d for d, _ in readable if id(d) not in settled])


async def _park_unreadable(batch: Sequence[Delivery]) -> list[tuple[Delivery, Arrival]]:
    readable = []
    for delivery in batch:
        try:
            readable.append((delivery, Arrival(*decode(delivery.body))))
        except Undecodable as error:
            await delivery.settle(Settlement.PARK, f"undecodable: {error}")
    return readable


async def _store_all(
    readable: Sequence[tuple[Delivery, Arrival]], database: asyncpg.Pool, bus: Bus
) -> list[tuple[Delivery, str]]:
    """Store the batch whole; if that fails, event by event. Return what cannot be stored even so, and why.

    The place where every error of a batch ends: one event that nobody foresaw is no reason to stop the log.
    """
    if not readable:
        return []
    try:
        await _store_patiently([arrival for _, arrival in readable], database, bus)
    except Exception as error:
        if len(readable) == 1:
            return [(readable[0][0], f"cannot be stored: {error!r}")]
        logger.exception("batch failed, storing it event by event", extra={"events": len(readable)})
        return [refused for one in readable for refused in await _store_all([one], database, bus)]
    return []


async def _store_patiently(arrivals: Sequence[Arrival], database: asyncpg.Pool, bus: Bus) -> None:
    """Try until Postgres is there: the batch is kept, not given back."""
    pause = 0.1
    while True:
        try:
            async with database.acquire(timeout=10) as connection:
                await store(connection, arrivals, bus)
                return
        except AWAY as error:
            logger.warning("batch waits", extra={"events": len(arrivals), "error": repr(error), "pause_s": pause})
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE_S, pause * 2)

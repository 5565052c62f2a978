"""How a worker says what happened: stamped with its run, in order, and the last word until it is heard."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID, uuid4

from msgspec import Struct

from events.benchmark import Pool
from events.bus import BrokerUnavailable, Bus, Delivery, OutcomeUnknown, Unroutable
from events.messages import AnyRunEvent, BenchmarkCancelled, TerminalEvent, type_of

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
BROKER_TROUBLE = (BrokerUnavailable, OutcomeUnknown, Unroutable)

Fact = TypeVar("Fact", bound=AnyRunEvent | BenchmarkCancelled)


class WorkerIdentity(Struct, frozen=True, kw_only=True):
    """Who speaks; the same as long as the process lives."""

    worker_id: str
    host: str
    pid: int
    pool: Pool
    hardware: dict[str, Any]
    version: str
    started_at: datetime


class RunIdentity(Struct, frozen=True, kw_only=True):
    """The run that an event belongs to: this execution, `run_id`, of this attempt of that request."""

    job_id: UUID
    request_id: UUID
    attempt: int
    run_id: UUID


class Report(Protocol):
    """Says what happens in one run. Each call publishes the run's next event, or raises one of BROKER_TROUBLE."""

    async def __call__(self, fact: type[AnyRunEvent], **fields: Any) -> None: ...

    def stamp(self, fact: type[Fact], **fields: Any) -> Fact:
        """The run's next event, not published."""


class RunReport:
    """Counts the events of a run from 0. Once closed it says nothing more: somebody else has the job."""

    def __init__(self, bus: Bus, run: RunIdentity) -> None:
        self._bus = bus
        self._run = run
        self._next = 0
        self._closed = False
        self._in_order = asyncio.Lock()

    async def __call__(self, fact: type[AnyRunEvent], **fields: Any) -> None:
        async with self._in_order:
            if self._closed:
                return
            event = self.stamp(fact, **fields)
            self._next += 1
            await self._bus.publish(event)

    def stamp(self, fact: type[Fact], **fields: Any) -> Fact:
        run = self._run
        return fact(
            job_id=run.job_id,
            request_id=run.request_id,
            attempt=run.attempt,
            run_id=run.run_id,
            seq=self._next,
            **fields,
        )

    def close(self) -> None:
        self._closed = True


async def confirmed(bus: Bus, event: TerminalEvent, delivery: Delivery) -> bool:
    """Publish a run's last word until the broker confirms it, always under one id; False if the delivery was lost."""
    event_id, pause = uuid4(), FIRST_PAUSE_S
    while not delivery.lost.is_set():
        try:
            await bus.publish(event, event_id=event_id)
        except BROKER_TROUBLE as error:
            logger.warning("broker did not confirm yet", extra={"type": type_of(event), "error": repr(error)})
        else:
            return True
        await happens(delivery.lost, within=pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    return False


async def until_available(bus: Bus, delivery: Delivery) -> bool:
    """Wait until a run could be reported; False if the delivery is lost before."""
    while not bus.available:
        if await happens(delivery.lost, within=FIRST_PAUSE_S):
            return False
    return not delivery.lost.is_set()


async def happens(event: asyncio.Event, within: float) -> bool:
    """Wait for the event, but no longer than that many seconds."""
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


def now() -> datetime:
    return datetime.now(UTC)

"""How facts travel: what a process may ask of a bus, whichever carries it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from msgspec import Struct

from events.envelope import Envelope, Undecodable, decode
from events.messages import AnyEvent

logger = logging.getLogger(__name__)


class BrokerUnavailable(Exception):
    """Nothing was sent: the broker is known to be away or blocked."""


class OutcomeUnknown(Exception):
    """It was sent and never confirmed: the broker may have it. Sending it again with the same id is safe."""


class Unroutable(Exception):
    """The broker has no queue for it, and returned it."""


class Settlement(Enum):
    """What becomes of a message once it was handled. Park: keep it aside, with the reason, for a person."""

    ACK = "ack"
    REQUEUE = "requeue"
    PARK = "park"


class Delivery(Protocol):
    """A message that is ours until it is settled, or until `lost` is set: then the broker gives it to somebody else.

    `attempt` counts from 1 how often the broker has given the message to a consumer.
    """

    body: bytes
    queue: str
    attempt: int
    lost: asyncio.Event

    async def settle(self, settlement: Settlement, reason: str = "") -> None:
        """Without effect on a lost delivery. To park is to publish to the dead letters first, confirmed."""


class Subscription(Protocol):
    """Deliveries of one queue, in order; goes on by itself after the broker was away."""

    async def next(self) -> Delivery: ...

    async def next_batch(self, limit: int) -> list[Delivery]:
        """At least one, and whatever else has arrived, up to `limit`."""

    async def acknowledge_batch(self, deliveries: list[Delivery]) -> None:
        """Acknowledge these at once; those that are lost come again."""

    async def take_no_more(self) -> None:
        """From now on nothing arrives; what is held stays ours until it is settled."""


class Queue(Struct, frozen=True, kw_only=True):
    """A queue of the topology. A private one lives and ends with the connection that reads it."""

    name: str
    bindings: tuple[str, ...] = ()
    arguments: dict[str, Any] = {}
    private: bool = False


class Bus(Protocol):
    @property
    def available(self) -> bool:
        """Could an event be published now? False while the broker is away, or blocked by an alarm."""

    async def publish(self, event: AnyEvent, *, event_id: UUID | None = None) -> UUID:
        """Return the event's id once the broker has confirmed it: persistent, and in every queue that is bound.

        Raises BrokerUnavailable, OutcomeUnknown or Unroutable. The same id may be published again.
        """

    def subscribe(self, queue: Queue, prefetch: int) -> AbstractAsyncContextManager[Subscription]: ...


Handler = Callable[[Envelope, AnyEvent, Delivery], Awaitable[Settlement]]
OnUndecodable = Callable[[Undecodable, Delivery], Awaitable[None]]


async def handle(delivery: Delivery, handler: Handler, on_undecodable: OnUndecodable | None = None) -> None:
    """Decode, handle and settle one delivery. The one place where a message is settled by its outcome.

    A body that is no event is parked, after `on_undecodable` had its say; an error that nobody named gives the
    message back for another attempt.
    """
    try:
        settlement, reason = await _outcome(delivery, handler, on_undecodable)
    except Exception as error:  # the one function that settles messages
        logger.exception("message could not be handled", extra={"queue": delivery.queue, "attempt": delivery.attempt})
        settlement, reason = Settlement.REQUEUE, repr(error)
    await delivery.settle(settlement, reason)


async def _outcome(
    delivery: Delivery, handler: Handler, on_undecodable: OnUndecodable | None
) -> tuple[Settlement, str]:
    try:
        envelope, event = decode(delivery.body)
        return await handler(envelope, event, delivery), ""
    except Undecodable as error:
        if on_undecodable is not None:
            await on_undecodable(error, delivery)
        return Settlement.PARK, f"undecodable: {error}"

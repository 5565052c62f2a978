"""The bus in memory, for fast tests: it publishes, delivers, settles and redelivers as the real one does."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

from events.bus import BrokerUnavailable, Delivery, Queue, Settlement, Unroutable
from events.bus.topology import DEAD, QUEUES
from events.envelope import encode, routing_key
from events.messages import AnyEvent


class MemoryQueue:
    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.waiting: deque[tuple[bytes, int]] = deque()
        self.changed = asyncio.Event()

    def takes(self, key: str) -> bool:
        return any(binding in ("#", key) for binding in self.queue.bindings)

    def put(self, body: bytes) -> None:
        self.waiting.append((body, 1))
        self.changed.set()

    def give_back(self, body: bytes, attempt: int) -> None:
        self.waiting.appendleft((body, attempt + 1))
        self.changed.set()


class MemoryDelivery:
    def __init__(self, subscription: "MemorySubscription", body: bytes, attempt: int) -> None:
        self.body = body
        self.attempt = attempt
        self.queue = subscription.source.queue.name
        self.lost = asyncio.Event()
        self._subscription = subscription

    async def settle(self, settlement: Settlement, reason: str = "") -> None:
        self._subscription.settle(self, settlement, reason)


class MemorySubscription:
    def __init__(self, bus: "MemoryBus", source: MemoryQueue, prefetch: int) -> None:
        self.source = source
        self._bus = bus
        self._prefetch = prefetch
        self._open: list[MemoryDelivery] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def next(self) -> Delivery:
        return (await self.next_batch(1))[0]

    async def next_batch(self, limit: int) -> list[Delivery]:
        batch: list[Delivery] = []
        while not batch:
            while self._may_take() and len(batch) < limit:
                batch.append(self._take())
            if not batch:
                self.source.changed.clear()
                await self.source.changed.wait()
        return batch

    async def acknowledge_batch(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            await delivery.settle(Settlement.ACK)

    async def take_no_more(self) -> None:
        self._prefetch = 0

    def settle(self, delivery: MemoryDelivery, settlement: Settlement, reason: str) -> None:
        if settlement is Settlement.PARK:
            self._bus.parked.append((delivery.body, reason))
            self._bus.queues[DEAD.name].put(delivery.body)
        if delivery not in self._open:
            return
        self._open.remove(delivery)
        if settlement is Settlement.REQUEUE:
            self.source.give_back(delivery.body, delivery.attempt)
        self.source.changed.set()

    def lose_all(self) -> None:
        """What a lost connection does: every open delivery goes back, counted."""
        for delivery in reversed(self._open):
            delivery.lost.set()
            self.source.give_back(delivery.body, delivery.attempt)
        self._open.clear()

    def _may_take(self) -> bool:
        return bool(self.source.waiting) and len(self._open) < self._prefetch

    def _take(self) -> MemoryDelivery:
        delivery = MemoryDelivery(self, *self.source.waiting.popleft())
        self._open.append(delivery)
        return delivery


class MemoryBus:
    """`published` holds every event with its id; set `available` to False to take the broker away."""

    def __init__(self, source: str = "memory") -> None:
        self.available = True
        self.published: list[tuple[UUID, AnyEvent]] = []
        self.parked: list[tuple[bytes, str]] = []
        self.queues = {queue.name: MemoryQueue(queue) for queue in QUEUES}
        self._source = source
        self._subscriptions: list[MemorySubscription] = []

    @property
    def events(self) -> list[AnyEvent]:
        return [event for _, event in self.published]

    async def publish(self, event: AnyEvent, *, event_id: UUID | None = None) -> UUID:
        if not self.available:
            raise BrokerUnavailable("the broker is down")
        event_id = event_id or uuid4()
        body = encode(event, event_id=event_id, source=self._source, time=datetime.now(UTC))
        self.put(body, routing_key(event))
        self.published.append((event_id, event))
        return event_id

    def put(self, body: bytes, key: str) -> None:
        """Deliver raw bytes, as any stranger on the exchange could."""
        takers = [queue for queue in self.queues.values() if queue.takes(key)]
        if not takers:
            raise Unroutable(f"no queue takes {key}")
        for queue in takers:
            queue.put(body)

    def drop_connections(self) -> None:
        for subscription in self._subscriptions:
            subscription.lose_all()

    @asynccontextmanager
    async def subscribe(self, queue: Queue, prefetch: int) -> AsyncIterator[MemorySubscription]:
        source = self.queues.setdefault(queue.name, MemoryQueue(queue))
        subscription = MemorySubscription(self, source, prefetch)
        self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            subscription.lose_all()
            self._subscriptions.remove(subscription)
            if queue.private:
                del self.queues[queue.name]

"""The bus over RabbitMQ: every publish confirmed, every delivery settled once, every loss noticed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

from aio_pika import DeliveryMode, Message
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractIncomingMessage,
    AbstractQueue,
    HeadersType,
)
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, PublishError

from events.bus import BrokerUnavailable, Delivery, OutcomeUnknown, Queue, Settlement, Unroutable
from events.bus.link import half_open_is_an_error, keep_connected, until_closed
from events.bus.topology import DEAD, declare, declare_queue
from events.envelope import CONTENT_TYPE, encode, routing_key
from events.messages import AnyEvent, type_of

logger = logging.getLogger(__name__)

PUBLISH_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 1.0
PARK_PAUSE_S = 1.0


class RabbitDelivery:
    def __init__(self, subscription: "RabbitSubscription", message: AbstractIncomingMessage) -> None:
        self.body = message.body
        self.queue = subscription.queue.name
        self.attempt = _attempt(message.headers)
        self.lost = asyncio.Event()
        self._subscription = subscription
        self._message = message

    async def settle(self, settlement: Settlement, reason: str = "") -> None:
        if settlement is Settlement.PARK and not await self._parked(reason):
            settlement = Settlement.REQUEUE
        self._subscription.forget([self])
        if self.lost.is_set():
            return
        try:
            if settlement is Settlement.REQUEUE:
                await self._message.reject(requeue=True)  # a nack is not counted as an attempt from 4.3 on
            else:
                await self._message.ack()
        except CONNECTION_EXCEPTIONS as error:
            logger.warning("message was lost before it was settled", extra={"queue": self.queue, "error": str(error)})
            self.lost.set()

    async def acknowledge_up_to_here(self) -> None:
        try:
            await self._message.ack(multiple=True)
        except CONNECTION_EXCEPTIONS as error:
            logger.warning("batch was lost before it was settled", extra={"queue": self.queue, "error": str(error)})

    async def _parked(self, reason: str) -> bool:
        try:
            await self._subscription.bus.park(self._message, self.queue, reason)
        except (BrokerUnavailable, OutcomeUnknown) as error:
            logger.warning("message could not be parked yet", extra={"queue": self.queue, "error": str(error)})
            await asyncio.sleep(PARK_PAUSE_S)
            return False
        return True


class RabbitSubscription:
    """Holds what has arrived and not been asked for. At the end of a session it forgets all that: it comes again."""

    def __init__(self, bus: "RabbitBus", queue: Queue, prefetch: int) -> None:
        self.bus = bus
        self.queue = queue
        self._prefetch = prefetch
        self._arrived: asyncio.Queue[RabbitDelivery] = asyncio.Queue()
        self._open: set[RabbitDelivery] = set()
        self._cancel: Callable[[], Awaitable[object]] | None = None
        self._finished = False
        self.reading = asyncio.Event()

    async def next(self) -> Delivery:
        return await self._arrived.get()

    async def next_batch(self, limit: int) -> list[Delivery]:
        batch: list[Delivery] = [await self._arrived.get()]
        while len(batch) < limit and not self._arrived.empty():
            batch.append(self._arrived.get_nowait())
        return batch

    async def acknowledge_batch(self, deliveries: list[Delivery]) -> None:
        alive = [d for d in deliveries if isinstance(d, RabbitDelivery) and not d.lost.is_set()]
        if alive:
            await alive[-1].acknowledge_up_to_here()
            self.forget(alive)

    def forget(self, deliveries: list[RabbitDelivery]) -> None:
        self._open.difference_update(deliveries)

    async def serve(self, connection: AbstractConnection) -> None:
        """One session: declare, read, and at its end tell everybody who holds a delivery that it is lost."""
        ended = asyncio.Event()
        channel = await connection.channel(publisher_confirms=False)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: ended.set())
        try:
            exchange = await declare(channel)
            await channel.set_qos(prefetch_count=self._prefetch)
            queue = await declare_queue(channel, exchange, self.queue)
            await self._read(queue)
            await until_closed(connection, channel, ended)
        finally:
            self.reading.clear()
            self._cancel = None
            self._lose_all()

    async def take_no_more(self) -> None:
        self._finished = True
        if self._cancel is not None:
            with suppress(*CONNECTION_EXCEPTIONS):  # a lost link brings nothing more either
                await self._cancel()

    async def _read(self, queue: AbstractQueue) -> None:
        if self._finished:
            return
        tag = await queue.consume(self._arrive)
        self._cancel = partial(queue.cancel, tag)
        self.reading.set()

    async def _arrive(self, message: AbstractIncomingMessage) -> None:
        delivery = RabbitDelivery(self, message)
        self._open.add(delivery)
        self._arrived.put_nowait(delivery)

    def _lose_all(self) -> None:
        for delivery in self._open:
            delivery.lost.set()
        self._open.clear()
        while not self._arrived.empty():
            self._arrived.get_nowait()


class RabbitBus:
    """Publishes over one connection and reads each subscription over one of its own, so that none holds up another."""

    def __init__(self, url: str, source: str) -> None:
        self.url = url
        self._source = source
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._default: AbstractExchange | None = None
        self._connected = asyncio.Event()
        self._blocked = False
        self._probe: asyncio.Task[None] | None = None
        self._in_flight: dict[UUID, asyncio.Future[None]] = {}

    @property
    def available(self) -> bool:
        return self.state == "up"

    @property
    def state(self) -> str:
        if self._channel is None or self._exchange is None or self._channel.is_closed:
            return "down"
        return "blocked" if self._blocked else "up"

    @property
    def in_flight(self) -> int:
        """How many publishes wait for their confirm."""
        return len(self._in_flight)

    async def until_connected(self) -> None:
        await self._connected.wait()

    async def publish(self, event: AnyEvent, *, event_id: UUID | None = None) -> UUID:
        event_id = event_id or uuid4()
        now = datetime.now(UTC)
        message = Message(
            encode(event, event_id=event_id, source=self._source, time=now),
            content_type=CONTENT_TYPE,
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=str(event_id),
            type=type_of(event),
            timestamp=now,
        )
        await self._publish_alone(event_id, message, routing_key(event))
        return event_id

    async def park(self, message: AbstractIncomingMessage, queue: str, reason: str) -> None:
        """Keep a copy among the dead letters, and say in its headers where it was and why it is here."""
        logger.error("message parked", extra={"queue": queue, "message_id": message.message_id, "reason": reason})
        headers: HeadersType = {"x-parked-from": queue, "x-parked-reason": reason[:1000]}
        copy = Message(
            message.body,
            headers=headers,
            content_type=message.content_type,
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=str(uuid4()),
            type=message.type,
        )
        await self._send(self._default, copy, DEAD.name)

    @asynccontextmanager
    async def subscribe(self, queue: Queue, prefetch: int) -> AsyncIterator[RabbitSubscription]:
        subscription = RabbitSubscription(self, queue, prefetch)
        async with _in_background(keep_connected(self.url, f"{self._source} < {queue.name}", subscription.serve)):
            yield subscription

    async def serve(self, connection: AbstractConnection) -> None:
        """One session of the publishing link; nobody publishes before the topology stands."""
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        try:
            self._channel, self._exchange = channel, await declare(channel)
            self._default = channel.default_exchange
            self._connected.set()
            logger.info("broker is there", extra={"link": self._source})
            await until_closed(connection, channel, asyncio.Event())
        finally:
            self._connected.clear()
            self._channel = self._exchange = self._default = None

    async def _publish_alone(self, event_id: UUID, message: Message, key: str) -> None:
        """Two publishes of one id at once on one channel can be confirmed falsely, so the second waits."""
        while event_id in self._in_flight:
            await asyncio.wait([self._in_flight[event_id]])
        done = self._in_flight[event_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(self._exchange, message, key)
        finally:
            del self._in_flight[event_id]
            done.set_result(None)

    async def _send(self, exchange: AbstractExchange | None, message: Message, key: str) -> None:
        if exchange is None or not self.available:
            raise BrokerUnavailable(f"the broker is {self.state}")
        try:
            with half_open_is_an_error():
                await exchange.publish(message, key, mandatory=True, timeout=PUBLISH_TIMEOUT_S)
        except PublishError as error:
            raise Unroutable(f"no queue takes {key}") from error
        except TimeoutError as error:
            self._open_breaker()
            raise OutcomeUnknown("the broker did not confirm in time") from error
        except CONNECTION_EXCEPTIONS as error:
            raise OutcomeUnknown(f"the link to the broker was lost: {error}") from error

    def _open_breaker(self) -> None:
        self._blocked = True
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._close_breaker_once_confirmed())
            logger.warning("broker is blocked: a publish was not confirmed in time", extra={"link": self._source})

    async def _close_breaker_once_confirmed(self) -> None:
        """aiormq tells nobody that a connection is blocked; that a probe to no queue is confirmed says it is not."""
        while self._blocked:
            await asyncio.sleep(PROBE_INTERVAL_S)
            await self._connected.wait()
            self._blocked = not await self._is_probe_confirmed()
        logger.info("broker confirms again", extra={"link": self._source})

    async def _is_probe_confirmed(self) -> bool:
        if self._default is None:
            return False
        probe = Message(b"", message_id=str(uuid4()))
        try:
            with half_open_is_an_error():
                await self._default.publish(probe, "llmbench.probe", mandatory=False, timeout=PUBLISH_TIMEOUT_S)
        except (*CONNECTION_EXCEPTIONS, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)


@asynccontextmanager
async def open_bus(url: str, source: str) -> AsyncIterator[RabbitBus]:
    """A bus that connects in the background and goes on connecting; `source` names the process in every event."""
    bus = RabbitBus(url, source)
    async with _in_background(keep_connected(url, source, bus.serve)):
        try:
            yield bus
        finally:
            await bus.close()


@asynccontextmanager
async def _in_background(work: "asyncio._CoroutineLike[None]") -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _attempt(headers: HeadersType) -> int:
    """Quorum queues count deliveries; from 4.3 on, those that were only given back count as acquired."""
    counts = [headers.get(name) for name in ("x-delivery-count", "x-acquired-count")]
    return 1 + max(count if isinstance(count, int) else 0 for count in counts)

"""One suite for both buses: what the fast tests see is what RabbitMQ does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import aio_pika
import pytest

from events.bus import Bus, Delivery, Settlement, Subscription, Unroutable, handle
from events.bus.memory import MemoryBus
from events.bus.rabbit import RabbitBus, open_bus
from events.bus.topology import DEAD, PROJECTION, cancel_queue, pool_queue
from events.envelope import Envelope, decode
from events.messages import AnyEvent
from tests.builders import cancel_requested, progressed, requested, started
from tests.waiting import until


@pytest.fixture
def memory_bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
async def rabbit_bus(broker_url: str) -> AsyncIterator[RabbitBus]:
    async with open_bus(broker_url, "tests") as bus:
        await bus.until_connected()
        yield bus


@pytest.fixture(params=["memory_bus", "rabbit_bus"])
def bus(request: pytest.FixtureRequest) -> Bus:
    found: Bus = request.getfixturevalue(request.param)
    return found


async def next_event(subscription: Subscription) -> tuple[Delivery, AnyEvent]:
    async with asyncio.timeout(10):
        delivery = await subscription.next()
    return delivery, decode(delivery.body)[1]


async def test_what_is_published_is_delivered_in_order(bus: Bus) -> None:
    facts: list[AnyEvent] = [requested(), started(), progressed()]
    for fact in facts:
        await bus.publish(fact)

    async with bus.subscribe(PROJECTION, prefetch=10) as subscription:
        received = [(await next_event(subscription))[1] for _ in facts]

    assert received == facts


async def test_the_given_id_is_the_id_on_the_wire(bus: Bus) -> None:
    event_id = uuid4()
    await bus.publish(requested(), event_id=event_id)

    async with bus.subscribe(PROJECTION, prefetch=1) as subscription:
        delivery, _ = await next_event(subscription)

    assert decode(delivery.body)[0].id == event_id


async def test_a_request_waits_in_the_queue_of_its_pool_alone(bus: Bus) -> None:
    await bus.publish(requested(pool="gpu"))
    await bus.publish(requested(pool="cpu"))

    async with bus.subscribe(pool_queue("cpu"), prefetch=10) as subscription:
        delivery, event = await next_event(subscription)
        await delivery.settle(Settlement.ACK)

    assert event == requested(pool="cpu")


async def test_a_message_that_is_given_back_is_the_next_attempt(bus: Bus) -> None:
    await bus.publish(requested())

    attempts = []
    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        for _ in range(3):
            delivery, _ = await next_event(subscription)
            attempts.append(delivery.attempt)
            await delivery.settle(Settlement.REQUEUE)

    assert attempts == [1, 2, 3]


async def test_a_message_of_a_reader_that_went_away_is_the_next_attempt_of_another(bus: Bus) -> None:
    await bus.publish(requested())

    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        first, _ = await next_event(subscription)
    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        second, _ = await next_event(subscription)

    assert (first.attempt, second.attempt) == (1, 2)
    assert first.lost.is_set()


async def test_an_acknowledged_message_never_comes_again(bus: Bus) -> None:
    await bus.publish(requested())
    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        delivery, _ = await next_event(subscription)
        await delivery.settle(Settlement.ACK)

    await bus.publish(requested(body_hash="second"))
    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        _, event = await next_event(subscription)

    assert event == requested(body_hash="second")


async def test_a_reader_holds_no_more_than_its_prefetch(bus: Bus) -> None:
    for number in range(3):
        await bus.publish(requested(body_hash=str(number)))

    async with (
        bus.subscribe(pool_queue("cpu"), prefetch=1) as one,
        bus.subscribe(pool_queue("cpu"), prefetch=1) as other,
    ):
        held = [(await next_event(one))[1], (await next_event(other))[1]]

    assert len({event.body_hash for event in held if hasattr(event, "body_hash")}) == 2


async def test_a_reader_that_takes_no_more_keeps_what_it_holds_and_leaves_the_rest_uncounted(bus: Bus) -> None:
    for number in range(2):
        await bus.publish(requested(body_hash=str(number)))

    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as leaving:
        held, _ = await next_event(leaving)
        await leaving.take_no_more()
        await held.settle(Settlement.ACK)
        async with bus.subscribe(pool_queue("cpu"), prefetch=1) as staying:
            other, event = await next_event(staying)

    assert (event, other.attempt) == (requested(body_hash="1"), 1)


async def test_a_batch_takes_what_has_arrived_and_is_acknowledged_at_once(bus: Bus) -> None:
    for number in range(5):
        await bus.publish(progressed(seq=number))

    batch: list[Delivery] = []
    async with bus.subscribe(PROJECTION, prefetch=10) as subscription:
        while len(batch) < 5:
            batch += await subscription.next_batch(10)
        await subscription.acknowledge_batch(batch)
    await bus.publish(progressed(seq=5))
    async with bus.subscribe(PROJECTION, prefetch=10) as subscription:
        _, event = await next_event(subscription)

    assert event == progressed(seq=5)


async def test_a_private_queue_hears_only_what_it_is_bound_to(bus: Bus) -> None:
    async with bus.subscribe(cancel_queue("w1"), prefetch=10) as subscription:
        await until(lambda: subscription.reading.is_set())  # type: ignore[attr-defined]
        await bus.publish(started())
        await bus.publish(cancel_requested())
        _, event = await next_event(subscription)

    assert event == cancel_requested()


async def test_a_parked_message_is_among_the_dead_letters_and_gone_from_its_queue(bus: Bus) -> None:
    await bus.publish(requested())
    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        delivery, _ = await next_event(subscription)
        await delivery.settle(Settlement.PARK, "for the test")

    async with bus.subscribe(DEAD, prefetch=1) as dead:
        parked, event = await next_event(dead)

    assert event == requested()
    assert parked.body == delivery.body


Handler = Callable[[Envelope, AnyEvent, Delivery], Awaitable[Settlement]]


async def acknowledge(_envelope: Envelope, _event: AnyEvent, _delivery: Delivery) -> Settlement:
    return Settlement.ACK


async def fail(_envelope: Envelope, _event: AnyEvent, _delivery: Delivery) -> Settlement:
    raise ValueError("nobody named this")


async def test_an_error_that_nobody_named_gives_the_message_back(bus: Bus) -> None:
    await bus.publish(requested())

    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        await handle(await subscription.next(), fail)
        again, _ = await next_event(subscription)

    assert again.attempt == 2


async def test_a_body_that_is_no_event_is_parked() -> None:
    bus = MemoryBus()
    bus.put(b"nonsense", "benchmark.requested.v1.cpu")

    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
        await handle(await subscription.next(), acknowledge)

    assert [(body, reason.split(":")[0]) for body, reason in bus.parked] == [(b"nonsense", "undecodable")]
    assert not bus.queues[pool_queue("cpu").name].waiting


async def test_a_message_that_no_queue_takes_is_an_error(bus: Bus) -> None:
    if isinstance(bus, MemoryBus):
        bus.queues.clear()
    else:
        assert isinstance(bus, RabbitBus)
        await delete_queues(bus)

    with pytest.raises(Unroutable):
        await bus.publish(started())


async def delete_queues(bus: RabbitBus) -> None:
    async with await aio_pika.connect(bus.url) as connection:
        channel = await connection.channel()
        for name in ("llmbench.projection", "llmbench.replay"):
            await channel.queue_delete(name)

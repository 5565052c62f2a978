"""What only the real broker can show: losses, blocks, and a broker that comes back empty."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import aio_pika
import pytest

from events.bus import BrokerUnavailable, OutcomeUnknown
from events.bus.rabbit import RabbitBus, open_bus
from events.bus.topology import PROJECTION, REPLAY, pool_queue
from events.envelope import decode
from tests.builders import progressed, requested
from tests.relay import relay_to
from tests.servers import RunningBroker
from tests.waiting import until


@pytest.fixture
async def bus(broker_url: str) -> AsyncIterator[RabbitBus]:
    async with open_bus(broker_url, "tests") as bus:
        await bus.until_connected()
        yield bus


async def test_nothing_is_sent_while_the_broker_is_known_to_be_away() -> None:
    async with open_bus("amqp://guest:guest@127.0.0.1:9/", "tests") as bus:
        with pytest.raises(BrokerUnavailable, match="down"):
            await bus.publish(requested())


async def test_one_id_published_many_times_at_once_is_confirmed_each_time(bus: RabbitBus) -> None:
    event_id = uuid4()

    ids = await asyncio.gather(*(bus.publish(requested(), event_id=event_id) for _ in range(20)))

    assert set(ids) == {event_id}


async def test_a_lost_delivery_is_known_to_be_lost_and_comes_again(broker_url: str) -> None:
    async with relay_to(broker_url) as (url, relay), open_bus(url, "tests") as bus:
        await bus.until_connected()
        await bus.publish(requested())
        async with bus.subscribe(pool_queue("cpu"), prefetch=1) as subscription:
            first = await subscription.next()
            relay.cut()
            await asyncio.wait_for(first.lost.wait(), 10)
            second = await asyncio.wait_for(subscription.next(), 20)

    assert second.attempt == 2


async def test_a_link_that_is_lost_while_a_publish_waits_makes_the_outcome_unknown(broker_url: str) -> None:
    async with relay_to(broker_url) as (url, relay), open_bus(url, "tests") as bus:
        await bus.until_connected()
        relay.freeze()
        publishing = asyncio.create_task(bus.publish(requested()))
        await until(lambda: bus.in_flight)
        relay.cut()

        with pytest.raises(OutcomeUnknown):
            await publishing

        relay.thaw()
        await until(lambda: bus.available, timeout=20)
        await bus.publish(requested())


async def test_a_half_open_link_ends_a_publish_in_time(broker_url: str) -> None:
    async with relay_to(broker_url) as (url, relay), open_bus(url, "tests") as bus:
        await bus.until_connected()
        relay.freeze()

        with pytest.raises(OutcomeUnknown):
            await bus.publish(requested())

        assert not bus.available


async def test_after_a_half_open_link_events_are_published_again(broker_url: str) -> None:
    async with relay_to(f"{broker_url}?heartbeat=2") as (url, relay), open_bus(url, "tests") as bus:
        await bus.until_connected()
        relay.freeze()
        with pytest.raises(OutcomeUnknown):
            await bus.publish(requested())
        await until(lambda: bus.state == "down", timeout=30)
        relay.thaw()
        relay.cut()

        await until(lambda: bus.available, timeout=30)
        await bus.publish(requested())


async def test_a_link_that_goes_silent_while_it_declares_is_made_anew(broker_url: str) -> None:
    async with relay_to(f"{broker_url}?heartbeat=2") as (url, relay):
        relay.freeze_after(1500)
        async with open_bus(url, "tests") as bus:
            await until(lambda: relay.frozen)
            await until(lambda: relay.connections > 1, timeout=40)
            relay.thaw()
            await until(lambda: bus.available, timeout=30)


async def test_a_cancelled_publish_is_cancelled(bus: RabbitBus, broker_url: str) -> None:
    async with relay_to(broker_url) as (url, relay), open_bus(url, "tests") as slow:
        await slow.until_connected()
        relay.freeze()
        publishing = asyncio.create_task(slow.publish(requested()))
        await until(lambda: slow.in_flight)

        publishing.cancel()

        with pytest.raises(asyncio.CancelledError):
            await publishing


async def test_a_wiped_broker_gets_its_topology_again(bus: RabbitBus, broker_url: str) -> None:
    async with bus.subscribe(PROJECTION, prefetch=10) as subscription:
        async with await aio_pika.connect(broker_url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(PROJECTION.name)
        await until(lambda: not subscription.reading.is_set())
        await until(subscription.reading.is_set)
        await bus.publish(progressed())
        delivery = await asyncio.wait_for(subscription.next(), 10)

    assert decode(delivery.body)[1] == progressed()


async def test_what_was_published_before_can_be_replayed(bus: RabbitBus, broker_url: str) -> None:
    await bus.publish(progressed(seq=1))
    await bus.publish(progressed(seq=2))

    seen = []
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        queue = await channel.get_queue(REPLAY.name)
        async with queue.iterator(arguments={"x-stream-offset": "first"}, timeout=10) as messages:
            async for message in messages:
                seen.append(decode(message.body)[1])
                await message.ack()
                if len(seen) == 2:
                    break

    assert seen == [progressed(seq=1), progressed(seq=2)]


async def test_a_blocked_broker_makes_the_outcome_unknown_and_then_nothing_is_sent(
    bus: RabbitBus, broker: RunningBroker
) -> None:
    await broker.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).")
    try:
        with pytest.raises(OutcomeUnknown):
            await bus.publish(requested())
        with pytest.raises(BrokerUnavailable, match="blocked"):
            await bus.publish(requested())
    finally:
        await broker.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).")

    await until(lambda: bus.available, timeout=30)
    await bus.publish(requested())

"""Every exchange and queue of the service, with every argument explicit: the same on RabbitMQ 3.10 and 4.x."""

from typing import get_args

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

from events.benchmark import Pool
from events.bus import Queue
from events.messages import BenchmarkCancelRequested, BenchmarkRequested, type_of

EXCHANGE = "llmbench.events"


def _quorum(name: str, *bindings: str, delivery_limit: int, single_active_consumer: bool = False) -> Queue:
    """At-least-once dead-lettering needs overflow reject-publish; with no length limit nothing is ever rejected.

    `x-consumer-timeout` counts on RabbitMQ 4.3 and later; before, the broker's own `consumer_timeout` does.
    """
    return Queue(
        name=name,
        bindings=bindings,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": delivery_limit,
            "x-single-active-consumer": single_active_consumer,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD.name,
            "x-dead-letter-strategy": "at-least-once",
        },
    )


DEAD = Queue(name="llmbench.dead", arguments={"x-queue-type": "quorum"})
PROJECTION = _quorum("llmbench.projection", "#", delivery_limit=1_000_000, single_active_consumer=True)
REPLAY = Queue(
    name="llmbench.replay",
    bindings=("#",),
    arguments={
        "x-queue-type": "stream",
        "x-max-age": "7D",
        "x-max-length-bytes": 1_000_000_000,
        "x-stream-max-segment-size-bytes": 50_000_000,
    },
)


def pool_queue(pool: Pool) -> Queue:
    """Where the requests of a pool wait for one of its workers."""
    return _quorum(f"llmbench.inference.{pool}", f"{type_of(BenchmarkRequested)}.{pool}", delivery_limit=100)


def cancel_queue(worker_id: str) -> Queue:
    """Each worker hears of every cancel; what it misses while away, the projection says again."""
    return Queue(name=f"llmbench.cancel.{worker_id}", bindings=(type_of(BenchmarkCancelRequested),), private=True)


QUEUES = (DEAD, PROJECTION, REPLAY, *(pool_queue(pool) for pool in get_args(Pool)))


async def declare(channel: AbstractChannel) -> AbstractExchange:
    """Declare all that lasts. Run after every connect: a wiped broker comes back empty, and would drop what it gets."""
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    for queue in QUEUES:
        await declare_queue(channel, exchange, queue)
    return exchange


async def declare_queue(channel: AbstractChannel, exchange: AbstractExchange, queue: Queue) -> AbstractQueue:
    declared = await channel.declare_queue(
        queue.name,
        durable=not queue.private,
        exclusive=queue.private,
        auto_delete=False,
        arguments=queue.arguments or None,
    )
    for binding in queue.bindings:
        await declared.bind(exchange, binding)
    return declared

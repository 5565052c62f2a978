"""Somebody else's program, with somebody else's AMQP library: pika."""

import json
from typing import Any

import pika

from tests.journey.service import Service

TYPES = ["benchmark.requested.v1.cpu", "benchmark.started.v1", "benchmark.completed.v1"]


def take(url: str, queue: str, count: int, arguments: dict[str, Any] | None = None) -> list[tuple[Any, dict[str, Any]]]:
    """The next messages of a queue, as (properties, CloudEvent)."""
    taken = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=50)
        for method, properties, body in channel.consume(queue, inactivity_timeout=2, arguments=arguments):
            if method is None:
                break
            taken.append((properties, json.loads(body)))
            channel.basic_ack(method.delivery_tag)
            if len(taken) == count:
                break
        channel.cancel()
    return taken


def bind(url: str, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        for key in TYPES:
            channel.queue_bind(queue, "llmbench.events", key)


async def test_a_subscriber_sees_a_run_as_cloud_events_live(service: Service, broker_url: str) -> None:
    bind(broker_url, "somebody.else")
    service.start_worker()
    job_id = await service.submit()
    await service.result(job_id)

    taken = take(broker_url, "somebody.else", 3)

    assert [event["type"] for _, event in taken] == [
        "benchmark.requested.v1",
        "benchmark.started.v1",
        "benchmark.completed.v1",
    ]
    for properties, event in taken:
        assert (event["specversion"], event["subject"], event["data"]["job_id"]) == ("1.0", job_id, job_id)
        assert (properties.content_type, properties.delivery_mode) == ("application/cloudevents+json", 2)
        assert (properties.message_id, properties.type) == (event["id"], event["type"])


async def test_a_subscriber_that_comes_late_replays_the_past(service: Service, broker_url: str) -> None:
    service.start_worker()
    job_id = await service.submit()
    streamed = [event["data"] async for event in service.events(job_id)]

    everything = take(broker_url, "llmbench.replay", 10_000, {"x-stream-offset": "first"})

    replayed = [event["data"] for _, event in everything if event.get("subject") == job_id]
    assert replayed == streamed

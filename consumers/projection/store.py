"""One batch, one transaction: the log grows, the tables follow, and whoever listens is told."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

from msgspec import Struct

from consumers.projection import queries
from consumers.projection.fold import Folded, Job, cancelled_id
from events.bus import Bus
from events.envelope import Envelope
from events.messages import (
    AnyEvent,
    AnyJobEvent,
    BenchmarkCancelled,
    BenchmarkCancelRequested,
    CatalogueEvent,
    DatasetRegistered,
    DatasetRetired,
    JobEvent,
    ModelRegistered,
    ModelRetired,
    WorkerReported,
)


class Arrival(Struct, frozen=True):
    """An event and the envelope it came in."""

    envelope: Envelope
    event: AnyEvent


async def store(connection: queries.Connection, arrivals: Sequence[Arrival], bus: Bus) -> int:
    """Store what is new and return how many events that were. Storing the same again changes nothing.

    What follows from the batch is published before its commit: said twice rather than never. Raises what Postgres and
    the bus raise; then nothing is stored.
    """
    async with connection.transaction():
        await _store_reports(connection, arrivals)
        logged = [arrival for arrival in arrivals if not isinstance(arrival.event, WorkerReported)]
        if not logged:
            return 0
        head = await queries.lock_log(connection)
        fresh = await _unknown(connection, logged)
        if not fresh:
            return 0
        folded = await _append(connection, fresh, head)
        await _store_catalogue(connection, fresh)
        await _react(folded, bus)
        await queries.move_log(connection, head + len(fresh))
    return len(fresh)


async def _unknown(connection: queries.Connection, arrivals: Sequence[Arrival]) -> list[Arrival]:
    by_id: dict[UUID, Arrival] = {}
    for arrival in arrivals:
        by_id.setdefault(arrival.envelope.id, arrival)
    known = await queries.select_known_events(connection, list(by_id))
    return [arrival for event_id, arrival in by_id.items() if event_id not in known]


async def _append(connection: queries.Connection, arrivals: Sequence[Arrival], head: int) -> Folded:
    job_ids = {arrival.event.job_id for arrival in arrivals if isinstance(arrival.event, JobEvent)}
    folded = Folded(jobs=await queries.select_jobs(connection, list(job_ids)) if job_ids else {})
    rows = [_fold(folded, arrival, head + offset) for offset, arrival in enumerate(arrivals, start=1)]
    await queries.insert_events(connection, rows)
    if folded.jobs:
        await queries.upsert_jobs(connection, folded.jobs.values())
    if folded.runs:
        await queries.upsert_runs(connection, folded.runs.values())
    if folded.samples:
        await queries.insert_samples(connection, folded.samples)
    return folded


def _fold(folded: Folded, arrival: Arrival, position: int) -> tuple[Any, ...]:
    envelope, event = arrival.envelope, arrival.event
    job_id: UUID | None = None
    superseded = False
    if isinstance(event, get_args(AnyJobEvent)):
        job_id = event.job_id
        superseded = folded.fold(event, envelope.id, envelope.time, position)
    data = bytes(envelope.data).decode()
    return (position, envelope.id, job_id, envelope.type, envelope.time, superseded, data)


async def _store_reports(connection: queries.Connection, arrivals: Sequence[Arrival]) -> None:
    for arrival in arrivals:
        if isinstance(arrival.event, WorkerReported):
            await queries.upsert_worker(connection, arrival.event)


async def _store_catalogue(connection: queries.Connection, arrivals: Sequence[Arrival]) -> None:
    for arrival in arrivals:
        if isinstance(arrival.event, get_args(CatalogueEvent)):
            await _store_entry(connection, arrival.event)


async def _store_entry(connection: queries.Connection, event: CatalogueEvent) -> None:
    match event:
        case ModelRegistered():
            await queries.insert_model(connection, event.model, event.registered_at)
        case ModelRetired():
            await queries.retire_model(connection, event.model_id, event.retired_at)
        case DatasetRegistered():
            await queries.insert_dataset(connection, event.dataset, event.registered_at)
        case DatasetRetired():
            await queries.retire_dataset(connection, event.dataset_id, event.retired_at)


async def _react(folded: Folded, bus: Bus) -> None:
    for job in folded.cancellations():
        await publish_cancelled(job, bus)
    for job_id in folded.repeat_cancel:
        await bus.publish(BenchmarkCancelRequested(job_id=job_id, requested_at=datetime.now(UTC)))


async def publish_cancelled(job: Job, bus: Bus) -> None:
    """Say for a job that nobody runs that it is cancelled. Its state changes when that comes back as an event."""
    cancelled = BenchmarkCancelled(job_id=job.job_id, attempt=job.attempt, finished_at=datetime.now(UTC))
    await bus.publish(cancelled, event_id=cancelled_id(job))

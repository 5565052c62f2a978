"""CloudEvents 1.0 in structured JSON: how a fact looks on the wire."""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from events.messages import AnyEvent, BenchmarkRequested, JobEvent, WorkerReported, type_of

CONTENT_TYPE = "application/cloudevents+json"


class Undecodable(ValueError):
    """A body that is not an event of ours; `job_id` is set where it could still be read."""

    def __init__(self, reason: str, job_id: UUID | None = None, event_id: UUID | None = None) -> None:
        super().__init__(reason)
        self.job_id = job_id
        self.event_id = event_id


class Envelope(Struct, frozen=True, kw_only=True):
    """The attributes of CloudEvents around the data, which stays as it came until somebody asks."""

    specversion: str = "1.0"
    id: UUID
    source: str
    type: str
    subject: str | None = None
    time: datetime
    datacontenttype: str = "application/json"
    data: Raw


class Subject(Struct, frozen=True):
    job_id: UUID


class Trace(Struct, frozen=True):
    """What can be told of a message that is no event: enough to end its job."""

    id: UUID | None = None
    data: Subject | None = None


_encoder = msgspec.json.Encoder()
_envelopes = msgspec.json.Decoder(Envelope)
_events: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent, *, event_id: UUID, source: str, time: datetime) -> bytes:
    return _encoder.encode(
        Envelope(
            id=event_id,
            source=source,
            type=type_of(event),
            subject=subject_of(event),
            time=time,
            data=Raw(_encoder.encode(event)),
        )
    )


def decode(body: bytes) -> tuple[Envelope, AnyEvent]:
    """The envelope and the fact in it. Raises Undecodable."""
    try:
        envelope = _envelopes.decode(body)
        event = _events.decode(envelope.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _undecodable(body, str(error)) from error
    if type_of(event) != envelope.type:
        raise _undecodable(body, f"the envelope says {envelope.type!r} and its data says {type_of(event)!r}")
    return envelope, event


def subject_of(event: AnyEvent) -> str | None:
    """What the event is about: a job, else a worker or an entry of the catalogue."""
    match event:
        case JobEvent():
            return str(event.job_id)
        case WorkerReported():
            return event.worker_id
        case _:
            return None


def routing_key(event: AnyEvent) -> str:
    """The event's type; a request adds the pool that is to run it."""
    if isinstance(event, BenchmarkRequested):
        return f"{type_of(event)}.{event.pool}"
    return type_of(event)


def _undecodable(body: bytes, reason: str) -> Undecodable:
    try:
        trace = msgspec.json.decode(body, type=Trace)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Undecodable(reason)
    return Undecodable(reason, job_id=trace.data.job_id if trace.data else None, event_id=trace.id)

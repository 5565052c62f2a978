"""The log as Server-Sent Events: of one job until it is over, or of everything."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args
from uuid import UUID

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp
from msgspec import Meta, Struct

from app.parts import AnyRequest, Parts
from app.state import queries
from app.state.database import DatabaseUnavailable
from app.web.documentation import Header, documented
from app.web.problems import FieldError, Invalid, UnknownThing
from app.web.reading import Form, read_query, read_uuid
from app.web.stream import EventStream, Page, frame
from events.messages import AnyEvent, type_of

EVENT_STREAM = "text/event-stream"
PAGE = queries.PageLimits(events=200, stored_bytes=131_072, positions=20_000)
LAST_POSITION = 2**63 - 1

RESUME = Header("Last-Event-ID", "The `id` of the last event that was received: the stream goes on behind it.")
TYPES = tuple(type_of(kind) for kind in get_args(AnyEvent))

Position = Annotated[int, Meta(ge=0, le=LAST_POSITION, description="Where no Last-Event-ID header can be sent.")]


class StreamQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    last_event_id: Position | None = None


STREAM = Form(StreamQuery)


@get(
    "/benchmarks/{job_id:str}/events",
    operation_id="streamBenchmarkEvents",
    summary="Everything that happens to a job, as it happens",
    description="The whole history first, or what follows Last-Event-ID; then live. `event` is the event's type, `id` "
    "its position in the log, `data` its JSON. Ends behind the event that ends the job; 204 if that was received.",
    tags=["events"],
    opt=documented(
        query=StreamQuery,
        headers=(RESUME,),
        answers={200: {EVENT_STREAM: None}, 204: {}},
        raises=(UnknownThing, Invalid, DatabaseUnavailable),
    ),
)
async def stream_job(request: AnyRequest, job_id: FromPath[str], parts: NamedDependency[Parts]) -> ASGIApp:
    job, query = read_uuid("job_id", job_id), read_query(request, STREAM)

    async def read(after: int) -> Page:
        return await _read_job(parts, job, after) or Page(frames=b"", position=after, full=False, over=True)

    first = await _read_job(parts, job, _resume_at(request, query.last_event_id) or 0)
    if first is None:
        raise UnknownThing(f"there is no job {job}")
    if first.over and not first.frames:
        return ASGIResponse(status_code=204)
    return EventStream(first, read, parts.log, job)


async def _read_job(parts: Parts, job_id: UUID, after: int) -> Page | None:
    """None if there is no such job. One that only this app knows has a story to come."""
    accepted = parts.accepted.get(job_id)
    rows = await queries.select_events_of_job(parts.database, job_id, after, PAGE)
    if not rows:
        return Page(frames=b"", position=after, full=False, over=False) if accepted else None
    events = [row for row in rows if row["position"] is not None]
    full = _is_full(events)
    return Page(
        frames=_frames(events),
        position=events[-1]["position"] if events else after,
        full=full,
        over=rows[0]["outcome_position"] is not None and not full,
    )


class AllEventsQuery(StreamQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Annotated[tuple[str, ...], Meta(max_length=16, description="Only these types; may come repeatedly.")] = ()
    job_id: Annotated[UUID, Meta(description="Only of this job.")] | None = None


def types_rule(valid: Mapping[str, Any]) -> Iterator[FieldError]:
    if any(name not in TYPES for name in valid.get("type", ())):
        yield FieldError("type", f"is unknown; there are: {', '.join(TYPES)}", "not_supported")


ALL_EVENTS = Form(AllEventsQuery, types_rule)


@get(
    "/events",
    operation_id="streamEvents",
    summary="Everything that happens, as it happens",
    description="From now on, or from behind Last-Event-ID; 0 is the beginning.",
    tags=["events"],
    opt=documented(
        query=AllEventsQuery,
        headers=(RESUME,),
        answers={200: {EVENT_STREAM: None}},
        raises=(Invalid, DatabaseUnavailable),
    ),
)
async def stream_everything(request: AnyRequest, parts: NamedDependency[Parts]) -> ASGIApp:
    query = read_query(request, ALL_EVENTS)
    types = query.type or None

    async def read(after: int) -> Page:
        if query.job_id is None:
            return _page_of_all(await queries.select_events(parts.database, after, PAGE, types))
        return _page_of_all(await queries.select_events_about_job(parts.database, query.job_id, after, PAGE, types))

    after = _resume_at(request, query.last_event_id)
    return EventStream(await read(LAST_POSITION if after is None else after), read, parts.log, query.job_id)


def _page_of_all(rows: queries.Rows) -> Page:
    """Where the page is not full there is nothing more within its reach, whatever the filter left out."""
    events = [row for row in rows if row["position"] is not None]
    position = events[-1]["position"] if _is_full(events) else rows[0]["reach"]
    return Page(frames=_frames(events), position=position, full=position < rows[0]["head"], over=False)


def _is_full(events: queries.Rows) -> bool:
    return len(events) == PAGE.events or (len(events) > 0 and events[-1]["bytes"] >= PAGE.stored_bytes)


def _frames(events: queries.Rows) -> bytes:
    return b"".join(frame(row["position"], row["type"], row["data"]) for row in events)


def _resume_at(request: AnyRequest, queried: int | None) -> int | None:
    """The header, which a browser sends when it reconnects, wins over the query, which it repeats. Raises Invalid."""
    header = request.headers.get("last-event-id")
    if not header:
        return queried
    if not (header.isascii() and header.isdigit() and int(header[:20]) <= LAST_POSITION and len(header) < 20):
        raise Invalid([FieldError("Last-Event-ID", "is not the id of an event of ours")])
    return int(header)


ROUTES = (stream_job, stream_everything)

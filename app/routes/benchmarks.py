"""Submit a benchmark, find it again, and cancel it."""

import base64
import binascii
import hashlib
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args
from uuid import UUID, uuid4, uuid5

import asyncpg
import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Struct

from app.benchmark import EXAMPLE, FORM, BenchmarkRequest, spec_of
from app.job import BENCHMARKS, Job, JobPage, Outcome, Status, render_accepted, render_job, render_page
from app.parts import AnyRequest, Parts
from app.state import queries
from app.state.accepted import AcceptedJob
from app.state.database import DatabaseUnavailable
from app.state.fleet import choose_pool
from app.web.documentation import Header, documented
from app.web.problems import (
    BODY_PROBLEMS,
    FieldError,
    Invalid,
    JobFinished,
    KeyReused,
    SubmissionUncertain,
    UnknownModel,
    UnknownThing,
    UnsupportedOption,
)
from app.web.reading import JSON, Form, printable, read_body, read_query, read_uuid
from events.benchmark import ModelDefinition, Task
from events.bus import BrokerUnavailable, OutcomeUnknown
from events.messages import BenchmarkCancelRequested, BenchmarkRequested

STORED_WITHIN_S = 2.0
LONGEST_KEY = 255
KEYS = UUID("6d1f3a52-60a9-5e0b-9a35-0f9f3f1e6c3b")  # the namespace of Idempotency-Keys: to change it is to forget them

_canonical = msgspec.json.Encoder(order="sorted")


@post(
    "/benchmarks",
    status_code=202,
    operation_id="submitBenchmark",
    summary="Submit a benchmark",
    description="202 means kept: the broker has confirmed it. A GET of its `Location` finds it at once.",
    tags=["benchmarks"],
    opt=documented(
        headers=(Header("Idempotency-Key", "1 to 255 printable ASCII characters; same key and body, same job"),),
        body={JSON: BenchmarkRequest},
        example=EXAMPLE,
        answers={202: {JSON: Job}},
        answer_headers=(Header("Location", "Where the job is found"),),
        raises=(
            *BODY_PROBLEMS,
            UnsupportedOption,
            UnknownModel,
            KeyReused,
            BrokerUnavailable,
            SubmissionUncertain,
            DatabaseUnavailable,
        ),
    ),
)
async def submit_benchmark(request: AnyRequest, parts: NamedDependency[Parts]) -> Response[bytes]:
    key = _read_key(request)
    _, body = await read_body(request, JSON)
    asked = FORM.read(body)
    model = await _find_model(parts, asked.model_id)
    if key is None:
        return await _submit(parts, asked, model)
    return await _submit_once(parts, asked, model, key)


async def _submit(parts: Parts, asked: BenchmarkRequest, model: ModelDefinition) -> Response[bytes]:
    """Published, confirmed, and usually stored as well; where that is late, this app answers for the job until then."""
    event, event_id = _requested(parts, asked, model, uuid4()), uuid4()
    job = AcceptedJob(
        job_id=event.job_id,
        model_id=model.model_id,
        task=asked.task,
        labels=asked.labels,
        request=msgspec.json.encode(asked),
        created_at=event.requested_at,
        accepted_at=time.monotonic(),
    )
    with parts.log.expecting(event_id) as stored:
        await _publish(parts, event, event_id)
        if not stored.done():
            parts.accepted.add(job)
        await parts.log.stored(stored, STORED_WITHIN_S)
    return _accepted(job.job_id, render_accepted(job))


async def _submit_once(parts: Parts, asked: BenchmarkRequest, model: ModelDefinition, key: str) -> Response[bytes]:
    """The same key is the same job. Which body came first only the stored hash can tell, before and after."""
    job_id = uuid5(KEYS, key)
    event = _requested(parts, asked, model, job_id)
    event_id = uuid5(job_id, _canonical.encode(asked).decode())
    await parts.submissions.share(job_id, lambda: _request_once(parts, event, event_id))
    await _require_stored(parts, event)
    return _accepted(job_id, render_job(await queries.select_job(parts.database, job_id)))


async def _request_once(parts: Parts, event: BenchmarkRequested, event_id: UUID) -> None:
    with parts.log.expecting(event_id) as stored:
        if await queries.select_body_hash(parts.database, event.job_id) is None:
            await _publish(parts, event, event_id)
            await parts.log.stored(stored, STORED_WITHIN_S)


async def _require_stored(parts: Parts, event: BenchmarkRequested) -> None:
    try:
        body_hash = await queries.select_body_hash(parts.database, event.job_id)
    except DatabaseUnavailable:
        body_hash = None
    if body_hash is None:
        raise SubmissionUncertain("it was sent, and cannot be seen yet: repeat it with the same key", event.job_id)
    if body_hash != event.body_hash:
        raise KeyReused([FieldError("Idempotency-Key", f"belongs to job {event.job_id}, which had another body")])


async def _publish(parts: Parts, event: BenchmarkRequested, event_id: UUID) -> None:
    try:
        await parts.bus.publish(event, event_id=event_id)
    except OutcomeUnknown as error:
        raise SubmissionUncertain(f"the job may run or not: {error}", event.job_id) from error


def _requested(parts: Parts, asked: BenchmarkRequest, model: ModelDefinition, job_id: UUID) -> BenchmarkRequested:
    spec = spec_of(asked, model)
    return BenchmarkRequested(
        job_id=job_id,
        spec=spec,
        pool=choose_pool(spec, parts.fleet.expected_workers()),
        body_hash=hashlib.sha256(_canonical.encode(asked)).hexdigest(),
        requested_at=datetime.now(UTC),
    )


async def _find_model(parts: Parts, model_id: str) -> ModelDefinition:
    model = await parts.catalogue.model(model_id)
    if model is None:
        message = f"{printable(model_id)!r} is not in the catalogue; POST /api/v1/models registers a model"
        raise UnknownModel([FieldError("model_id", message, "unknown_model")])
    return model


def _read_key(request: AnyRequest) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise Invalid([FieldError("Idempotency-Key", f"must be 1 to {LONGEST_KEY} printable ASCII characters")])
    return key


def _accepted(job_id: UUID, job: bytes) -> Response[bytes]:
    return Response(job, media_type=JSON, headers={"Location": f"{BENCHMARKS}/{job_id}"})


@get(
    "/benchmarks/{job_id:str}",
    operation_id="getBenchmark",
    summary="The job, or its result",
    tags=["benchmarks"],
    opt=documented(answers={200: {JSON: Job}}, raises=(UnknownThing, Invalid, DatabaseUnavailable)),
)
async def get_benchmark(job_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[bytes]:
    return Response(await _find_job(parts, read_uuid("job_id", job_id)), media_type=JSON)


async def _find_job(parts: Parts, job_id: UUID) -> bytes:
    """As it is stored, else as this app accepted it: also while the database is away."""
    accepted = parts.accepted.get(job_id)
    try:
        rows = await queries.select_job(parts.database, job_id)
    except DatabaseUnavailable:
        if accepted is None:
            raise
        rows = ()
    if rows:
        parts.accepted.forget(job_id)
        return render_job(rows)
    if accepted is None:
        raise UnknownThing(f"there is no job {job_id}")
    return render_accepted(accepted)


@post(
    "/benchmarks/{job_id:str}/cancel",
    status_code=202,
    operation_id="cancelBenchmark",
    summary="Cancel a job",
    description="A queued job is cancelled at once, a running one as soon as its worker hears of it.",
    tags=["benchmarks"],
    opt=documented(
        answers={202: {JSON: Job}},
        raises=(UnknownThing, Invalid, JobFinished, BrokerUnavailable, OutcomeUnknown, DatabaseUnavailable),
    ),
)
async def cancel_benchmark(job_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[bytes]:
    job = read_uuid("job_id", job_id)
    await _require_no_outcome(parts, job, get_args(Outcome))
    event_id = uuid4()
    with parts.log.expecting(event_id) as stored:
        await parts.bus.publish(BenchmarkCancelRequested(job_id=job, requested_at=datetime.now(UTC)), event_id=event_id)
        await parts.log.stored(stored, STORED_WITHIN_S)
    await _require_no_outcome(parts, job, ("completed", "failed"))  # it may have ended in the meantime
    return Response(await _find_job(parts, job), media_type=JSON)


async def _require_no_outcome(parts: Parts, job_id: UUID, outcomes: Collection[Outcome]) -> None:
    """Raises JobFinished, or UnknownThing. Of a job that only this app knows there can be no outcome."""
    accepted = parts.accepted.get(job_id)
    try:
        rows = await queries.select_outcome(parts.database, job_id)
    except DatabaseUnavailable:
        if accepted is None:
            raise
        return
    if rows:
        parts.accepted.forget(job_id)
    elif accepted is None:
        raise UnknownThing(f"there is no job {job_id}")
    if rows and rows[0]["outcome"] in outcomes:
        raise JobFinished(f"job {job_id} is {rows[0]['outcome']}, and that is final")


class ListQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=200, description="Jobs a page.")] = 50
    cursor: Annotated[str, Meta(max_length=200, description="`next_cursor` of the page before.")] | None = None
    status: Status | None = None
    model_id: str | None = None
    task: Task | None = None
    device: Literal["cpu", "cuda"] | None = None
    created_after: Annotated[datetime, Meta(tz=True, description="RFC 3339, with an offset; exclusive.")] | None = None
    created_before: Annotated[datetime, Meta(tz=True, description="RFC 3339, with an offset; exclusive.")] | None = None
    label: Annotated[
        tuple[str, ...], Meta(max_length=16, description="`key:value` or `key=value`; may come repeatedly, for all.")
    ] = ()


def list_rule(valid: Mapping[str, Any]) -> Iterator[FieldError]:
    for name in ("created_after", "created_before"):
        moment = valid.get(name)
        if moment is not None and not 1970 <= moment.year < 9000:
            yield FieldError(name, "is not in a year that a job could have")
    if any(_label(text) is None for text in valid.get("label", ())):
        yield FieldError("label", "must be key:value or key=value")
    if valid.get("cursor") is not None and _position(valid["cursor"]) is None:
        yield FieldError("cursor", "is not a cursor of ours: take `next_cursor` of a page as it is")


LIST = Form(ListQuery, list_rule)


@get(
    "/benchmarks",
    operation_id="listBenchmarks",
    summary="All jobs, newest first",
    tags=["benchmarks"],
    opt=documented(query=ListQuery, answers={200: {JSON: JobPage}}, raises=(Invalid, DatabaseUnavailable)),
)
async def list_benchmarks(request: AnyRequest, parts: NamedDependency[Parts]) -> Response[bytes]:
    query = read_query(request, LIST)
    rows = await queries.select_jobs(
        parts.database,
        before=_position(query.cursor) if query.cursor else None,
        limit=query.limit + 1,
        status=query.status,
        model_id=query.model_id,
        task=query.task,
        device=query.device,
        created_after=query.created_after,
        created_before=query.created_before,
        labels=msgspec.json.encode(dict(filter(None, map(_label, query.label)))).decode(),
    )
    page = rows[: query.limit]
    next_cursor = _cursor(page[-1]) if len(rows) > len(page) else None
    return Response(render_page(page, next_cursor), media_type=JSON)


def _label(text: str) -> tuple[str, str] | None:
    """Whichever of `:` and `=` comes first divides the key from the value."""
    at = min((text.index(divider) for divider in ":=" if divider in text), default=0)
    return (text[:at], text[at + 1 :]) if at else None


def _cursor(row: asyncpg.Record) -> str:
    """Where a page ends: what follows is older, or as old with a lower id."""
    text = f"{row['created_at'].isoformat()} {row['job_id']}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[datetime, UUID] | None:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        created_at, job_id = text.split(" ")
        position = datetime.fromisoformat(created_at), UUID(job_id)
    except (binascii.Error, ValueError):
        return None
    return position if position[0].tzinfo is not None and 1970 <= position[0].year < 9000 else None


ROUTES = (submit_benchmark, list_benchmarks, get_benchmark, cancel_benchmark)

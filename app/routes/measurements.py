"""What was measured of a job: its samples, and the record of each iteration."""

import csv
import io
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Raw, Struct

from app.parts import AnyRequest, Parts
from app.state import queries
from app.state.database import DatabaseUnavailable
from app.web.documentation import documented
from app.web.problems import Invalid, UnknownThing
from app.web.reading import JSON, JSON_LINES, Form, read_query, read_uuid, wants
from events.result import Iteration, MetricSample, SampleSummary

CSV = "text/csv"
COLUMNS = ("offset_ms", "phase", "cpu_percent", "ram_bytes", "system_cpu_percent", "system_ram_bytes", "gpus")


class MetricsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_points: (
        Annotated[
            int,
            Meta(
                ge=2,
                le=100_000,
                description="At most so many samples, those with the least and the most CPU (from 4 on also RAM) of "
                "equal stretches of the run.",
            ),
        ]
        | None
    ) = None
    format: Annotated[Literal["json", "csv"], Meta(description="Instead of an Accept header.")] | None = None


class Metrics(Struct, frozen=True, kw_only=True):
    """`emitted` samples were taken and `stored` of them arrived; the summary does not depend on which.

    All null and empty before a run begins; the summary is there with the result.
    """

    job_id: UUID
    run_id: UUID | None
    attempt: int | None
    emitted: int
    stored: int
    interval_ms: int | None
    summary: SampleSummary | None
    samples: list[MetricSample]


METRICS = Form(MetricsQuery)


@get(
    "/benchmarks/{job_id:str}/metrics",
    operation_id="getMetrics",
    summary="The hardware samples of the run that speaks for the job",
    description="JSON, or CSV with `Accept: text/csv`.",
    tags=["measurements"],
    opt=documented(
        query=MetricsQuery,
        answers={200: {JSON: Metrics, CSV: None}},
        raises=(UnknownThing, Invalid, DatabaseUnavailable),
    ),
)
async def get_metrics(request: AnyRequest, job_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[bytes]:
    job, query = read_uuid("job_id", job_id), read_query(request, METRICS)
    run = await _measured_run(parts, job)
    samples = await _samples(parts, run, query.max_points)
    if query.format == "csv" or (query.format is None and wants(request, CSV)):
        return Response(_csv(samples), media_type=CSV)
    metrics = Metrics(
        job_id=job,
        run_id=run.get("run_id"),
        attempt=run.get("attempt"),
        emitted=run.get("samples_emitted") or 0,
        stored=run.get("samples_stored") or 0,
        interval_ms=run.get("interval_ms") and int(run["interval_ms"]),
        summary=_raw(run.get("summary")),
        samples=[_sample(sample) for sample in samples],
    )
    return Response(msgspec.json.encode(metrics), media_type=JSON)


async def _measured_run(parts: Parts, job_id: UUID) -> dict[str, Any]:
    """Nothing for a job that only this app knows yet. Raises UnknownThing."""
    accepted = parts.accepted.get(job_id)
    rows = await queries.select_measured_run(parts.database, job_id)
    if not rows and accepted is None:
        raise UnknownThing(f"there is no job {job_id}")
    return dict(rows[0]) if rows else {}


async def _samples(parts: Parts, run: dict[str, Any], max_points: int | None) -> queries.Rows:
    if run.get("run_id") is None:
        return ()
    if max_points is None or run["samples_stored"] <= max_points:
        return await queries.select_samples(parts.database, run["run_id"])
    ram_too = max_points >= 4
    buckets = max_points // (4 if ram_too else 2)
    return await queries.select_extreme_samples(parts.database, run["run_id"], buckets, ram_too)


def _sample(row: asyncpg.Record) -> MetricSample:
    return MetricSample(**{**row, "gpus": _raw(row["gpus"])})


def _csv(samples: Iterable[asyncpg.Record]) -> bytes:
    """One line a sample; what is known of its GPUs stands as JSON in the last column."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(samples)
    return text.getvalue().encode()


class IterationsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Annotated[Literal["json", "jsonl"], Meta(description="Instead of an Accept header.")] | None = None


class Iterations(Struct, frozen=True, kw_only=True):
    """One record a generation, warm-up included. Empty before the end of the run."""

    items: list[Iteration]


ITERATIONS = Form(IterationsQuery)


@get(
    "/benchmarks/{job_id:str}/iterations",
    operation_id="getIterations",
    summary="The record of each iteration, from which every figure can be recomputed",
    description="JSON, or JSON Lines with `Accept: application/jsonl`.",
    tags=["measurements"],
    opt=documented(
        query=IterationsQuery,
        answers={200: {JSON: Iterations, **dict.fromkeys(JSON_LINES)}},
        raises=(UnknownThing, Invalid, DatabaseUnavailable),
    ),
)
async def get_iterations(request: AnyRequest, job_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[bytes]:
    job, query = read_uuid("job_id", job_id), read_query(request, ITERATIONS)
    accepted = parts.accepted.get(job)
    rows = await queries.select_records(parts.database, job)
    if not rows and accepted is None:
        raise UnknownThing(f"there is no job {job}")
    records = (rows and rows[0]["records"]) or "[]"
    if query.format == "jsonl" or (query.format is None and wants(request, *JSON_LINES)):
        lines = b"".join(bytes(record) + b"\n" for record in msgspec.json.decode(records, type=list[Raw]))
        return Response(lines, media_type=JSON_LINES[0])
    return Response(msgspec.json.encode(Iterations(items=_raw(records))), media_type=JSON)


def _raw(stored: str | None) -> Any:
    """Stored JSON in the place of what it says."""
    return None if stored is None else Raw(stored.encode())


ROUTES = (get_metrics, get_iterations)

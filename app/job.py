"""How a job looks to those who ask for it: what was stored goes out as it is, without being read and written again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw, Struct

from app.benchmark import BenchmarkRequest
from app.state.accepted import AcceptedJob
from events.benchmark import FinishReason, Phase, Task
from events.messages import FailureCode
from events.result import Caution, Energy, HardwareMetrics, Observer, SampleSummary, Throughput, Timings

Outcome = Literal["completed", "failed", "cancelled"]
Status = Literal["queued", "running", "cancelling", Outcome]
RunState = Literal["running", "superseded", Outcome]
BENCHMARKS = "/api/v1/benchmarks"


class PublicHardware(Struct, frozen=True, kw_only=True):
    """Over the measured window; percentages of all logical cores, gigabytes of 10⁹ bytes."""

    cpu_usage_percent: float | None
    ram_usage_gb: float | None
    gpu_usage_percent: float | None
    vram_usage_gb: float | None


class Progress(Struct, frozen=True, kw_only=True):
    """Iteration `iteration` (from 1; 0 while loading) of `iterations` of this phase, and its tokens so far."""

    phase: Phase | None
    iteration: int | None
    iterations: int | None
    tokens: int | None


class JobError(Struct, frozen=True, kw_only=True):
    """Why there is no result. `details` holds the numbers of the reason."""

    code: FailureCode
    message: str
    details: dict[str, Any]


class JobRun(Struct, frozen=True, kw_only=True):
    """One execution. A superseded one does not speak for the job: another overtook it."""

    run_id: UUID
    attempt: int
    worker_id: str | None
    started_at: datetime | None
    finished_at: datetime | None
    state: RunState


class JobSamples(Struct, frozen=True, kw_only=True):
    """Samples taken, and samples stored; the summary is of all that were taken in the measured window."""

    emitted: int
    stored: int
    summary: SampleSummary | None


class Links(Struct, frozen=True):
    self: str
    cancel: str
    metrics: str
    iterations: str
    events: str


class JobSummary(Struct, frozen=True, kw_only=True):
    """A job in a list. What only a result has is null before the end."""

    job_id: UUID
    model: str | None
    task: Task | None
    duration: float | None = None
    tokens_generated: float | None = None
    output: str | None = None
    hardware_metrics: PublicHardware | None = None
    status: Status
    finish_reason: FinishReason | None = None
    attempt: int
    device: Literal["cpu", "cuda"] | None = None
    weights: Literal["pretrained", "random"] | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress | None = None
    labels: dict[str, str]
    warnings: list[Caution] = []
    error: JobError | None = None
    links: Links


class Job(JobSummary, frozen=True, kw_only=True):
    """A job, and its result once it is there. `reasons` says of each null in the result why there is no value."""

    prompt_tokens: int | None = None
    timings: Timings | None = None
    throughput: Throughput | None = None
    hardware: HardwareMetrics | None = None
    energy: Energy | None = None
    environment: dict[str, Any] | None = None
    observer: Observer | None = None
    sampling: dict[str, Any] | None = None
    reasons: dict[str, str] | None = None
    samples: JobSamples | None = None
    runs: list[JobRun] = []
    request: BenchmarkRequest | None


class JobPage(Struct, frozen=True, kw_only=True):
    """Newest first. `next_cursor` leads to the next page, and is null on the last one."""

    items: list[JobSummary]
    next_cursor: str | None


class StoredResult(Struct, frozen=True, kw_only=True):
    """The parts of a stored result, each as the JSON that it is."""

    duration: Raw
    tokens_generated: Raw
    prompt_tokens: Raw
    output: Raw
    finish_reason: Raw
    timings: Raw
    throughput: Raw
    energy: Raw
    observer: Raw
    samples: Raw
    environment: Raw
    sampling: Raw
    reasons: Raw


_spec_fields = [field.name for field in msgspec.structs.fields(BenchmarkRequest) if field.name != "model_id"]
_specs = msgspec.json.Decoder(msgspec.defstruct("StoredSpec", [(name, Raw, Raw(b"null")) for name in _spec_fields]))
_results = msgspec.json.Decoder(StoredResult)
_hardware = msgspec.json.Decoder(PublicHardware)
_encoder = msgspec.json.Encoder()


def render_accepted(job: AcceptedJob) -> bytes:
    """A job that this app accepted, and of which it knows no more."""
    return _encoder.encode(
        Job(
            job_id=job.job_id,
            model=job.model_id,
            task=job.task,
            status="queued",
            attempt=0,
            created_at=job.created_at,
            labels=job.labels,
            links=_links(job.job_id),
            request=_as_is(job.request),
        )
    )


def render_job(rows: Sequence[asyncpg.Record]) -> bytes:
    """From the rows of `select_job`."""
    row = rows[0]
    found = _found(row)
    return _encoder.encode(
        Job(
            **_summary(row, found),
            prompt_tokens=found.get("prompt_tokens"),
            timings=found.get("timings"),
            throughput=found.get("throughput"),
            hardware=_as_is(row["hardware_metrics"]),
            energy=found.get("energy"),
            environment=found.get("environment"),
            observer=found.get("observer"),
            sampling=found.get("sampling"),
            reasons=found.get("reasons"),
            samples=_samples(row, found),
            runs=[_run(run) for run in rows if run["run_id"] is not None],
            request=_request(row),
        )
    )


def render_page(rows: Sequence[asyncpg.Record], next_cursor: str | None) -> bytes:
    """From the rows of `select_jobs`."""
    items = [JobSummary(**_summary(row, _found(row))) for row in rows]
    return _encoder.encode(JobPage(items=items, next_cursor=next_cursor))


def _summary(row: asyncpg.Record, found: dict[str, Any]) -> dict[str, Any]:
    hardware = row["hardware_metrics"]
    return {
        "job_id": row["job_id"],
        "model": row["model_id"],
        "task": row["task"],
        "duration": found.get("duration"),
        "tokens_generated": found.get("tokens_generated"),
        "output": found.get("output"),
        "hardware_metrics": hardware and _hardware.decode(hardware),
        "status": row["status"],
        "finish_reason": found.get("finish_reason"),
        "attempt": row["attempt"],
        "device": row["device"],
        "weights": row["weights"],
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
        "progress": _progress(row),
        "labels": _as_is(row["labels"]),
        "warnings": _as_is(row["warnings"]) or [],
        "error": _as_is(row["failure"]) if row["outcome"] == "failed" else None,
        "links": _links(row["job_id"]),
    }


def _found(row: asyncpg.Record) -> dict[str, Any]:
    """The parts of the result; nothing where there is none."""
    if row["outcome"] != "completed" or row["result"] is None:
        return {}
    return msgspec.structs.asdict(_results.decode(row["result"]))


def _progress(row: asyncpg.Record) -> Progress | None:
    if row["outcome"] is not None or row["started_at"] is None:
        return None
    return Progress(phase=row["phase"], iteration=row["iteration"], iterations=row["iterations"], tokens=row["tokens"])


def _samples(row: asyncpg.Record, found: dict[str, Any]) -> JobSamples | None:
    if row["samples_emitted"] is None:
        return None
    return JobSamples(emitted=row["samples_emitted"], stored=row["samples_stored"], summary=found.get("samples"))


def _run(row: asyncpg.Record) -> JobRun:
    state: RunState = (row["run_outcome"] or row["outcome"] or "running") if row["speaks"] else "superseded"
    return JobRun(
        run_id=row["run_id"],
        attempt=row["run_attempt"],
        worker_id=row["worker_id"],
        started_at=row["run_started_at"],
        finished_at=row["run_finished_at"],
        state=state,
    )


def _request(row: asyncpg.Record) -> BenchmarkRequest | None:
    if row["spec"] is None:
        return None
    return BenchmarkRequest(model_id=row["model_id"], **msgspec.structs.asdict(_specs.decode(row["spec"])))


def _links(job_id: UUID) -> Links:
    job = f"{BENCHMARKS}/{job_id}"
    return Links(job, f"{job}/cancel", f"{job}/metrics", f"{job}/iterations", f"{job}/events")


def _as_is(stored: str | bytes | None) -> Any:
    """Stored JSON in the place of what it says: the declared types are for the reader and the documentation."""
    return None if stored is None else Raw(stored.encode() if isinstance(stored, str) else stored)

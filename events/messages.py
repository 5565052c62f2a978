"""Everything that can happen, as one closed union. The tag of each fact is its name on the wire."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct

from events.benchmark import BenchmarkSpec, DatasetDefinition, ModelDefinition, Phase, Pool
from events.result import BenchmarkResult, Caution, HardwareMetrics, Iteration, MetricSample

FailureCode = Literal[
    "model_unavailable",
    "prompt_too_long",
    "gpu_unavailable",
    "unsupported_option",
    "out_of_memory",
    "child_died",
    "engine_error",
    "timeout",
    "result_too_large",
    "attempts_exhausted",
    "undecodable_request",
]


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A fact. What was added later is ignored by those who do not know it."""


class JobEvent(Event, frozen=True, kw_only=True):
    job_id: UUID


class RunEvent(JobEvent, frozen=True, kw_only=True):
    """A fact of one execution, `run_id`: `seq` counts its events from 0, `request_id` is the request's event."""

    request_id: UUID
    attempt: int
    run_id: UUID
    seq: int


class BenchmarkRequested(JobEvent, frozen=True, kw_only=True, tag="benchmark.requested.v1"):
    """A benchmark was accepted. `body_hash` is the SHA-256 of the canonical body, for idempotency."""

    spec: BenchmarkSpec
    pool: Pool
    body_hash: str
    requested_at: datetime


class BenchmarkStarted(RunEvent, frozen=True, kw_only=True, tag="benchmark.started.v1"):
    """A run begins, with what it resolved; the weights themselves are loaded afterwards."""

    worker_id: str
    host: str
    pool: Pool
    device: Literal["cpu", "cuda"]
    weights: Literal["pretrained", "random"]
    revision: str | None
    dtype: str
    started_at: datetime


class BenchmarkProgressed(RunEvent, frozen=True, kw_only=True, tag="benchmark.progressed.v1"):
    """Where the run is: iteration `iteration` (from 1; 0 while loading) of `iterations` of this phase.

    `tokens` counts this iteration's so far; `text` is the output that is new since the last such event.
    """

    phase: Phase
    iteration: int
    iterations: int
    tokens: int
    text: str


class MetricSampled(RunEvent, frozen=True, kw_only=True, tag="metric.sampled.v1"):
    """The samples since the last such event. `emitted` counts all samples of the run, these included."""

    samples: tuple[MetricSample, ...]
    emitted: int


class BenchmarkCompleted(RunEvent, frozen=True, kw_only=True, tag="benchmark.completed.v1"):
    result: BenchmarkResult
    iterations: tuple[Iteration, ...]
    warnings: tuple[Caution, ...]
    device: Literal["cpu", "cuda"]
    weights: Literal["pretrained", "random"]
    samples_emitted: int
    finished_at: datetime


class BenchmarkFailed(RunEvent, frozen=True, kw_only=True, tag="benchmark.failed.v1"):
    """The run ended without a result, for a reason that we can name. `details` holds the numbers of the reason."""

    code: FailureCode
    message: str
    details: dict[str, Any]
    iterations: tuple[Iteration, ...]
    hardware_metrics: HardwareMetrics | None
    warnings: tuple[Caution, ...]
    samples_emitted: int
    finished_at: datetime


class BenchmarkCancelRequested(JobEvent, frozen=True, kw_only=True, tag="benchmark.cancel_requested.v1"):
    requested_at: datetime


class BenchmarkCancelled(JobEvent, frozen=True, kw_only=True, tag="benchmark.cancelled.v1"):
    """The job was cancelled: by the worker that ran it, or with no run at all by the projection."""

    attempt: int
    request_id: UUID | None = None
    run_id: UUID | None = None
    seq: int | None = None
    finished_at: datetime


class ModelRegistered(Event, frozen=True, kw_only=True, tag="model.registered.v1"):
    model: ModelDefinition
    registered_at: datetime


class ModelRetired(Event, frozen=True, kw_only=True, tag="model.retired.v1"):
    model_id: str
    retired_at: datetime


class DatasetRegistered(Event, frozen=True, kw_only=True, tag="dataset.registered.v1"):
    dataset: DatasetDefinition
    registered_at: datetime


class DatasetRetired(Event, frozen=True, kw_only=True, tag="dataset.retired.v1"):
    dataset_id: str
    retired_at: datetime


class WorkerReported(Event, frozen=True, kw_only=True, tag="worker.reported.v1"):
    """A worker lives: who it is, its hardware, and what it is doing. `stopping` is its last word."""

    worker_id: str
    host: str
    pid: int
    pool: Pool
    state: Literal["idle", "busy", "stopping"]
    job_id: UUID | None
    run_id: UUID | None
    hardware: dict[str, Any]
    version: str
    started_at: datetime
    reported_at: datetime


AnyRunEvent = BenchmarkStarted | BenchmarkProgressed | MetricSampled | BenchmarkCompleted | BenchmarkFailed
TerminalEvent = BenchmarkCompleted | BenchmarkFailed | BenchmarkCancelled
AnyJobEvent = BenchmarkRequested | BenchmarkCancelRequested | BenchmarkCancelled | AnyRunEvent
CatalogueEvent = ModelRegistered | ModelRetired | DatasetRegistered | DatasetRetired
AnyEvent = AnyJobEvent | CatalogueEvent | WorkerReported


def type_of(event: AnyEvent | type[AnyEvent]) -> str:
    """The event's name on the wire."""
    return str(event.__struct_config__.tag)

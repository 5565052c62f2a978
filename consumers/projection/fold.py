"""What a fact means for its job and its run: pure, so that the order of a run's facts cannot matter unseen.

A fact is superseded when its run does not speak for the job: another request, a lower attempt, an earlier run of the
same attempt, or a job that is over.
"""

from datetime import datetime
from typing import Any, assert_never
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct, field

from events.messages import (
    AnyJobEvent,
    AnyRunEvent,
    BenchmarkCancelled,
    BenchmarkCancelRequested,
    BenchmarkCompleted,
    BenchmarkFailed,
    BenchmarkProgressed,
    BenchmarkRequested,
    BenchmarkStarted,
    MetricSampled,
    TerminalEvent,
)
from events.result import MetricSample


class Job(Struct, kw_only=True):
    """A row of `jobs` while a batch is folded into it."""

    job_id: UUID
    created_at: datetime
    request_id: UUID | None = None
    body_hash: str | None = None
    spec: str | None = None
    model_id: str | None = None
    task: str | None = None
    pool: str | None = None
    labels: str = "{}"
    cancel_requested_at: datetime | None = None
    attempt: int = 0
    run_id: UUID | None = None
    run_started_at: datetime | None = None
    outcome: str | None = None
    outcome_event_id: UUID | None = None
    outcome_position: int | None = None
    finished_at: datetime | None = None


class Run(Struct, kw_only=True):
    """What a batch says of a run: whatever it does not say is null, and leaves the stored row as it is."""

    run_id: UUID
    job_id: UUID
    request_id: UUID
    attempt: int
    worker_id: str | None = None
    host: str | None = None
    device: str | None = None
    weights: str | None = None
    revision: str | None = None
    dtype: str | None = None
    started_at: datetime | None = None
    progress_seq: int = -1
    phase: str | None = None
    iteration: int | None = None
    iterations: int | None = None
    tokens: int | None = None
    samples_emitted: int = 0
    outcome: str | None = None
    finished_at: datetime | None = None
    result: str | None = None
    failure: str | None = None
    records: str | None = None
    hardware_metrics: str | None = None
    warnings: str | None = None


class Folded(Struct):
    """The rows that a batch changes, and what is to be said before it is committed."""

    jobs: dict[UUID, Job]
    runs: dict[UUID, Run] = field(default_factory=dict)
    samples: list[tuple[UUID, MetricSample]] = field(default_factory=list)
    repeat_cancel: set[UUID] = field(default_factory=set)

    def fold(self, event: AnyJobEvent, event_id: UUID, time: datetime, position: int) -> bool:
        """Take one fact in. Return whether it is superseded."""
        job = self.jobs.setdefault(event.job_id, Job(job_id=event.job_id, created_at=time))
        match event:
            case BenchmarkRequested():
                return _request(job, event, event_id)
            case BenchmarkCancelRequested():
                job.cancel_requested_at = job.cancel_requested_at or event.requested_at
                return False
            case BenchmarkCancelled(run_id=None) | BenchmarkCancelled(request_id=None):
                return not _accept(job, event, event_id, position)
            case _:
                return self._fold_run(job, event, event_id, position)

    def cancellations(self) -> list[Job]:
        """The jobs to cancel here and now: asked to end, and no worker has begun them."""
        return [job for job in self.jobs.values() if job.cancel_requested_at and not job.outcome and not job.run_id]

    def _fold_run(self, job: Job, event: AnyRunEvent | BenchmarkCancelled, event_id: UUID, position: int) -> bool:
        self._write_run(event)
        superseded = not _speaks(job, event)
        match event:
            case BenchmarkStarted():
                if job.outcome is not None and job.run_id != event.run_id:
                    self.repeat_cancel.add(job.job_id)
                if job.outcome is None and job.cancel_requested_at is not None and not superseded:
                    self.repeat_cancel.add(job.job_id)
            case BenchmarkCompleted() | BenchmarkFailed() | BenchmarkCancelled():
                return not _accept(job, event, event_id, position)
            case BenchmarkProgressed() | MetricSampled():
                pass
            case _:
                assert_never(event)
        return superseded

    def _write_run(self, event: AnyRunEvent | BenchmarkCancelled) -> None:
        assert event.run_id is not None  # noqa: S101 - the match in `fold` sees to it
        assert event.request_id is not None  # noqa: S101
        run = self.runs.setdefault(
            event.run_id,
            Run(run_id=event.run_id, job_id=event.job_id, request_id=event.request_id, attempt=event.attempt),
        )
        match event:
            case BenchmarkStarted():
                run.worker_id, run.host, run.device = event.worker_id, event.host, event.device
                run.weights, run.revision, run.dtype = event.weights, event.revision, event.dtype
                run.started_at = event.started_at
            case BenchmarkProgressed():
                _write_progress(run, event)
            case MetricSampled():
                run.samples_emitted = max(run.samples_emitted, event.emitted)
                self.samples.extend((event.run_id, sample) for sample in event.samples)
            case BenchmarkCompleted():
                _write_completed(run, event)
            case BenchmarkFailed():
                _write_failed(run, event)
            case BenchmarkCancelled():
                run.outcome, run.finished_at = "cancelled", event.finished_at
            case _:
                assert_never(event)


def cancelled_id(job: Job) -> UUID:
    """The id of the projection's own Cancelled: the same however often it is said for this attempt."""
    return uuid5(job.job_id, f"cancelled at attempt {job.attempt}")


def _request(job: Job, event: BenchmarkRequested, event_id: UUID) -> bool:
    if job.request_id is not None:
        return job.request_id != event_id
    job.request_id, job.body_hash, job.pool = event_id, event.body_hash, event.pool
    job.spec, job.labels = _json(event.spec), _json(event.spec.labels)
    job.model_id, job.task = event.spec.model.model_id, event.spec.task
    job.created_at = event.requested_at
    return False


def _speaks(job: Job, event: AnyRunEvent | BenchmarkCancelled) -> bool:
    """Does this run speak for the job? The latest-started run of the highest attempt does, until the job is over."""
    if job.request_id is not None and event.request_id != job.request_id:
        return False
    started_at = event.started_at if isinstance(event, BenchmarkStarted) else None
    if event.run_id == job.run_id:
        job.run_started_at = job.run_started_at or started_at
        return True
    overtaken = event.attempt < job.attempt or (event.attempt == job.attempt and not _later(started_at, job))
    if job.outcome is not None or overtaken:
        return False
    job.attempt, job.run_id, job.run_started_at = event.attempt, event.run_id, started_at
    return True


def _later(started_at: datetime | None, job: Job) -> bool:
    if job.run_id is None:
        return True
    return started_at is not None and (job.run_started_at is None or started_at > job.run_started_at)


def _accept(job: Job, event: TerminalEvent, event_id: UUID, position: int) -> bool:
    """A terminal fact counts if it is the first, and not of an attempt that another has overtaken."""
    strange = event.request_id is not None and job.request_id is not None and event.request_id != job.request_id
    if job.outcome is not None or event.attempt < job.attempt or strange:
        return False
    job.outcome = outcome_of(event)
    job.outcome_event_id, job.outcome_position, job.finished_at = event_id, position, event.finished_at
    job.attempt, job.run_id = event.attempt, event.run_id or job.run_id
    return True


def outcome_of(event: TerminalEvent) -> str:
    match event:
        case BenchmarkCompleted():
            return "completed"
        case BenchmarkFailed():
            return "failed"
        case BenchmarkCancelled():
            return "cancelled"
        case _:
            assert_never(event)


def _write_progress(run: Run, event: BenchmarkProgressed) -> None:
    if event.seq > run.progress_seq:
        run.progress_seq, run.phase, run.tokens = event.seq, event.phase, event.tokens
        run.iteration, run.iterations = event.iteration, event.iterations


def _write_completed(run: Run, event: BenchmarkCompleted) -> None:
    run.outcome, run.finished_at = "completed", event.finished_at
    run.device, run.weights = event.device, event.weights
    run.result, run.records, run.warnings = _json(event.result), _json(event.iterations), _json(event.warnings)
    run.hardware_metrics = _json(event.result.hardware_metrics)
    run.samples_emitted = max(run.samples_emitted, event.samples_emitted)


def _write_failed(run: Run, event: BenchmarkFailed) -> None:
    run.outcome, run.finished_at = "failed", event.finished_at
    run.failure = _json({"code": event.code, "message": event.message, "details": event.details})
    run.records, run.warnings = _json(event.iterations), _json(event.warnings)
    run.hardware_metrics = _json(event.hardware_metrics) if event.hardware_metrics else None
    run.samples_emitted = max(run.samples_emitted, event.samples_emitted)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()

"""Every statement of the projection. Rows come in as columns, so that a batch is one statement however long it is."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from consumers.projection.fold import Job, Run
from events.benchmark import DatasetDefinition, ModelDefinition
from events.messages import WorkerReported
from events.result import MetricSample

CHANNEL = "llmbench_log"

Connection = asyncpg.Connection | PoolConnectionProxy


async def lock_log(connection: Connection) -> int:
    """The last position. Whoever holds the row writes alone until its transaction ends."""
    return int(await connection.fetchval("SELECT position FROM log_head FOR UPDATE"))


async def move_log(connection: Connection, position: int) -> None:
    """Set the last position, and tell those who listen once this is committed."""
    await connection.execute(
        """
        WITH moved AS (UPDATE log_head SET position = $1 RETURNING position)
        SELECT pg_notify($2, position::text)
        FROM moved
        """,
        position,
        CHANNEL,
    )


async def select_known_events(connection: Connection, event_ids: Sequence[UUID]) -> set[UUID]:
    rows = await connection.fetch("SELECT event_id FROM events WHERE event_id = ANY($1::uuid[])", event_ids)
    return {row["event_id"] for row in rows}


async def select_jobs(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, Job]:
    rows = await connection.fetch(
        """
        SELECT jobs.job_id, jobs.request_id, body_hash, spec, model_id, task, pool, labels::text, created_at,
            cancel_requested_at, jobs.attempt, jobs.run_id, runs.started_at AS run_started_at,
            jobs.outcome, outcome_event_id, outcome_position, jobs.finished_at
        FROM jobs
        LEFT JOIN runs USING (run_id)
        WHERE jobs.job_id = ANY($1::uuid[])
        """,
        job_ids,
    )
    return {row["job_id"]: Job(**dict(row)) for row in rows}


async def insert_events(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    await connection.execute(
        """
        INSERT INTO events (position, event_id, job_id, type, time, superseded, data)
        SELECT position, event_id, job_id, type, time, superseded, data::json
        FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::boolean[], $7::text[])
            AS batch (position, event_id, job_id, type, time, superseded, data)
        """,
        *_columns(rows, 7),
    )


async def upsert_jobs(connection: Connection, jobs: Iterable[Job]) -> None:
    await connection.execute(
        """
        INSERT INTO jobs (job_id, request_id, body_hash, spec, model_id, task, pool, labels, created_at,
            cancel_requested_at, attempt, run_id, outcome, outcome_event_id, outcome_position, finished_at)
        SELECT job_id, request_id, body_hash, spec::json, model_id, task, pool, labels::jsonb, created_at,
            cancel_requested_at, attempt, run_id, outcome, outcome_event_id, outcome_position, finished_at
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::timestamptz[], $10::timestamptz[], $11::integer[], $12::uuid[], $13::text[], $14::uuid[],
            $15::bigint[], $16::timestamptz[])
            AS batch (job_id, request_id, body_hash, spec, model_id, task, pool, labels, created_at,
                cancel_requested_at, attempt, run_id, outcome, outcome_event_id, outcome_position, finished_at)
        ON CONFLICT (job_id) DO UPDATE SET
            request_id = EXCLUDED.request_id,
            body_hash = EXCLUDED.body_hash,
            spec = EXCLUDED.spec,
            model_id = EXCLUDED.model_id,
            task = EXCLUDED.task,
            pool = EXCLUDED.pool,
            labels = EXCLUDED.labels,
            created_at = EXCLUDED.created_at,
            cancel_requested_at = EXCLUDED.cancel_requested_at,
            attempt = EXCLUDED.attempt,
            run_id = EXCLUDED.run_id,
            outcome = EXCLUDED.outcome,
            outcome_event_id = EXCLUDED.outcome_event_id,
            outcome_position = EXCLUDED.outcome_position,
            finished_at = EXCLUDED.finished_at
        """,
        *_columns(
            [
                (
                    job.job_id,
                    job.request_id,
                    job.body_hash,
                    job.spec,
                    job.model_id,
                    job.task,
                    job.pool,
                    job.labels,
                    job.created_at,
                    job.cancel_requested_at,
                    job.attempt,
                    job.run_id,
                    job.outcome,
                    job.outcome_event_id,
                    job.outcome_position,
                    job.finished_at,
                )
                for job in jobs
            ],
            16,
        ),
    )


async def upsert_runs(connection: Connection, runs: Iterable[Run]) -> None:
    """Each column keeps what is known: facts of a run may come in any order, and more than once."""
    await connection.execute(
        """
        INSERT INTO runs (run_id, job_id, request_id, attempt, worker_id, host, device, weights, revision, dtype,
            started_at, heard_at, progress_seq, phase, iteration, iterations, tokens, samples_emitted,
            outcome, finished_at, result, failure, records, hardware_metrics, warnings)
        SELECT run_id, job_id, request_id, attempt, worker_id, host, device, weights, revision, dtype,
            started_at, now(), progress_seq, phase, iteration, iterations, tokens, samples_emitted,
            outcome, finished_at, result::json, failure::json, records::json, hardware_metrics::json, warnings::json
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::text[], $11::timestamptz[], $12::integer[], $13::text[], $14::integer[], $15::integer[],
            $16::integer[], $17::integer[], $18::text[], $19::timestamptz[], $20::text[], $21::text[], $22::text[],
            $23::text[], $24::text[])
            AS batch (run_id, job_id, request_id, attempt, worker_id, host, device, weights, revision, dtype,
                started_at, progress_seq, phase, iteration, iterations, tokens, samples_emitted,
                outcome, finished_at, result, failure, records, hardware_metrics, warnings)
        ON CONFLICT (run_id) DO UPDATE SET
            worker_id = coalesce(EXCLUDED.worker_id, runs.worker_id),
            host = coalesce(EXCLUDED.host, runs.host),
            device = coalesce(EXCLUDED.device, runs.device),
            weights = coalesce(EXCLUDED.weights, runs.weights),
            revision = coalesce(EXCLUDED.revision, runs.revision),
            dtype = coalesce(EXCLUDED.dtype, runs.dtype),
            started_at = coalesce(EXCLUDED.started_at, runs.started_at),
            heard_at = EXCLUDED.heard_at,
            progress_seq = greatest(EXCLUDED.progress_seq, runs.progress_seq),
            phase = CASE WHEN EXCLUDED.progress_seq > runs.progress_seq THEN EXCLUDED.phase ELSE runs.phase END,
            iteration = CASE
                WHEN EXCLUDED.progress_seq > runs.progress_seq THEN EXCLUDED.iteration ELSE runs.iteration END,
            iterations = CASE
                WHEN EXCLUDED.progress_seq > runs.progress_seq THEN EXCLUDED.iterations ELSE runs.iterations END,
            tokens = CASE WHEN EXCLUDED.progress_seq > runs.progress_seq THEN EXCLUDED.tokens ELSE runs.tokens END,
            samples_emitted = greatest(EXCLUDED.samples_emitted, runs.samples_emitted),
            outcome = coalesce(runs.outcome, EXCLUDED.outcome),
            finished_at = coalesce(runs.finished_at, EXCLUDED.finished_at),
            result = coalesce(runs.result, EXCLUDED.result),
            failure = coalesce(runs.failure, EXCLUDED.failure),
            records = coalesce(runs.records, EXCLUDED.records),
            hardware_metrics = coalesce(runs.hardware_metrics, EXCLUDED.hardware_metrics),
            warnings = coalesce(runs.warnings, EXCLUDED.warnings)
        """,
        *_columns([msgspec.structs.astuple(run) for run in runs], 24),
    )


async def insert_samples(connection: Connection, samples: Sequence[tuple[UUID, MetricSample]]) -> None:
    await connection.execute(
        """
        INSERT INTO samples (run_id, offset_ms, phase, cpu_percent, ram_bytes,
            system_cpu_percent, system_ram_bytes, gpus)
        SELECT run_id, offset_ms, phase, cpu_percent, ram_bytes, system_cpu_percent, system_ram_bytes, gpus::json
        FROM unnest($1::uuid[], $2::float8[], $3::text[], $4::float8[], $5::bigint[], $6::float8[], $7::bigint[],
            $8::text[])
            AS batch (run_id, offset_ms, phase, cpu_percent, ram_bytes, system_cpu_percent, system_ram_bytes, gpus)
        ON CONFLICT DO NOTHING
        """,
        *_columns(
            [
                (
                    run_id,
                    sample.offset_ms,
                    sample.phase,
                    sample.cpu_percent,
                    sample.ram_bytes,
                    sample.system_cpu_percent,
                    sample.system_ram_bytes,
                    msgspec.json.encode(sample.gpus).decode(),
                )
                for run_id, sample in samples
            ],
            8,
        ),
    )


async def insert_model(connection: Connection, model: ModelDefinition, registered_at: datetime) -> None:
    """The first definition of an id stands, until it is retired."""
    await connection.execute(
        """
        INSERT INTO models (model_id, definition, registered_at)
        VALUES ($1, $2, $3)
        ON CONFLICT (model_id) DO UPDATE
            SET definition = EXCLUDED.definition, registered_at = EXCLUDED.registered_at, retired_at = NULL
            WHERE models.retired_at < EXCLUDED.registered_at
        """,
        model.model_id,
        msgspec.json.encode(model).decode(),
        registered_at,
    )


async def select_model_ids(connection: Connection) -> set[str]:
    """Retired ones included."""
    return {row["model_id"] for row in await connection.fetch("SELECT model_id FROM models")}


async def select_dataset_ids(connection: Connection) -> set[str]:
    """Retired ones included."""
    return {row["dataset_id"] for row in await connection.fetch("SELECT dataset_id FROM datasets")}


async def retire_model(connection: Connection, model_id: str, retired_at: datetime) -> None:
    await connection.execute("UPDATE models SET retired_at = $2 WHERE model_id = $1", model_id, retired_at)


async def insert_dataset(connection: Connection, dataset: DatasetDefinition, registered_at: datetime) -> None:
    """The first definition of an id stands, until it is retired."""
    await connection.execute(
        """
        INSERT INTO datasets (dataset_id, description, row_count, rows, registered_at)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (dataset_id) DO UPDATE
            SET description = EXCLUDED.description, row_count = EXCLUDED.row_count, rows = EXCLUDED.rows,
                registered_at = EXCLUDED.registered_at, retired_at = NULL
            WHERE datasets.retired_at < EXCLUDED.registered_at
        """,
        dataset.dataset_id,
        dataset.description,
        len(dataset.rows),
        msgspec.json.encode(dataset.rows).decode(),
        registered_at,
    )


async def retire_dataset(connection: Connection, dataset_id: str, retired_at: datetime) -> None:
    await connection.execute("UPDATE datasets SET retired_at = $2 WHERE dataset_id = $1", dataset_id, retired_at)


async def upsert_worker(connection: Connection, report: WorkerReported) -> None:
    await connection.execute(
        """
        INSERT INTO workers (worker_id, report, reported_at, heard_at)
        VALUES ($1, $2, $3, now())
        ON CONFLICT (worker_id) DO UPDATE
            SET report = EXCLUDED.report, reported_at = EXCLUDED.reported_at, heard_at = EXCLUDED.heard_at
            WHERE workers.reported_at < EXCLUDED.reported_at
        """,
        report.worker_id,
        msgspec.json.encode(report).decode(),
        report.reported_at,
    )


async def select_jobs_of_silent_workers(connection: Connection, silence_s: float) -> list[UUID]:
    """Jobs to cancel whose worker has said nothing for so long, neither of the run nor of itself."""
    rows = await connection.fetch(
        """
        SELECT jobs.job_id
        FROM jobs
        LEFT JOIN runs USING (run_id)
        LEFT JOIN workers USING (worker_id)
        WHERE jobs.outcome IS NULL
            AND cancel_requested_at IS NOT NULL
            AND coalesce(greatest(runs.heard_at, workers.heard_at), '-infinity') < now() - $1 * interval '1 second'
        """,
        silence_s,
    )
    return [row["job_id"] for row in rows]


async def select_jobs_that_run_on(connection: Connection, after_s: float) -> list[UUID]:
    """Jobs that were to be cancelled so long ago, and have a run that has not ended."""
    rows = await connection.fetch(
        """
        SELECT job_id
        FROM jobs
        WHERE outcome IS NULL
            AND run_id IS NOT NULL
            AND cancel_requested_at < now() - $1 * interval '1 second'
        """,
        after_s,
    )
    return [row["job_id"] for row in rows]


async def delete_jobs_before(connection: Connection, days: float) -> int:
    """Forget jobs that have been over for so long, with all that was said of them. At most 1000 at a time."""
    return int(
        await connection.fetchval(
            """
            WITH forgotten AS (
                DELETE FROM jobs
                WHERE job_id IN (
                    SELECT job_id FROM jobs
                    WHERE outcome IS NOT NULL AND finished_at < now() - $1 * interval '1 day'
                    LIMIT 1000
                )
                RETURNING job_id
            ),
            forgotten_runs AS (
                DELETE FROM runs USING forgotten WHERE runs.job_id = forgotten.job_id RETURNING run_id
            ),
            forgotten_samples AS (
                DELETE FROM samples USING forgotten_runs WHERE samples.run_id = forgotten_runs.run_id
            ),
            forgotten_events AS (
                DELETE FROM events USING forgotten WHERE events.job_id = forgotten.job_id
            )
            SELECT count(*) FROM forgotten
            """,
            days,
        )
    )


async def delete_silent_workers(connection: Connection, days: float) -> None:
    await connection.execute("DELETE FROM workers WHERE heard_at < now() - $1 * interval '1 day'", days)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width

"""What the app asks the tables that the projection writes: one function a statement."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
from msgspec import Struct

from app.state.database import Database

Rows = Sequence[asyncpg.Record]

ALIVE_S = 30


async def select_log_head(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT position FROM log_head"))


async def select_log_entries(connection: asyncpg.Connection, after: int, limit: int) -> Rows:
    return await connection.fetch(
        """
        SELECT position, event_id, job_id, type
        FROM events
        WHERE position > $1
        ORDER BY position
        LIMIT $2
        """,
        after,
        limit,
    )


async def select_job(database: Database, job_id: UUID) -> Rows:
    """The job and the run that speaks for it, once for each of its runs; no row if there is no such job."""
    return await database.fetch(
        """
        SELECT
            jobs.job_id, jobs.status, jobs.model_id, jobs.task, jobs.labels, jobs.spec, jobs.body_hash,
            jobs.created_at, jobs.attempt, jobs.outcome, jobs.finished_at,
            said.started_at, said.device, said.weights, said.phase, said.iteration, said.iterations, said.tokens,
            said.result, said.failure, said.hardware_metrics, said.warnings, said.samples_emitted,
            (SELECT count(*) FROM samples WHERE samples.run_id = jobs.run_id) AS samples_stored,
            runs.run_id, runs.attempt AS run_attempt, runs.worker_id, runs.started_at AS run_started_at,
            runs.finished_at AS run_finished_at, runs.outcome AS run_outcome, runs.run_id = jobs.run_id AS speaks
        FROM jobs
        LEFT JOIN runs AS said ON said.run_id = jobs.run_id
        LEFT JOIN runs ON runs.job_id = jobs.job_id
        WHERE jobs.job_id = $1
        ORDER BY runs.attempt, runs.started_at
        """,
        job_id,
    )


async def select_body_hash(database: Database, job_id: UUID) -> str | None:
    rows = await database.fetch("SELECT body_hash FROM jobs WHERE job_id = $1", job_id)
    body_hash: str | None = rows[0]["body_hash"] if rows else None
    return body_hash


async def select_outcome(database: Database, job_id: UUID) -> Rows:
    return await database.fetch("SELECT outcome FROM jobs WHERE job_id = $1", job_id)


async def select_jobs(
    database: Database,
    *,
    before: tuple[datetime, UUID] | None,
    limit: int,
    status: str | None,
    model_id: str | None,
    task: str | None,
    device: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    labels: str,
) -> Rows:
    """A page of jobs, newest first, each with the run that speaks for it."""
    return await database.fetch(
        """
        SELECT
            jobs.job_id, jobs.status, jobs.model_id, jobs.task, jobs.labels, jobs.created_at, jobs.attempt,
            jobs.outcome, jobs.finished_at, runs.started_at, runs.device, runs.weights, runs.phase, runs.iteration,
            runs.iterations, runs.tokens, runs.result, runs.failure, runs.hardware_metrics, runs.warnings
        FROM jobs
        LEFT JOIN runs ON runs.run_id = jobs.run_id
        WHERE (jobs.created_at, jobs.job_id)
                < (coalesce($1, timestamptz 'infinity'), coalesce($2, uuid 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            AND ($4::text IS NULL OR jobs.status = $4)
            AND ($5::text IS NULL OR jobs.model_id = $5)
            AND ($6::text IS NULL OR jobs.task = $6)
            AND ($7::text IS NULL OR runs.device = $7)
            AND jobs.created_at > coalesce($8, timestamptz '-infinity')
            AND jobs.created_at < coalesce($9, timestamptz 'infinity')
            AND jobs.labels @> $10::jsonb
        ORDER BY jobs.created_at DESC, jobs.job_id DESC
        LIMIT $3
        """,
        *(before or (None, None)),
        limit,
        status,
        model_id,
        task,
        device,
        created_after,
        created_before,
        labels,
    )


async def select_measured_run(database: Database, job_id: UUID) -> Rows:
    """The run that speaks for the job, as far as its samples go; one row of nulls where it has none yet."""
    return await database.fetch(
        """
        SELECT
            runs.run_id, runs.attempt, runs.samples_emitted,
            jobs.spec -> 'sample_interval_ms' AS interval_ms, runs.result -> 'samples' AS summary,
            (SELECT count(*) FROM samples WHERE samples.run_id = jobs.run_id) AS samples_stored
        FROM jobs
        LEFT JOIN runs ON runs.run_id = jobs.run_id
        WHERE jobs.job_id = $1
        """,
        job_id,
    )


async def select_samples(database: Database, run_id: UUID) -> Rows:
    return await database.fetch(
        """
        SELECT offset_ms, phase, cpu_percent, ram_bytes, system_cpu_percent, system_ram_bytes, gpus
        FROM samples
        WHERE run_id = $1
        ORDER BY offset_ms
        """,
        run_id,
    )


async def select_extreme_samples(database: Database, run_id: UUID, buckets: int, ram_too: bool) -> Rows:
    """Of each bucket, the samples with the least and the most CPU, and with `ram_too` also those of RAM."""
    return await database.fetch(
        """
        WITH numbered AS (
            SELECT *, ntile($2) OVER (ORDER BY offset_ms) AS bucket
            FROM samples
            WHERE run_id = $1
        ),
        ranked AS (
            SELECT
                *,
                row_number() OVER (PARTITION BY bucket ORDER BY cpu_percent, offset_ms) AS least_cpu,
                row_number() OVER (PARTITION BY bucket ORDER BY cpu_percent DESC, offset_ms) AS most_cpu,
                row_number() OVER (PARTITION BY bucket ORDER BY ram_bytes, offset_ms) AS least_ram,
                row_number() OVER (PARTITION BY bucket ORDER BY ram_bytes DESC, offset_ms) AS most_ram
            FROM numbered
        )
        SELECT offset_ms, phase, cpu_percent, ram_bytes, system_cpu_percent, system_ram_bytes, gpus
        FROM ranked
        WHERE least_cpu = 1 OR most_cpu = 1 OR ($3 AND (least_ram = 1 OR most_ram = 1))
        ORDER BY offset_ms
        """,
        run_id,
        buckets,
        ram_too,
    )


async def select_records(database: Database, job_id: UUID) -> Rows:
    return await database.fetch(
        """
        SELECT runs.records
        FROM jobs
        LEFT JOIN runs ON runs.run_id = jobs.run_id
        WHERE jobs.job_id = $1
        """,
        job_id,
    )


class PageLimits(Struct, frozen=True, kw_only=True):
    """Where a page of events ends: behind so many, or behind the one with which it has so many bytes.

    Bytes are those of the table, which compresses what is large: nothing is unpacked only to be left out.
    """

    events: int
    stored_bytes: int
    positions: int


async def select_events_of_job(database: Database, job_id: UUID, after: int, limits: PageLimits) -> Rows:
    """What was said of the job, up to its outcome; one row without position if there is nothing more, none if no job.

    A single statement, so that the outcome and the events before it are seen at one moment.
    """
    return await database.fetch(
        """
        SELECT said.position, said.type, said.data, said.bytes, jobs.outcome_position
        FROM jobs
        LEFT JOIN LATERAL (
            SELECT *
            FROM (
                SELECT position, type, data, sum(pg_column_size(data)) OVER (ORDER BY position) AS bytes
                FROM (
                    SELECT position, type, data
                    FROM events
                    WHERE events.job_id = jobs.job_id
                        AND NOT superseded
                        AND position > $2
                        AND position <= coalesce(jobs.outcome_position, position)
                    ORDER BY position
                    LIMIT $3
                ) AS next
            ) AS measured
            WHERE bytes - pg_column_size(data) < $4
        ) AS said ON true
        WHERE jobs.job_id = $1
        ORDER BY said.position
        """,
        job_id,
        after,
        limits.events,
        limits.stored_bytes,
    )


async def select_events(database: Database, after: int, limits: PageLimits, types: Sequence[str] | None) -> Rows:
    """What was said up to `reach`, beside the head of the log; one row without position if that is nothing."""
    return await database.fetch(
        """
        SELECT said.position, said.type, said.data, said.bytes, log.reach, log.head
        FROM (
            SELECT position AS head, $1 + least(position - $1, $4) AS reach  -- $1 may be the largest bigint
            FROM log_head
        ) AS log
        LEFT JOIN LATERAL (
            SELECT *
            FROM (
                SELECT position, type, data, sum(pg_column_size(data)) OVER (ORDER BY position) AS bytes
                FROM (
                    SELECT position, type, data
                    FROM events
                    WHERE NOT superseded
                        AND position > $1
                        AND position <= log.reach
                        AND ($5::text[] IS NULL OR type = ANY($5))
                    ORDER BY position
                    LIMIT $2
                ) AS next
            ) AS measured
            WHERE bytes - pg_column_size(data) < $3
        ) AS said ON true
        ORDER BY said.position
        """,
        after,
        limits.events,
        limits.stored_bytes,
        limits.positions,
        types,
    )


async def select_events_about_job(
    database: Database, job_id: UUID, after: int, limits: PageLimits, types: Sequence[str] | None
) -> Rows:
    """As `select_events`, of one job: an index finds its events, so that the whole log is in reach."""
    return await database.fetch(
        """
        SELECT said.position, said.type, said.data, said.bytes, log_head.position AS reach, log_head.position AS head
        FROM log_head
        LEFT JOIN LATERAL (
            SELECT *
            FROM (
                SELECT position, type, data, sum(pg_column_size(data)) OVER (ORDER BY position) AS bytes
                FROM (
                    SELECT position, type, data
                    FROM events
                    WHERE job_id = $1
                        AND NOT superseded
                        AND position > $2
                        AND position <= log_head.position
                        AND ($5::text[] IS NULL OR type = ANY($5))
                    ORDER BY position
                    LIMIT $3
                ) AS next
            ) AS measured
            WHERE bytes - pg_column_size(data) < $4
        ) AS said ON true
        ORDER BY said.position
        """,
        job_id,
        after,
        limits.events,
        limits.stored_bytes,
        types,
    )


async def select_models(database: Database) -> Rows:
    return await database.fetch(
        """
        SELECT definition, registered_at
        FROM models
        WHERE retired_at IS NULL
        ORDER BY model_id
        """
    )


async def select_model(database: Database, model_id: str) -> Rows:
    return await database.fetch(
        """
        SELECT definition, registered_at
        FROM models
        WHERE model_id = $1 AND retired_at IS NULL
        """,
        model_id,
    )


async def select_datasets(database: Database) -> Rows:
    return await database.fetch(
        """
        SELECT dataset_id, description, row_count, registered_at
        FROM datasets
        WHERE retired_at IS NULL
        ORDER BY dataset_id
        """
    )


async def select_dataset(database: Database, dataset_id: str) -> Rows:
    return await database.fetch(
        """
        SELECT dataset_id, description, row_count, rows, registered_at
        FROM datasets
        WHERE dataset_id = $1 AND retired_at IS NULL
        """,
        dataset_id,
    )


async def select_workers(database: Database) -> Rows:
    """By the database's clock: a worker's own clock is no measure of its silence."""
    return await database.fetch(
        """
        SELECT
            report,
            heard_at,
            heard_at > now() - $1 * interval '1 second' AND report ->> 'state' <> 'stopping' AS alive
        FROM workers
        ORDER BY worker_id
        """,
        ALIVE_S,
    )


async def select_silence(database: Database, timeout: float) -> float | None:
    """Seconds since the projection last stored the report of any worker; None if it never did."""
    rows = await database.fetch(
        "SELECT extract(epoch FROM now() - max(heard_at))::float8 AS silence FROM workers", timeout=timeout
    )
    silence: float | None = rows[0]["silence"]
    return silence

"""Events as the projection gets them, and the tables as they are afterwards."""

from typing import Any
from uuid import UUID, uuid4

from consumers.projection.queries import Connection
from consumers.projection.store import Arrival
from events.envelope import decode, encode
from events.messages import AnyEvent, BenchmarkRequested
from tests.builders import NOON, REQUEST


def arrived(event: AnyEvent, event_id: UUID | None = None) -> Arrival:
    """A request has the id that the events of its runs name."""
    event_id = event_id or (REQUEST if isinstance(event, BenchmarkRequested) else uuid4())
    return Arrival(*decode(encode(event, event_id=event_id, source="tests", time=NOON)))


async def select_tables(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """All that can be read, less what says only when and in which order it was stored."""
    queries = {
        "events": "SELECT event_id, job_id, type, time, superseded, data::text FROM events ORDER BY event_id",
        "jobs": "SELECT * FROM jobs ORDER BY job_id",
        "runs": "SELECT * FROM runs ORDER BY run_id",
        "samples": "SELECT * FROM samples ORDER BY run_id, offset_ms",
        "workers": "SELECT worker_id, report::text, reported_at FROM workers ORDER BY worker_id",
        "models": "SELECT * FROM models ORDER BY model_id",
    }
    tables = {name: [dict(row) for row in await connection.fetch(query)] for name, query in queries.items()}
    for row in (*tables["jobs"], *tables["runs"]):
        row.pop("heard_at", None)
        row.pop("outcome_position", None)
    return tables


async def select_job(connection: Connection) -> dict[str, Any]:
    row = await connection.fetchrow("SELECT status, attempt, run_id, outcome_event_id FROM jobs")
    return dict(row) if row else {}

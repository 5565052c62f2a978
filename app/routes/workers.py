"""The fleet."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Struct

from app.parts import Parts
from app.state import queries
from app.state.database import DatabaseUnavailable
from app.web.documentation import documented
from app.web.reading import JSON
from events.benchmark import Pool


class Worker(Struct, frozen=True, kw_only=True):
    """`alive`: heard of within the last 30 s, and not stopping."""

    worker_id: str
    alive: bool = False
    state: Literal["idle", "busy", "stopping"]
    pool: Pool
    job_id: UUID | None
    run_id: UUID | None
    host: str
    pid: int
    hardware: dict[str, Any]
    version: str
    started_at: datetime
    reported_at: datetime
    heard_at: datetime | None = None


class Workers(Struct, frozen=True, kw_only=True):
    items: list[Worker]


@get(
    "/workers",
    operation_id="listWorkers",
    summary="The workers, alive or not, and what each is doing",
    tags=["fleet"],
    opt=documented(answers={200: {JSON: Workers}}, raises=(DatabaseUnavailable,)),
)
async def list_workers(parts: NamedDependency[Parts]) -> Response[bytes]:
    rows = await queries.select_workers(parts.database)
    return Response(msgspec.json.encode(Workers(items=[_worker(row) for row in rows])), media_type=JSON)


def _worker(row: asyncpg.Record) -> Worker:
    report = msgspec.json.decode(row["report"], type=Worker)
    return msgspec.structs.replace(report, alive=row["alive"], heard_at=row["heard_at"])


ROUTES = (list_workers,)

"""Is the service up: could a benchmark be accepted now, and would anybody see it?"""

from typing import Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Struct

from app.parts import Parts
from app.state import queries
from app.state.database import DatabaseUnavailable
from app.web.documentation import documented
from app.web.reading import JSON

PATIENCE_S = 0.8
LATE_S = 10.0

State = Literal["up", "down"]


class Broker(Struct, frozen=True):
    state: State


class DatabaseHealth(Struct, frozen=True):
    state: State


class Projection(Struct, frozen=True):
    """`lag_s`: for how long the oldest job that this app accepted has been waiting to be stored; 0 if none is.

    `heard_s`: since it last stored the report of a worker, which says it lives. Null where nobody can tell.
    """

    lag_s: float | None
    heard_s: float | None


class Health(Struct, frozen=True, kw_only=True):
    """`ok`, or `degraded`: benchmarks are accepted, and something else does not work; or `unavailable`."""

    status: Literal["ok", "degraded", "unavailable"]
    broker: Broker
    database: DatabaseHealth
    projection: Projection


class Life(Struct, frozen=True):
    status: Literal["alive"] = "alive"


@get(
    "/health",
    operation_id="getHealth",
    summary="200 while a benchmark could be accepted",
    tags=["health"],
    opt=documented(answers={200: {JSON: Health}, 503: {JSON: Health}}),
)
async def get_health(parts: NamedDependency[Parts]) -> Response[bytes]:
    health = await _examine(parts)
    return _answer(health, good=health.status != "unavailable")


@get(
    "/health/ready",
    operation_id="getReadiness",
    summary="200 while benchmarks are accepted and can be read",
    tags=["health"],
    opt=documented(answers={200: {JSON: Health}, 503: {JSON: Health}}),
)
async def get_readiness(parts: NamedDependency[Parts]) -> Response[bytes]:
    health = await _examine(parts)
    return _answer(health, good=health.broker.state == health.database.state == "up")


@get(
    "/health/live",
    operation_id="getLiveness",
    summary="200 while the process answers; it asks nobody",
    tags=["health"],
    opt=documented(answers={200: {JSON: Life}}),
    sync_to_thread=False,
)
def get_liveness() -> Response[bytes]:
    return Response(msgspec.json.encode(Life()), media_type=JSON)


async def _examine(parts: Parts) -> Health:
    try:
        heard_s = await queries.select_silence(parts.database, PATIENCE_S)
        database: State = "up"
    except DatabaseUnavailable:
        heard_s, database = None, "down"
    broker: State = "up" if parts.bus.available else "down"
    lag_s = parts.accepted.lag_s() if parts.log.following or len(parts.accepted) else None
    return Health(
        status=_status(parts, broker, database, lag_s),
        broker=Broker(broker),
        database=DatabaseHealth(database),
        projection=Projection(lag_s=lag_s, heard_s=heard_s),
    )


def _status(
    parts: Parts, broker: State, database: State, lag_s: float | None
) -> Literal["ok", "degraded", "unavailable"]:
    """Without the database, benchmarks of models that are known already are accepted."""
    if broker == "down" or (database == "down" and not len(parts.catalogue)):
        return "unavailable"
    return "ok" if database == "up" and lag_s is not None and lag_s < LATE_S else "degraded"


def _answer(health: Health, *, good: bool) -> Response[bytes]:
    headers = {} if good else {"Retry-After": "2"}
    return Response(msgspec.json.encode(health), status_code=200 if good else 503, media_type=JSON, headers=headers)


ROUTES = (get_health, get_readiness, get_liveness)

"""The app, put together from its parts."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, Router
from litestar.di import Provide
from msgspec import Struct

from app.parts import Parts, assemble
from app.routes import benchmarks, datasets, events, gauges, health, measurements, models, workers
from app.state.database import Database
from app.state.log import within
from app.web import asyncapi, documentation
from app.web.edge import allow_origins, answer_head, answer_options
from app.web.problems import answer_problem
from events import logs
from events.bus import Bus

logger = logging.getLogger(__name__)

LARGEST_BODY = 1_048_576
FIRST_READING_S = 0.5
ROOMS = (benchmarks, measurements, events, models, datasets, workers, health)


class Settings(Struct, frozen=True, kw_only=True):
    """`cors_origins` are the origins whose pages may use the API: `https://bench.example.org`, or `*` for all."""

    database_url: str
    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    host: str = "127.0.0.1"
    port: int = 8000
    cors_origins: tuple[str, ...] = ()
    log_level: logs.Level = "info"


def create_app(bus: Bus, database: Database, settings: Settings) -> Litestar:
    """Needs neither the broker nor the database to be there yet."""
    parts = assemble(bus, database)
    app = Litestar(
        [
            Router("/api/v1", route_handlers=[route for room in ROOMS for route in room.ROUTES]),
            *gauges.ROUTES,
            *documentation.ROUTES,
            *asyncapi.ROUTES,
        ],
        dependencies={"parts": Provide(lambda: parts, sync_to_thread=False)},
        exception_handlers={Exception: answer_problem},
        lifespan=[lambda _: _learning(parts)],
        logging_config=None,
        openapi_config=None,
        request_max_body_size=LARGEST_BODY,
    )
    app.state.parts = parts
    app.asgi_handler = allow_origins(answer_options(answer_head(app.asgi_handler)), settings.cors_origins)
    return app


def end_streams(app: Litestar) -> None:
    """Before the server waits for its connections to end: a stream would never end by itself."""
    app.state.parts.log.close()


@asynccontextmanager
async def _learning(parts: Parts) -> AsyncIterator[None]:
    """Follow the log, and keep what is known of the catalogue and of the fleet fresh.

    The first request finds a fleet that was read, unless the database is slow or away.
    """
    tasks = [
        asyncio.create_task(work()) for work in (parts.log.follow, parts.catalogue.keep_fresh, parts.fleet.keep_fresh)
    ]
    for task in tasks:
        task.add_done_callback(_report_end)
    try:
        await within(parts.fleet.tried, FIRST_READING_S)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report_end(task: "asyncio.Task[None]") -> None:
    """None of them ends by itself: without one the app goes on, and knows less."""
    if not task.cancelled():
        logger.error("background work ended", exc_info=task.exception())

"""The app on a real port, over the bus in memory, a real database, and the real projection between them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import asyncpg
import httpx
import msgspec
import uvicorn
from litestar import Litestar

from app.__main__ import Server, listen
from app.application import Settings, create_app
from app.benchmark import EXAMPLE
from app.parts import Parts
from app.state.database import open_database
from app.web.documentation import describe
from consumers.projection.consume import consume
from consumers.projection.migrate import migrate
from consumers.projection.seed import seed
from events.bus import Bus
from events.bus.memory import MemoryBus
from events.bus.topology import PROJECTION
from tests.waiting import until


class Api:
    """A client of a running app. Every answer it gets must be one that the documentation tells of."""

    def __init__(
        self, bus: MemoryBus, database_url: str, app: Litestar, client: httpx.AsyncClient, server: Server
    ) -> None:
        self.bus = bus
        self.database_url = database_url
        self.app = app
        self.client = client
        self.server = server
        client.event_hooks["response"].append(self._expect_documented)
        self._paths = describe(app)["paths"]

    @property
    def parts(self) -> Parts:
        parts: Parts = self.app.state.parts
        return parts

    async def get(self, path: str, **parameters: Any) -> httpx.Response:
        return await self.client.get(path, **parameters)

    async def post(self, path: str, body: object = None, **parameters: Any) -> httpx.Response:
        if body is not None:
            parameters["json"] = body
        return await self.client.post(path, **parameters)

    async def submit(self, **changes: Any) -> dict[str, Any]:
        answer = await self.post("/api/v1/benchmarks", EXAMPLE | changes)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def _expect_documented(self, response: httpx.Response) -> None:
        operation = self._operation(response.request)
        if operation is None:
            return
        answer = operation["responses"].get(str(response.status_code))
        assert answer, f"{response.request.url}: {response.status_code} is not documented"
        media_type = response.headers.get("content-type", "").split(";")[0]
        assert media_type in answer.get("content", {"": None}), (
            f"{response.request.url}: {media_type} is not documented"
        )

    def _operation(self, request: httpx.Request) -> dict[str, Any] | None:
        for template, operations in self._paths.items():
            if _matches(template, request.url.path):
                operation: dict[str, Any] | None = operations.get(request.method.lower())
                return operation
        return None


def _matches(template: str, path: str) -> bool:
    parts, given = template.split("/"), path.split("/")
    return len(parts) == len(given) and all(
        one.startswith("{") or one == two for one, two in zip(parts, given, strict=True)
    )


@asynccontextmanager
async def serving(bus: Bus, database_url: str, **settings: Any) -> AsyncIterator[tuple[Litestar, Server, str]]:
    """The app alone, on a free port; its URL comes last."""
    listener = listen(Settings(database_url=database_url, port=0))
    async with open_database(database_url) as database:
        app = create_app(bus, database, Settings(database_url=database_url, **settings))
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        server = Server(config, app)
        task = asyncio.create_task(server.serve([listener]))
        try:
            await until(lambda: server.started)
            yield app, server, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def projecting(bus: MemoryBus, database_url: str) -> AsyncIterator[None]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=3) as pool, AsyncExitStack() as stack:
        subscription = await stack.enter_async_context(bus.subscribe(PROJECTION, 1000))
        task = asyncio.create_task(consume(subscription, pool, bus))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def prepare(database_url: str) -> None:
    """The schema, and the catalogue that the service comes with."""
    connection = await asyncpg.connect(database_url)
    try:
        await migrate(connection)
        await seed(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def api(
    database_url: str, *, bus: MemoryBus | None = None, projected: bool = True, **settings: Any
) -> AsyncIterator[Api]:
    bus = bus or MemoryBus()
    async with AsyncExitStack() as stack:
        await prepare(database_url)
        if projected:
            await stack.enter_async_context(projecting(bus, database_url))
        app, server, url = await stack.enter_async_context(serving(bus, database_url, **settings))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
        api = Api(bus, database_url, app, client, server)
        await until(lambda: api.parts.log.following)
        yield api


def problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem that was answered, as problem+json."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    told: dict[str, Any] = msgspec.json.decode(answer.content)
    assert told["status"] == answer.status_code
    assert {"type", "title", "status", "detail", "instance"} <= set(told)
    return told


def kind(answer: httpx.Response) -> tuple[int, str]:
    """Status and slug of the problem that was answered."""
    return answer.status_code, problem(answer)["type"].removeprefix("urn:llm-bench:problem:")


def wrong_fields(answer: httpx.Response) -> set[str]:
    return {error["field"] for error in problem(answer)["errors"]}


async def signal_sessions_of_the_app(database_url: str, number: signal.Signals) -> None:
    """End, freeze or thaw the database's end of each connection that the app holds."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            """
            SELECT pid
            FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'llm-bench app'
            """
        )
    finally:
        await connection.close()
    for row in rows:
        os.kill(row["pid"], number)

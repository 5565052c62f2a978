"""`python -m app`, as an operator starts and stops it."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from app.benchmark import EXAMPLE
from tests.app import serving
from tests.waiting import until

NOWHERE = {
    "LLM_BENCH_DATABASE_URL": "postgresql://x@/y?host=/nowhere",
    "LLM_BENCH_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/",
    "LLM_BENCH_PORT": "0",
}


class Process:
    """What it said until now stands in `said`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    @property
    def url(self) -> str:
        port = re.search(r"listening.* port=(\d+)", self.said)
        return f"http://127.0.0.1:{port[1]}" if port else ""

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said += line.decode()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 10)


@asynccontextmanager
async def running(**environment: str) -> AsyncIterator[Process]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_BENCH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", env=clean | environment, stderr=asyncio.subprocess.PIPE
    )
    app = Process(process)
    reading = asyncio.create_task(app.read())
    try:
        yield app
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_starts_with_nothing_there_and_stops_cleanly(number: signal.Signals) -> None:
    async with running(**NOWHERE) as app:
        await until(lambda: app.url)
        async with httpx.AsyncClient(base_url=app.url) as client:
            health = await client.get("/api/v1/health")

        code = await app.end(number)

    assert health.json()["status"] == "unavailable"
    assert code == 0
    assert "Traceback" not in app.said


async def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with running(**NOWHERE | {"LLM_BENCH_PORT": port}) as app:
            code = await asyncio.wait_for(app.process.wait(), 10)

    assert code == 2
    assert app.said == f"127.0.0.1:{port} is in use: end what uses it, or set LLM_BENCH_PORT to another port\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLM_BENCH_DATABASE_URL", ""),
        ("LLM_BENCH_PORT", "http"),
        ("LLM_BENCH_PORT", "70000"),
        ("LLM_BENCH_PORT", "-1"),
        ("LLM_BENCH_HOST", "no.such.host.invalid"),
        ("LLM_BENCH_LOG_LEVEL", "loud"),
    ],
)
async def test_a_wrong_setting_is_named(variable: str, value: str) -> None:
    async with running(**NOWHERE | {variable: value}) as app:
        code = await asyncio.wait_for(app.process.wait(), 20)

    assert code == 2
    assert variable in app.said
    assert "Traceback" not in app.said


async def test_it_stops_at_once_though_streams_are_open(broker_url: str, database_url: str) -> None:
    await serving.prepare(database_url)
    settings = {"LLM_BENCH_DATABASE_URL": database_url, "LLM_BENCH_AMQP_URL": broker_url, "LLM_BENCH_PORT": "0"}
    async with running(**settings) as app:
        await until(lambda: app.url)
        async with httpx.AsyncClient(base_url=app.url, timeout=10) as client:
            await until(lambda: "broker is there" in app.said and "log is followed" in app.said)
            job = (await client.post("/api/v1/benchmarks", json=EXAMPLE)).json()
            async with client.stream("GET", job["links"]["events"]) as stream:
                code = await asyncio.wait_for(app.end(), 3)
                rest = await stream.aread()

    assert code == 0
    assert rest.startswith(b"retry: ")
    assert "timeout graceful shutdown exceeded" not in app.said
    assert "Why is the sky blue?" not in app.said

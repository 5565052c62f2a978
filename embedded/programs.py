"""The service's own processes, as data: this is the one place that knows them all."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from embedded.processes import Program
from embedded.settings import Settings


class Urls(Struct, frozen=True):
    """Where the servers are. They hold passwords: they travel in the environment only."""

    database: str
    broker: str


def migration() -> tuple[str, ...]:
    return (sys.executable, "-m", "consumers.projection", "migrate")


def projection(settings: Settings, urls: Urls, logs: Path) -> Program:
    return _python("projection", "consumers.projection", environment(settings, urls), logs)


def workers(settings: Settings, urls: Urls, logs: Path) -> list[Program]:
    """A worker knows the broker alone. It may need all of its time to drain before it ends."""
    known = environment(settings, urls)
    del known["LLM_BENCH_DATABASE_URL"]
    names = [f"worker-{number}" if number else "worker" for number in range(settings.workers)]
    return [_python(name, "consumers.inference", known, logs, grace_s=settings.drain_s + 10) for name in names]


def app(settings: Settings, urls: Urls, logs: Path) -> Program:
    return _python("app", "app", environment(settings, urls), logs)


def environment(settings: Settings, urls: Urls) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "LLM_BENCH_HOST": settings.host,
        "LLM_BENCH_PORT": str(settings.port),
        "LLM_BENCH_DATA": str(settings.folder),
        "LLM_BENCH_DRAIN_S": str(settings.drain_s),
        "LLM_BENCH_DATABASE_URL": urls.database,
        "LLM_BENCH_AMQP_URL": urls.broker,
    }


def _python(name: str, module: str, environment: Mapping[str, str], logs: Path, grace_s: float = 15.0) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-m", module),
        environment=environment,
        log=logs / f"{name}.log",
        grace_s=grace_s,
    )

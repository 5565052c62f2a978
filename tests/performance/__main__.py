"""`make bench`: how fast the service is, each figure as a ratio against a baseline of the same run.

Machines differ and are shared, so the rates are there to be looked at, and only the ratios to be compared.
"""

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from tests import servers
from tests.journey.service import Part, Service, a_service
from tests.performance import fidelity, projection, requests
from tests.servers import RunningBroker, RunningPostgres

ROUNDS = 5
PAIRS = 8
MOST_MB = 120


class Row(NamedTuple):
    what: str
    ours: float
    baseline: float
    unit: str
    aim: float

    def line(self) -> str:
        ratio = self.ours / self.baseline
        verdict = "met" if ratio >= self.aim else "missed"
        figures = f"{self.ours:>10.1f}{self.baseline:>10.1f} {self.unit:<9}{ratio:>7.3f}{self.aim:>7.2f}"
        return f"{self.what:<52}{figures}  {verdict}"


async def main() -> None:
    print(f"{'':<52}{'service':>10}{'baseline':>10} {'':<9}{'ratio':>7}{'aim':>7}", flush=True)
    await servers.end_abandoned_sessions()
    with servers.session_folder() as folder, tempfile.TemporaryDirectory() as logs:
        async with servers.session_broker(folder) as broker, servers.session_postgres(folder) as postgres:
            bench = Bench(broker, postgres, Path(logs))
            await bench.projection()
            await bench.http()
            await bench.workers()


class Bench(NamedTuple):
    """The servers of this run; each part of it gets a virtual host and a database of its own."""

    broker: RunningBroker
    postgres: RunningPostgres
    logs: Path

    async def urls(self, name: str) -> tuple[str, str]:
        return await self.broker.create_vhost(name), await self.postgres.create_database(name)

    @asynccontextmanager
    async def service(self, name: str) -> AsyncIterator[Service]:
        async with a_service(*await self.urls(name), self.logs) as service:
            service.start_projection()
            service.start_app()
            await service.until_healthy()
            yield service

    async def projection(self) -> None:
        measured = await projection.measure(*await self.urls("projection"), ROUNDS)
        show("projected events, bare consume and ack", measured, "events/s", 0.5)

    async def http(self) -> None:
        idle_broker, _ = await self.urls("bare")
        async with self.service("http") as service:
            await measure_http(service, idle_broker, self.logs)

    async def workers(self) -> None:
        async with self.service("workers") as service:
            worker = service.start_worker()
            await service.until_workers(1)
            show_memory(service, worker)
            measured = await fidelity.measure(service, PAIRS)
            show("tokens through the service, generation alone", measured, "tokens/s", 0.98)


async def measure_http(service: Service, idle_broker: str, folder: Path) -> None:
    """Posts last: their jobs are never run here. The bare publishes go where nobody reads."""
    urls = service.environment
    job_id = await requests.a_finished_job(urls["LLM_BENCH_AMQP_URL"], urls["LLM_BENCH_DATABASE_URL"])
    payload = (await service.client.get(f"/benchmarks/{job_id}")).content
    gets = [
        (await requests.gets_of_a_job(service, job_id), await requests.gets_of_bytes(payload, folder))
        for _ in range(ROUNDS)
    ]
    show("GET of one job, bare route with the same bytes", gets, "req/s", 0.35)
    posts = [
        (await requests.accepted_posts(service), await requests.bare_publishes(idle_broker)) for _ in range(ROUNDS)
    ]
    show("accepted POSTs, bare confirmed publishes", posts, "req/s", 0.4)


def show(what: str, pairs: Sequence[tuple[float, float]], unit: str, aim: float) -> None:
    """The median of each side of the (ours, baseline) pairs."""
    ours, baseline = zip(*pairs, strict=True)
    print(Row(what, statistics.median(ours), statistics.median(baseline), unit, aim).line(), flush=True)


def show_memory(service: Service, worker: Part) -> None:
    for name, part in {"app": service.parts[1], "projection": service.parts[0], "idle worker": worker}.items():
        megabytes = psutil.Process(part.pid).memory_info().rss / 1e6
        verdict = "met" if megabytes < MOST_MB else "missed"
        print(f"resident memory, {name:<35}{megabytes:>10.1f}{MOST_MB:>10} {'MB, most':<23}  {verdict}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

"""Which workers live, and which of their pools a benchmark is for."""

import asyncio
import time
from collections.abc import Collection
from contextlib import suppress

import msgspec
from msgspec import Struct

from app.state import queries
from app.state.database import Database, DatabaseUnavailable
from events.benchmark import BenchmarkSpec, Pool

REFRESH_S = 2.0
FIRST_REFRESH_S = 0.25  # until somebody has ever reported


class FleetWorker(Struct, frozen=True):
    pool: Pool


def choose_pool(spec: BenchmarkSpec, workers: Collection[FleetWorker]) -> Pool:
    """A GPU if one is wanted and lives; a GPU worker can run what is for the CPU, where no CPU worker lives."""
    pools = {worker.pool for worker in workers}
    if spec.use_gpu and spec.device in ("auto", "cuda"):
        return "gpu" if "gpu" in pools else "cpu"
    return "gpu" if "gpu" in pools and "cpu" not in pools else "cpu"


class Fleet:
    """The workers that were heard of lately, read every few seconds: never for a request."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: tuple[FleetWorker, ...] = ()
        self._live: tuple[FleetWorker, ...] = ()
        self.tried = asyncio.Event()
        self._read_at = -float("inf")

    def live_workers(self) -> tuple[FleetWorker, ...]:
        """Nobody, where the last reading is too old to tell."""
        return self._live if time.monotonic() - self._read_at < queries.ALIVE_S else ()

    def expected_workers(self) -> tuple[FleetWorker, ...]:
        """Who lived at the last reading; if nobody did, whoever ever reported: they may come back to their queue."""
        return self._live or self._known

    async def keep_fresh(self) -> None:
        """`tried` is set once the first reading has ended, well or not."""
        while True:
            with suppress(DatabaseUnavailable):  # whoever asks for something that needs the database is told
                await self._read()
            self.tried.set()
            await asyncio.sleep(REFRESH_S if self._known else FIRST_REFRESH_S)

    async def _read(self) -> None:
        rows = await queries.select_workers(self._database)
        self._known = tuple(_worker(row["report"]) for row in rows)
        self._live = tuple(_worker(row["report"]) for row in rows if row["alive"])
        self._read_at = time.monotonic()


def _worker(report: str) -> FleetWorker:
    return msgspec.json.decode(report, type=FleetWorker)

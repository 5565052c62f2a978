"""Which workers live, and which of their pools a benchmark is for."""

import asyncio
import time
from collections.abc import Collection

import msgspec
from msgspec import Struct

from app.state import queries
from app.state.database import Database, DatabaseUnavailable
from events.benchmark import BenchmarkSpec, Pool

REFRESH_S = 2.0


class LiveWorker(Struct, frozen=True):
    pool: Pool


def choose_pool(spec: BenchmarkSpec, live_workers: Collection[LiveWorker]) -> Pool:
    """A GPU if one is wanted and lives; a GPU worker can run what is for the CPU, where no CPU worker lives."""
    pools = {worker.pool for worker in live_workers}
    if spec.use_gpu and spec.device in ("auto", "cuda"):
        return "gpu" if "gpu" in pools else "cpu"
    return "gpu" if "gpu" in pools and "cpu" not in pools else "cpu"


class Fleet:
    """The workers that were heard of lately, read every few seconds: never for a request."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._live: tuple[LiveWorker, ...] = ()
        self._read_at = -float("inf")

    def live_workers(self) -> tuple[LiveWorker, ...]:
        """Nobody, where the last reading is too old to tell."""
        return self._live if time.monotonic() - self._read_at < queries.ALIVE_S else ()

    async def keep_fresh(self) -> None:
        while True:
            try:
                rows = await queries.select_workers(self._database)
            except DatabaseUnavailable:
                pass  # whoever asks for something that needs the database is told
            else:
                self._live = tuple(_worker(row["report"]) for row in rows if row["alive"])
                self._read_at = time.monotonic()
            await asyncio.sleep(REFRESH_S)


def _worker(report: str) -> LiveWorker:
    return msgspec.json.decode(report, type=LiveWorker)

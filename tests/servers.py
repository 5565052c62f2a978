"""One real broker and one real PostgreSQL for all tests of a session, on data of their own."""

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from embedded.broker import RunningBroker, running_broker
from embedded.postgres import RunningPostgres, data_folder, running_postgres
from embedded.private import private_folder, try_lock
from embedded.processes import Record, end_leftovers

HOME = Path(__file__).parents[1] / ".cache/servers"

_numbers = itertools.count(1)


def fresh_name() -> str:
    """For a database or a virtual host of one test."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for this session's servers, gone at the end; several sessions may run beside each other."""
    folder = Path(tempfile.mkdtemp(dir=private_folder(HOME), prefix="with a space-"))
    with _lock_file(folder).open("w") as lock:
        try_lock(lock.fileno())
        try:
            yield folder
        finally:
            remove(folder)


async def end_abandoned_sessions() -> None:
    """End the servers of sessions that were killed, and remove what they left."""
    for folder in private_folder(HOME).iterdir():
        with _lock_file(folder).open("w") as lock:
            if not try_lock(lock.fileno()):
                continue
            for record in sorted(folder.glob("*.json")):
                await end_leftovers(Record(record), say=print)
            remove(folder)


@asynccontextmanager
async def session_broker(folder: Path) -> AsyncIterator[RunningBroker]:
    async with running_broker(folder / "broker", Record(folder / "broker.json"), say=print) as broker:
        yield broker


@asynccontextmanager
async def session_postgres(folder: Path) -> AsyncIterator[RunningPostgres]:
    async with running_postgres(folder / "postgres", Record(folder / "postgres.json"), say=print) as postgres:
        yield postgres


def remove(folder: Path) -> None:
    """The folder of a session, and the data that root's PostgreSQL keeps elsewhere."""
    shutil.rmtree(data_folder(folder / "postgres"), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _lock_file(folder: Path) -> Path:
    return folder / "lock"

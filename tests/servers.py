"""One real broker and one real PostgreSQL for all tests of a session, on data of their own."""

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from embedded.broker import Broker, prepare_broker
from embedded.packages import find_rabbitmq
from embedded.postgres import Postgres, data_folder, prepared_postgres
from embedded.private import private_folder, try_lock
from embedded.processes import Process, Record, Say, end_leftovers, running, until_ready

STARTS_WITHIN_S = 90.0
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


class RunningServer:
    """A server to kill and to start again."""

    def __init__(self, process: Process, answers: Callable[[], Awaitable[bool]]) -> None:
        self.process = process
        self._answers = answers

    async def kill(self) -> None:
        await self.process.kill()

    async def stop(self) -> None:
        await self.process.stop()

    async def start(self) -> None:
        await self.process.start()
        await until_ready(self.process, self._answers, STARTS_WITHIN_S)

    async def restart(self) -> None:
        await self.stop()
        await self.start()


class RunningBroker(RunningServer):
    def __init__(self, broker: Broker, process: Process) -> None:
        super().__init__(process, broker.answers)
        self.url = broker.url
        self.create_vhost = broker.create_vhost
        self.delete_vhost = broker.delete_vhost
        self.evaluate = broker.evaluate


class RunningPostgres(RunningServer):
    def __init__(self, postgres: Postgres, process: Process) -> None:
        super().__init__(process, postgres.answers)
        self.url = postgres.url
        self._postgres = postgres

    async def create_database(self, name: str) -> str:
        """Its URL."""
        await self._postgres.execute(f'CREATE DATABASE "{name}"')
        return self._postgres.url_of(name)

    async def drop_database(self, name: str) -> None:
        """Whoever is still connected is cut off."""
        await self._postgres.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@asynccontextmanager
async def running_broker(folder: Path, record: Record, say: Say) -> AsyncIterator[RunningBroker]:
    """A node on the data in `folder`, ready for use; ended, with its epmd, at the end."""
    broker = prepare_broker(folder, await find_rabbitmq(say), folder)
    async with running(broker.epmd, record), running(broker.server, record) as process:
        await until_ready(process, broker.answers, STARTS_WITHIN_S)
        yield RunningBroker(broker, process)


@asynccontextmanager
async def running_postgres(folder: Path, record: Record, say: Say) -> AsyncIterator[RunningPostgres]:
    """A server on the data that belongs to `folder`, ready for use; ended at the end."""
    async with (
        prepared_postgres(folder, private_folder(folder), say) as postgres,
        running(postgres.server, record) as process,
    ):
        await until_ready(process, postgres.answers, STARTS_WITHIN_S)
        yield RunningPostgres(postgres, process)


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

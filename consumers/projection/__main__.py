"""`python -m consumers.projection` projects until it is stopped; with `migrate` it only prepares the schema."""

import asyncio
import logging
import os
import signal
import socket
import sys

import asyncpg
from msgspec import Struct

from consumers.projection.consume import AWAY, BATCH, consume
from consumers.projection.housekeeping import WORKER_SILENCE_S, keep_house
from consumers.projection.migrate import SchemaMismatch, migrate
from consumers.projection.seed import seed
from events import logs
from events.bus.rabbit import open_bus
from events.bus.topology import PROJECTION
from events.settings import InvalidSetting, read_settings

logger = logging.getLogger(__name__)

PATIENCE_S = 30.0


class Settings(Struct, frozen=True, kw_only=True):
    """`retention_days` 0 keeps every job; `worker_silence_s` is how long a worker may leave a cancel unanswered."""

    database_url: str
    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    retention_days: float = 0.0
    worker_silence_s: float = WORKER_SILENCE_S
    log_level: logs.Level = "info"


class MigrationSettings(Struct, frozen=True, kw_only=True):
    database_url: str
    log_level: logs.Level = "info"


async def prepare(database: asyncpg.Pool) -> None:
    """Migrate and seed. Raises SchemaMismatch."""
    async with database.acquire(timeout=10) as connection:
        await migrate(connection)
        await seed(connection)


async def prepare_patiently(database: asyncpg.Pool, patience_s: float | None) -> None:
    """Wait for Postgres as long as it takes, or for `patience_s`, then raise TimeoutError."""
    async with asyncio.timeout(patience_s):
        while True:
            try:
                return await prepare(database)
            except AWAY as error:
                logger.warning("database does not answer yet", extra={"error": repr(error)})
            await asyncio.sleep(1)


async def run(settings: Settings) -> None:
    source = f"projection/{socket.gethostname()}-{os.getpid()}"
    async with (
        asyncpg.create_pool(settings.database_url, min_size=0, max_size=3, command_timeout=60) as database,
        open_bus(settings.amqp_url, source) as bus,
    ):
        await prepare_patiently(database, None)
        async with bus.subscribe(PROJECTION, prefetch=2 * BATCH) as subscription, asyncio.TaskGroup() as tasks:
            tasks.create_task(consume(subscription, database, bus))
            tasks.create_task(keep_house(database, bus, settings.retention_days, settings.worker_silence_s))


async def migrate_only(settings: MigrationSettings) -> None:
    async with asyncpg.create_pool(settings.database_url, min_size=0, max_size=1, command_timeout=60) as database:
        await prepare_patiently(database, PATIENCE_S)


async def until_stopped(settings: Settings) -> None:
    """SIGTERM or SIGINT ends it; a batch that was not committed comes again."""
    work = asyncio.create_task(run(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


def main(arguments: list[str]) -> int:
    try:
        if arguments == ["migrate"]:
            migration = read_settings(MigrationSettings, os.environ)
            logs.configure(migration.log_level)
            asyncio.run(migrate_only(migration))
        else:
            settings = read_settings(Settings, os.environ)
            logs.configure(settings.log_level)
            asyncio.run(until_stopped(settings))
    except InvalidSetting as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except SchemaMismatch as error:
        sys.stderr.write(f"the schema cannot be brought up to date: {error}\n")
        return 1
    except TimeoutError:
        sys.stderr.write(f"the database of LLM_BENCH_DATABASE_URL did not answer within {PATIENCE_S:.0f} s\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

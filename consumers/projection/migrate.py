"""Brings the schema up to date: numbered SQL files, forward only, each in one transaction, checksummed."""

import hashlib
import logging
from pathlib import Path

from msgspec import Struct

from consumers.projection.queries import Connection

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x6C6C6D62  # "llmb": whoever migrates this database holds it


class SchemaMismatch(Exception):
    """The database was migrated by other files than ours: a changed one, or a newer version of the service."""


class Migration(Struct, frozen=True):
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All of ours, by version."""
    files = sorted(FOLDER.glob("[0-9]*.sql"))
    return [Migration(int(file.stem.split("_")[0]), file.stem, file.read_text()) for file in files]


async def migrate(connection: Connection) -> list[str]:
    """Apply what is missing and return its names. Safe to run from many processes at once. Raises SchemaMismatch."""
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        applied = await _select_applied(connection)
        _refuse_strangers(applied)
        missing = [migration for migration in migrations() if migration.version not in applied]
        for migration in missing:
            await _apply(connection, migration)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    return [migration.name for migration in missing]


def _refuse_strangers(applied: dict[int, str]) -> None:
    ours = {migration.version: migration for migration in migrations()}
    for version, checksum in applied.items():
        if version not in ours:
            raise SchemaMismatch(f"the database has migration {version}, which this version of the service lacks")
        if ours[version].checksum != checksum:
            raise SchemaMismatch(f"migration {ours[version].name} was changed after it had been applied")


async def _select_applied(connection: Connection) -> dict[int, str]:
    await connection.execute(
        """
        CREATE TABLE IF NOT EXISTS migrations (
            version integer PRIMARY KEY,
            name text NOT NULL,
            checksum text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    rows = await connection.fetch("SELECT version, checksum FROM migrations")
    return {row["version"]: row["checksum"] for row in rows}


async def _apply(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO migrations (version, name, checksum) VALUES ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
    logger.info("migration applied", extra={"migration": migration.name})

"""The catalogue that the service comes with. An entry that is there already, even retired, stays as it is."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from consumers.projection import queries
from events.benchmark import DatasetDefinition, ModelDefinition

FOLDER = Path(__file__).parent / "catalogue"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def seed_models() -> list[ModelDefinition]:
    return msgspec.json.decode((FOLDER / "models.json").read_bytes(), type=list[ModelDefinition])


def seed_datasets() -> list[DatasetDefinition]:
    return msgspec.json.decode((FOLDER / "datasets.json").read_bytes(), type=list[DatasetDefinition])


async def seed(connection: queries.Connection) -> None:
    """Insert what is missing. Dated long ago, so that it never undoes a retirement."""
    async with connection.transaction():
        for model in seed_models():
            await queries.insert_model(connection, model, LONG_AGO)
        for dataset in seed_datasets():
            await queries.insert_dataset(connection, dataset, LONG_AGO)

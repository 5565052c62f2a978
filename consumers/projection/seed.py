"""The catalogue that the service comes with. An entry that is there already, even retired, stays as it is."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from consumers.projection import queries
from events.benchmark import DatasetDefinition, ModelDefinition

FOLDER = Path(__file__).parent / "catalogue"


def seed_models() -> list[ModelDefinition]:
    return msgspec.json.decode((FOLDER / "models.json").read_bytes(), type=list[ModelDefinition])


def seed_datasets() -> list[DatasetDefinition]:
    return msgspec.json.decode((FOLDER / "datasets.json").read_bytes(), type=list[DatasetDefinition])


async def seed(connection: queries.Connection) -> None:
    """Insert what is missing."""
    now = datetime.now(UTC)
    async with connection.transaction():
        models, datasets = await queries.select_model_ids(connection), await queries.select_dataset_ids(connection)
        for model in seed_models():
            if model.model_id not in models:
                await queries.insert_model(connection, model, now)
        for dataset in seed_datasets():
            if dataset.dataset_id not in datasets:
                await queries.insert_dataset(connection, dataset, now)

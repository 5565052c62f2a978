"""The models that can be benchmarked, kept in memory so that a request needs no database."""

import asyncio

import msgspec

from app.state import queries
from app.state.database import Database, DatabaseUnavailable
from events.benchmark import ModelDefinition
from events.messages import ModelRegistered, ModelRetired, type_of

CHANGES = (type_of(ModelRegistered), type_of(ModelRetired))
RETRY_S = 1.0


class Catalogue:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._models: dict[str, ModelDefinition] = {}
        self._outdated = asyncio.Event()
        self._outdated.set()

    def __len__(self) -> int:
        return len(self._models)

    def expire(self) -> None:
        """The catalogue has changed: read it again."""
        self._outdated.set()

    async def model(self, model_id: str) -> ModelDefinition | None:
        """From memory, else from the database. Raises DatabaseUnavailable."""
        if model_id in self._models:
            return self._models[model_id]
        rows = await queries.select_model(self._database, model_id)
        if not rows:
            return None
        model = self._models[model_id] = _definition(rows[0]["definition"])
        return model

    async def keep_fresh(self) -> None:
        while True:
            await self._outdated.wait()
            self._outdated.clear()
            try:
                rows = await queries.select_models(self._database)
            except DatabaseUnavailable:
                self._outdated.set()
                await asyncio.sleep(RETRY_S)
                continue
            models = [_definition(row["definition"]) for row in rows]
            self._models = {model.model_id: model for model in models}


def _definition(text: str) -> ModelDefinition:
    return msgspec.json.decode(text, type=ModelDefinition)

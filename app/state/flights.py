"""What several ask for at once is done once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID


class SingleFlight:
    """The first does it; whoever asks for the same key before it is done gets what came of it, errors too."""

    def __init__(self) -> None:
        self._flights: dict[UUID, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def share(self, key: UUID, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(do())
            flight.add_done_callback(lambda _: self._flights.pop(key))
        await asyncio.shield(flight)  # one that goes away does not end it for the others

"""Where a run is, kept until it is told: what came since the last telling is told as one, but each phase by itself."""

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from consumers.inference.child.protocol import Tokens
from events.benchmark import Phase


class Update(Struct, frozen=True, kw_only=True):
    """What a BenchmarkProgressed says."""

    phase: Phase
    iteration: int
    iterations: int
    tokens: int
    text: str


class Progress:
    """`news` is set when something should be told at once."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._latest = Update(phase="loading", iteration=0, iterations=0, tokens=0, text="")
        self._untold: list[Update] = []

    @property
    def phase(self) -> Phase:
        return self._latest.phase

    def enter(self, phase: Phase, iterations: int) -> None:
        self._note(Update(phase=phase, iteration=0, iterations=iterations, tokens=0, text=""))
        self.news.set()

    def begin(self, iteration: int) -> None:
        self._note(replace(self._latest, iteration=iteration, tokens=0, text=""))

    def heard(self, tokens: Tokens) -> None:
        self._note(replace(self._latest, tokens=tokens.count, text=tokens.text))

    def untold(self) -> list[Update]:
        """Gives each update once."""
        untold, self._untold = self._untold, []
        self.news.clear()
        return untold

    def _note(self, update: Update) -> None:
        self._latest = update
        if self._untold and self._untold[-1].phase == update.phase:
            before = self._untold.pop()
            update = replace(update, text=before.text + update.text)
        self._untold.append(update)

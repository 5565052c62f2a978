"""Keeps a program running: what dies is started again, ever later while it keeps dying."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from embedded.processes import DidNotStart, Process, Program, Record, Say, tail


class BackOff(msgspec.Struct, frozen=True):
    """Seconds until the next start, doubling with each death; a program that lasted `steady_s` begins anew."""

    first_s: float = 0.5
    longest_s: float = 30.0
    steady_s: float = 60.0

    def after(self, deaths: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(deaths - 1, 16))


class Supervised:
    """A program that is meant to run. Its log is shown once, at the death that makes it look hopeless."""

    hopeless_after = 3

    def __init__(self, process: Process, say: Say, back_off: BackOff) -> None:
        self.process = process
        self._say = say
        self._back_off = back_off
        self._deaths = 0

    async def start(self) -> None:
        await self.process.start()
        self._say(f"started {self.process.program.name} (process {self.process.pid})")

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            began = asyncio.get_running_loop().time()
            status = await self.process.wait()
            if asyncio.get_running_loop().time() - began > self._back_off.steady_s:
                self._deaths = 0
            await self._start_again(f"{self.process.program.name} ended ({_how(status)})")

    async def until_ready(self, answers: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Raises DidNotStart when it keeps dying or does not answer in time."""
        program = self.process.program
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._deaths < self.hopeless_after:
                    if await answers():
                        return
                    await asyncio.sleep(0.05)
        if self._deaths >= self.hopeless_after:
            raise DidNotStart(f"{program.name} keeps ending: the end of its log is above, all of it in {program.log}")
        raise DidNotStart(
            f"{program.name} did not answer within {timeout_s:.0f} s. The end of {program.log}:\n{tail(program.log)}"
        )

    async def _start_again(self, why: str) -> None:
        """One death, and as many more as there are starts that fail outright."""
        while True:
            self._deaths += 1
            delay = self._back_off.after(self._deaths)
            self._say(f"{why}; starting it again in {delay:g} s")
            if self._deaths == self.hopeless_after:
                log = self.process.program.log
                self._say(f"the end of {log}:\n{tail(log)}")
            await asyncio.sleep(delay)
            try:
                return await self.start()
            except OSError as error:
                why = f"{self.process.program.name} could not be started ({error})"


@asynccontextmanager
async def supervised(
    program: Program, record: Record, say: Say, back_off: BackOff | None = None
) -> AsyncIterator[Supervised]:
    """Runs, and is started again when it dies, until the end of this; then it is ended."""
    kept = Supervised(Process(program, record), say, back_off or BackOff())
    try:
        await kept.start()
        keeper = asyncio.create_task(kept.keep())
        try:
            yield kept
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])
    finally:
        try:
            await kept.process.stop()
        finally:
            say(f"stopped {program.name}")


def _how(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"

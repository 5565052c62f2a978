"""The worker's side of the measured process: start it, ask it, end it. Nothing of what it computes runs here."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from consumers.inference.child.protocol import (
    HEADER,
    AnyCommand,
    AnyMessage,
    Generate,
    Generated,
    Load,
    Loaded,
    Ready,
    Refused,
    Resolve,
    Resolved,
    Tokens,
    frame,
    read_message,
)
from events.messages import FailureCode

logger = logging.getLogger(__name__)

SOURCES = str(Path(__file__).parents[2])
GROUP_ENDS_WITHIN_S = 10.0
NOT_TO_BE_TRUSTED_AFTER: tuple[FailureCode, ...] = ("engine_error", "out_of_memory")

OnTokens = Callable[[Tokens], None]
Expected = TypeVar("Expected", bound=AnyMessage)


class Refusal(Exception):
    """The measured process says, with a reason that has a name, that it cannot do what it was asked."""

    def __init__(self, code: FailureCode, reason: str, details: dict[str, Any]) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.details = details


class ChildDied(Exception):
    """The measured process ended while something was asked of it; negative codes are signals."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(describe_exit(exit_code))
        self.exit_code = exit_code


class CannotStart(Exception):
    """The measured process ended before it was ready. This says something of the worker's machine, not of a job."""


class Engine(Protocol):
    """What a run needs of the measured process. A call that is cancelled kills it: nobody waits for the answer.

    Each raises Refusal or ChildDied, but `ready`, which raises CannotStart.
    """

    @property
    def pid(self) -> int: ...

    async def start(self) -> None:
        """See to it that a measured process is there, and no earlier one. It need not be ready yet."""

    async def ready(self) -> None:
        """Start one if need be, and return once it has imported everything."""

    async def resolve(self, asked: Resolve) -> Resolved: ...

    async def load(self) -> Loaded: ...

    async def generate(self, asked: Generate, on_tokens: OnTokens) -> Generated: ...


class Child:
    """One process in a session of its own, and the socket to talk with it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.is_ready = False
        self._reader = reader
        self._writer = writer
        self._killed = False

    @property
    def alive(self) -> bool:
        return self.process.returncode is None and not self._killed

    async def say(self, command: AnyCommand) -> None:
        with suppress(ConnectionError):  # it died: hearing says so, and how
            self._writer.write(frame(command))
            await self._writer.drain()

    async def hear(self) -> AnyMessage:
        """Raises ChildDied."""
        try:
            (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            return read_message(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ChildDied(await self.process.wait()) from None

    def kill(self) -> None:
        """At once, with all that it started. To wait until it is gone is another matter.

        What has ended and was asked how gets no signal: its number may be another group's by now.
        """
        self._killed = True
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Kill it, and return when neither it nor anything that it started lives."""
        self.kill()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
        await self.process.wait()
        try:
            async with asyncio.timeout(GROUP_ENDS_WITHIN_S):
                while _group_lives(self.process.pid):  # noqa: ASYNC110  # the kernel tells nobody when a group ends
                    await asyncio.sleep(0.01)
        except TimeoutError:
            logger.warning("measured process left others behind", extra={"group": self.process.pid})


class ChildEngine:
    """Keeps one measured process warm. What it died of is told to whoever asks next, and then there is a new one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        return self._living().process.pid

    async def start(self) -> None:
        if self._child is not None and self._child.alive:
            return
        await self.stop()
        self._child = await start_child(self._environment)
        logger.info("measured process started", extra={"child": self._child.process.pid})

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.gone()
            self._child = None

    async def ready(self) -> None:
        await self.start()
        child = self._living()
        if not child.is_ready:
            try:
                await self._answer(child, Ready)
            except (Refusal, ChildDied) as error:
                raise CannotStart(f"the measured process ended before it was ready: {error}") from error
            child.is_ready = True

    async def resolve(self, asked: Resolve) -> Resolved:
        return await self._ask(asked, Resolved)

    async def load(self) -> Loaded:
        return await self._ask(Load(), Loaded)

    async def generate(self, asked: Generate, on_tokens: OnTokens) -> Generated:
        return await self._ask(asked, Generated, on_tokens)

    async def _ask(self, command: AnyCommand, expected: type[Expected], on_tokens: OnTokens | None = None) -> Expected:
        child = self._living()
        await child.say(command)
        return await self._answer(child, expected, on_tokens)

    async def _answer(self, child: Child, expected: type[Expected], on_tokens: OnTokens | None = None) -> Expected:
        try:
            while isinstance(message := await child.hear(), Tokens):
                if on_tokens is not None:
                    on_tokens(message)
        except BaseException:
            child.kill()  # it would go on computing beside the next run
            raise
        if isinstance(message, Refused):
            if message.code in NOT_TO_BE_TRUSTED_AFTER:
                child.kill()
            raise Refusal(message.code, message.reason, message.details)
        if not isinstance(message, expected):
            child.kill()
            raise TypeError(f"the measured process answered {type(message).__name__}, not {expected.__name__}")
        return message

    def _living(self) -> Child:
        if self._child is None:
            raise RuntimeError("the engine was not started")
        return self._child


@asynccontextmanager
async def open_engine(environment: Mapping[str, str]) -> AsyncIterator[ChildEngine]:
    engine = ChildEngine(environment)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


async def start_child(environment: Mapping[str, str]) -> Child:
    """In a session of its own, so that a Ctrl-C in the terminal is ours to answer; what it prints goes to our log."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "consumers.inference.child",
            str(theirs.fileno()),
            str(os.getpid()),
            env={**environment, "PYTHONPATH": _search_path(environment)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.__stderr__,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    return Child(process, reader, writer)


def describe_exit(exit_code: int) -> str:
    """A sentence for people."""
    if exit_code >= 0:
        return f"the measured process ended by itself with exit code {exit_code}; the worker's log says why"
    name = signal.Signals(-exit_code).name
    hint = "; the machine may have run out of memory" if exit_code == -signal.SIGKILL else ""
    return f"the measured process was ended by {name}{hint}"


def _search_path(environment: Mapping[str, str]) -> str:
    """The child imports the code that this process runs, wherever either was started."""
    return os.pathsep.join([SOURCES, *filter(None, [environment.get("PYTHONPATH")])])


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

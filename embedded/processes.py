"""Starting programs, ending them with all that they started, and remembering them on disk."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from embedded.private import write_private

Say = Callable[[str], None]


class DidNotStart(Exception):
    """A program ended, or did not answer in time, before it was ready."""


class CommandFailed(Exception):
    """A command ended with a status other than 0; says what it said."""


class Account(msgspec.Struct, frozen=True):
    """The user that a program runs as, where that is not ourselves."""

    uid: int
    gid: int


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, where it writes, and how it wants to be ended."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    folder: Path | None = None
    account: Account | None = None
    stop_signal: int = signal.SIGTERM
    grace_s: float = 15.0


class Identity(msgspec.Struct, frozen=True):
    """A process that no other can be taken for: ids are used again, but not within one tick of one boot."""

    pid: int
    started: int
    boot: str


class Entry(msgspec.Struct, frozen=True):
    """One line of the record: enough to find the process again, and to end it as it wants to be ended."""

    name: str
    identity: Identity
    stop_signal: int


class Record:
    """Which processes are ours, on disk, for the start that comes after a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[Entry] = []

    def read(self) -> list[Entry]:
        """What the last start left; nothing where the file is missing or was never finished."""
        with suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(self._path.read_bytes(), type=list[Entry])
        return []

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._write()

    def remove(self, pid: int) -> None:
        self._entries = [entry for entry in self._entries if entry.identity.pid != pid]
        self._write()

    def _write(self) -> None:
        write_private(self._path, msgspec.json.encode(self._entries).decode())


class Process:
    """A program that can be started again and again, one process at a time."""

    def __init__(self, program: Program, record: Record) -> None:
        self.program = program
        self._record = record
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """In a session of its own: a Ctrl-C in the terminal reaches only us."""
        program = self.program
        with os.fdopen(os.open(program.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *program.command,
                env=program.environment,
                cwd=program.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                **_as(program.account),
            )
        if identity := identify(self.pid):
            self._record.add(Entry(program.name, identity, program.stop_signal))

    async def wait(self) -> int:
        """The exit status, negative for a signal."""
        status = await self._started.wait()
        self._record.remove(self.pid)
        return status

    async def stop(self) -> None:
        """Ask it to end, wait, and kill it with everything below it if it does not. Cancelled, it kills at once."""
        if self._process is None:
            return
        family = descendants(self.pid) if self.running else []
        if self.running:
            self._process.send_signal(self.program.stop_signal)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), self.program.grace_s)
        finally:
            await self._end(family)

    async def kill(self) -> None:
        """As a crash would: no warning, and nothing below it survives."""
        await self._end(descendants(self.pid))

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def _end(self, family: Iterable[Identity]) -> None:
        if self.running:
            self._started.kill()
        for member in family:
            send(member, signal.SIGKILL)
        await self.wait()

    @property
    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.program.name} was never started")
        return self._process


@asynccontextmanager
async def running(program: Program, record: Record) -> AsyncIterator[Process]:
    process = Process(program, record)
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


async def until_ready(process: Process, answers: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
    """Raises DidNotStart, with the end of its log, when the process ends first or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await answers():
                if not process.running:
                    raise DidNotStart(_what_it_said(process.program, "ended"))
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DidNotStart(_what_it_said(process.program, f"did not answer within {timeout_s:.0f} s")) from None


async def run(
    *command: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    account: Account | None = None,
) -> str:
    """What a command writes; raises CommandFailed. Nothing of it is left when the caller is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        **_as(account),
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = errors.decode(errors="replace").strip()[-600:]
        raise CommandFailed(f"{command[0]} {command[-1]} ended with {process.returncode}: {said}")
    return output.decode(errors="replace")


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, however long the log is."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def keep_previous(log: Path) -> None:
    """A new start writes a new log; the one before stays as `.1`."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))


def identify(pid: int) -> Identity | None:
    """Who has this id now; None for nobody, and for a process that has ended and only waits to be read."""
    try:
        fields = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]), _boot())


def send(identity: Identity, number: int) -> None:
    """A signal for this very process; nothing happens when its id belongs to another by now."""
    if identify(identity.pid) == identity:
        with suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def descendants(pid: int) -> list[Identity]:
    """Everything below a process, as of now."""
    below: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                below.setdefault(int(_stat(int(folder.name))[1]), []).append(int(folder.name))
    found, left = [], list(below.get(pid, []))
    while left:
        child = left.pop()
        left += below.get(child, [])
        if identity := identify(child):
            found.append(identity)
    return found


async def end_leftovers(record: Record, say: Say, grace_s: float = 10.0) -> None:
    """End what the record names and is still the same process, last started first."""
    for entry in reversed(record.read()):
        if identify(entry.identity.pid) == entry.identity:
            say(f"ending {entry.name} (process {entry.identity.pid}), which an earlier start left behind")
            await end(entry.identity, entry.stop_signal, grace_s)


async def end(identity: Identity, stop_signal: int, grace_s: float) -> None:
    """End a process that is no child of ours, and all below it."""
    family = [identity, *descendants(identity.pid)]
    send(identity, stop_signal)
    with suppress(TimeoutError):
        await _until_gone([identity], grace_s)
    for member in family:
        send(member, signal.SIGKILL)
    await _until_gone(family, grace_s)


async def _until_gone(family: Iterable[Identity], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while any(identify(member.pid) == member for member in family):  # noqa: ASYNC110 - no children of ours
            await asyncio.sleep(0.05)


def _as(account: Account | None) -> dict[str, Any]:
    return {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}


def _what_it_said(program: Program, what: str) -> str:
    return f"{program.name} {what}. The end of {program.log}:\n{tail(program.log)}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on; the second, a name in brackets, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

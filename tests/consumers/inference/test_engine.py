"""Who is killed with a measured process, and who is not."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import psutil
import pytest

from consumers.inference.engine import Child
from tests.waiting import until


@asynccontextmanager
async def a_child(script: str) -> AsyncIterator[Child]:
    """A shell in place of the measured process; it says nothing to us."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", script, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    ours, theirs = socket.socketpair()
    with theirs:
        child = Child(process, *await asyncio.open_connection(sock=ours))
        try:
            yield child
        finally:
            await child.gone()


async def test_a_killed_process_takes_along_what_it_started() -> None:
    async with a_child("sleep 1000 & echo $!; wait") as child:
        assert child.process.stdout is not None
        grandchild = psutil.Process(int(await child.process.stdout.readline()))

        child.kill()

        await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


async def test_what_has_ended_gets_no_signal_for_its_number_may_be_anothers() -> None:
    async with a_child("exec cat >&2") as ended, a_child("exec sleep 1000") as other:
        ended.kill()
        await ended.process.wait()
        process = ended.process
        ended.process = SimpleNamespace(pid=other.process.pid, returncode=process.returncode)  # type: ignore[assignment]

        ended.kill()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.process.wait(), 0.3)
        ended.process = process

"""Programs are started, ended with all that they started, and remembered."""

import asyncio
import os
import signal
import stat
from pathlib import Path

import msgspec
import pytest

from embedded.processes import (
    DidNotStart,
    Entry,
    Identity,
    Record,
    descendants,
    end_leftovers,
    identify,
    keep_previous,
    running,
    send,
    tail,
    until_ready,
)
from tests.embedded.programs import DEAF, FOREVER, PARENT, a_program, lives
from tests.waiting import until


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "processes.json")


async def test_a_program_has_a_session_of_its_own_so_that_ctrl_c_reaches_only_us(
    tmp_path: Path, record: Record
) -> None:
    async with running(a_program(tmp_path), record) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


async def test_what_a_program_writes_goes_to_a_log_for_us_alone(tmp_path: Path, record: Record) -> None:
    program = a_program(tmp_path, "import sys; print('to output'); sys.exit('to error')")
    async with running(program, record) as process:
        assert await process.wait() == 1

    assert sorted(tail(program.log).splitlines()) == ["to error", "to output"]
    assert stat.S_IMODE(program.log.stat().st_mode) == 0o600


async def test_stopping_ends_what_the_program_started_too(tmp_path: Path, record: Record) -> None:
    program = a_program(tmp_path, PARENT)
    async with running(program, record):
        child = int(await until(lambda: tail(program.log)))
        assert lives(child)

    await until(lambda: not lives(child))


async def test_a_program_that_ignores_the_request_to_end_is_killed(tmp_path: Path, record: Record) -> None:
    program = a_program(tmp_path, DEAF, grace_s=0.1)
    async with running(program, record) as process:
        await until(lambda: tail(program.log))

    assert await process.wait() == -signal.SIGKILL


async def test_a_stop_that_is_cut_short_kills_at_once(tmp_path: Path, record: Record) -> None:
    program = a_program(tmp_path, DEAF, grace_s=1000)
    async with running(program, record) as process:
        await until(lambda: tail(program.log))
        stopping = asyncio.create_task(process.stop())
        await asyncio.wait([stopping], timeout=0.1)
        stopping.cancel()

        with pytest.raises(asyncio.CancelledError):
            await stopping

        assert not lives(process.pid)


async def test_a_process_that_was_left_behind_is_found_and_ended(tmp_path: Path, record: Record) -> None:
    program = a_program(tmp_path, PARENT)
    async with running(program, record) as process:
        child = int(await until(lambda: tail(program.log)))
        said: list[str] = []

        await asyncio.gather(end_leftovers(Record(tmp_path / "processes.json"), said.append), process.wait())

        assert not lives(process.pid)
        assert not lives(child)
        assert said == [f"ending example (process {process.pid}), which an earlier start left behind"]


async def test_an_innocent_process_that_has_the_id_of_an_old_one_is_left_alone(tmp_path: Path, record: Record) -> None:
    async with running(a_program(tmp_path), record) as process:
        now = identify(process.pid)
        assert now
        olds = [Identity(now.pid, now.started - 1, now.boot), Identity(now.pid, now.started, "an earlier boot")]
        entries = [Entry("old", old, signal.SIGKILL) for old in olds]
        (tmp_path / "old.json").write_bytes(msgspec.json.encode(entries))

        said: list[str] = []

        await end_leftovers(Record(tmp_path / "old.json"), said.append)
        for old in olds:
            send(old, signal.SIGKILL)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.2)
        assert said == []


async def test_a_process_that_has_ended_is_no_longer_on_record(tmp_path: Path, record: Record) -> None:
    async with running(a_program(tmp_path), record) as process:
        assert [entry.identity for entry in Record(tmp_path / "processes.json").read()] == [identify(process.pid)]

    assert Record(tmp_path / "processes.json").read() == []


@pytest.mark.parametrize("text", [None, "", "[{", '{"other": 1}'])
def test_a_record_that_is_missing_or_broken_names_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "processes.json").write_text(text)

    assert Record(tmp_path / "processes.json").read() == []


async def test_a_program_that_ends_before_it_is_ready_says_why(tmp_path: Path, record: Record) -> None:
    async def never() -> bool:
        return False

    async with running(a_program(tmp_path, "import sys; sys.exit('the disk is full')"), record) as process:
        with pytest.raises(DidNotStart, match="the disk is full"):
            await until_ready(process, never, timeout_s=30)

    async with running(a_program(tmp_path, FOREVER), record) as process:
        with pytest.raises(DidNotStart, match="did not answer within 0 s"):
            await until_ready(process, never, timeout_s=0.1)


def test_the_log_of_the_start_before_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    keep_previous(log)
    log.write_text("first")
    keep_previous(log)

    assert ((tmp_path / "app.log.1").read_text(), log.exists()) == ("first", False)


def test_the_end_of_a_long_log_is_short(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {number}\n" for number in range(100_000)))

    assert tail(tmp_path / "log", lines=2) == "line 99998\nline 99999"


def test_descendants_are_those_below_and_no_others() -> None:
    assert os.getpid() in [identity.pid for identity in descendants(os.getppid())]
    assert os.getppid() not in [identity.pid for identity in descendants(os.getpid())]

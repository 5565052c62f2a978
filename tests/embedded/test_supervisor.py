"""What dies is started again, and what keeps dying is started ever later."""

import os
import signal
from pathlib import Path

import pytest

from embedded.processes import DidNotStart, Record, tail
from embedded.supervisor import BackOff, supervised
from tests.embedded.programs import a_program, lives
from tests.waiting import until


def ignore(_: str) -> None:
    """What is said here is not what is tested."""


async def never() -> bool:
    return False


QUICK = BackOff(first_s=0.01, longest_s=0.04)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "processes.json")


def test_the_wait_doubles_up_to_a_limit() -> None:
    back_off = BackOff(first_s=0.5, longest_s=30)

    assert [back_off.after(deaths) for deaths in (1, 2, 3, 7, 1000)] == [0.5, 1, 2, 30, 30]


async def test_a_killed_program_is_started_again(tmp_path: Path, record: Record) -> None:
    said: list[str] = []
    async with supervised(a_program(tmp_path), record, said.append, QUICK) as kept:
        first = kept.process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: kept.process.pid != first)
        second = kept.process.pid

    assert said == [
        f"started example (process {first})",
        "example ended (SIGKILL); starting it again in 0.01 s",
        f"started example (process {second})",
        "stopped example",
    ]


async def test_a_program_that_keeps_dying_is_started_ever_later_and_its_log_is_shown_once(
    tmp_path: Path, record: Record
) -> None:
    said: list[str] = []
    program = a_program(tmp_path, "import sys; sys.exit('no such table')")
    async with supervised(program, record, said.append, QUICK):
        await until(lambda: sum("again" in line for line in said) >= 5)

    again = [line for line in said if "again" in line][:5]
    assert again == [f"example ended (status 1); starting it again in {s} s" for s in (0.01, 0.02, 0.04, 0.04, 0.04)]
    assert sum("no such table" in line for line in said) == 1


async def test_a_program_that_lasted_is_forgiven_its_earlier_deaths(tmp_path: Path, record: Record) -> None:
    said: list[str] = []
    forgiving = BackOff(first_s=0.01, steady_s=0.0)
    async with supervised(a_program(tmp_path, "pass"), record, said.append, forgiving):
        await until(lambda: sum("again" in line for line in said) >= 4)

    assert all("in 0.01 s" in line for line in said if "again" in line)


async def test_a_program_that_dies_at_every_start_ends_the_wait_for_it(tmp_path: Path, record: Record) -> None:
    said: list[str] = []
    program = a_program(tmp_path, "import sys; sys.exit('bad option')")
    async with supervised(program, record, said.append, QUICK) as kept:
        with pytest.raises(DidNotStart, match="example keeps ending"):
            await kept.until_ready(never, timeout_s=60)

    assert sum("bad option" in line for line in said) == 1


async def test_a_program_that_never_answers_ends_the_wait_with_the_end_of_its_log(
    tmp_path: Path, record: Record
) -> None:
    program = a_program(tmp_path, "print('still loading', flush=True); import signal; signal.pause()")
    async with supervised(program, record, ignore, QUICK) as kept:
        await until(lambda: tail(program.log))
        with pytest.raises(DidNotStart, match=r"did not answer within 0 s(.|\n)*still loading"):
            await kept.until_ready(never, timeout_s=0.1)


async def test_a_program_that_vanished_from_the_disk_is_tried_again(tmp_path: Path, record: Record) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec sleep 1000\n")
    script.chmod(0o700)
    said: list[str] = []
    async with supervised(a_program(tmp_path, command=(str(script),)), record, said.append, QUICK) as kept:
        away = script.rename(tmp_path / "away")
        os.kill(kept.process.pid, signal.SIGKILL)
        await until(lambda: any("could not be started" in line for line in said))
        away.rename(script)
        await until(lambda: kept.process.running)


async def test_nothing_is_started_after_the_end(tmp_path: Path, record: Record) -> None:
    async with supervised(a_program(tmp_path, "pass"), record, ignore, BackOff(first_s=0.2)) as kept:
        await until(lambda: not kept.process.running)

    assert not lives(kept.process.pid)
    assert Record(tmp_path / "processes.json").read() == []

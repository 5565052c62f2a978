"""Watching a process tree from outside."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from consumers.inference.hardware.gpus import open_gpus
from consumers.inference.hardware.sampler import LIST_INTERVAL_NS, Sampler, Tree, next_beat, sampling
from tests.consumers.inference.scripted import ScriptedGpus
from tests.waiting import until

PARENT_OF_ONE = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"


class SteppedClock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process with one child, which waits until nobody can write to it any more."""
    with subprocess.Popen([sys.executable, "-c", PARENT_OF_ONE], stdin=subprocess.PIPE) as process:
        yield process
        process.communicate()


async def test_the_tree_has_the_children_too_and_lists_them_now_and_then(family: subprocess.Popen[bytes]) -> None:
    clock = SteppedClock()
    tree = Tree(family.pid, clock)
    tree.read()
    (child,) = await until(lambda: psutil.Process(family.pid).children())

    tree.read()
    before = tree.pids
    clock.now += LIST_INTERVAL_NS
    tree.read()

    assert (before, tree.pids) == ({family.pid}, {family.pid, child.pid})


async def test_samples_have_the_phase_and_the_runs_clock() -> None:
    sampler = Sampler(os.getpid(), 5, zero=0, gpus=None, clock=SteppedClock())
    sampler.sample()
    sampler.phase = "measuring"
    sampler.sample()

    first, second = sampler.fresh()

    assert (first.phase, second.phase, sampler.emitted, sampler.fresh()) == ("loading", "measuring", 2, ())
    assert 0 < first.offset_ms < second.offset_ms
    assert (first.ram_bytes > 1_000_000, first.gpus, sampler.measured) == (True, (), [second])


async def test_sampling_goes_on_by_itself_and_ends_with_its_block() -> None:
    sampler = Sampler(os.getpid(), 5, zero=0, gpus=ScriptedGpus())

    async with sampling(sampler):
        await until(lambda: sampler.emitted >= 3)
    emitted = sampler.emitted
    await asyncio.sleep(0)

    assert sampler.emitted == emitted
    assert sampler.fresh()[0].gpus[0].utilization_percent == 70.0


async def test_sampling_outlives_the_process_that_it_watches(family: subprocess.Popen[bytes]) -> None:
    sampler = Sampler(family.pid, 5, zero=0, gpus=None)

    async with sampling(sampler):
        await until(lambda: sampler.emitted)
        family.communicate()

    with pytest.raises(psutil.NoSuchProcess):
        sampler.read()


def test_the_energy_counter_is_read_only_at_the_ends_of_a_window() -> None:
    sampler = Sampler(os.getpid(), 5, zero=0, gpus=ScriptedGpus())

    sampler.sample()

    assert (sampler.read().energy_mj, sampler.read(gpu=0).energy_mj) == (None, 1000)


@pytest.mark.parametrize(("now", "beat"), [(100, 200), (150, 200), (200, 200), (201, 300), (950, 1000)])
def test_a_missed_beat_is_left_out(now: int, beat: int) -> None:
    assert next_beat(due=100, now=now, interval=100) == beat


def test_a_machine_without_a_driver_has_no_gpus() -> None:
    with open_gpus() as gpus:
        assert len(gpus.sample({1})) == len(gpus.devices)

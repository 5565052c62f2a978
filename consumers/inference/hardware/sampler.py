"""Watches the measured process tree from outside, at a steady beat, and keeps what it saw while measuring."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
from msgspec import Struct

from consumers.inference.hardware.gpus import Gpus
from events.benchmark import Phase
from events.result import MetricSample

LIST_INTERVAL_NS = 2_000_000_000

Clock = Callable[[], int]


class Reading(Struct, frozen=True, kw_only=True):
    """Counters at one moment of `time.perf_counter_ns()`: two of them make a window."""

    at: int
    tree_cpu_s: float
    ram_bytes: int
    system_cpu_s: float
    system_ram_bytes: int
    own_cpu_s: float
    energy_mj: int | None = None


class Tree:
    """A process and its children. Listing them costs milliseconds, so it is done every other second."""

    def __init__(self, pid: int, clock: Clock) -> None:
        self._root = psutil.Process(pid)
        self._children: list[psutil.Process] = []
        self._clock = clock
        self._listed: int | None = None

    @property
    def pids(self) -> set[int]:
        return {self._root.pid, *(child.pid for child in self._children)}

    def read(self) -> tuple[float, int]:
        """CPU seconds that the tree has used, with those of its children that ended, and bytes of RSS.

        Raises psutil.NoSuchProcess when the root is gone.
        """
        self._list()
        cpu_s, ram_bytes = _read(self._root)
        for child in self._children:
            try:
                child_cpu_s, child_ram_bytes = _read(child)
            except psutil.NoSuchProcess:
                continue
            cpu_s += child_cpu_s
            ram_bytes += child_ram_bytes
        return cpu_s, ram_bytes

    def _list(self) -> None:
        now = self._clock()
        if self._listed is None or now - self._listed >= LIST_INTERVAL_NS:
            self._children = self._root.children(recursive=True)
            self._listed = now


class Sampler:
    """`fresh` gives each sample once, to be told; `measured` keeps those of the measured window for the summary."""

    def __init__(
        self, pid: int, interval_ms: int, zero: int, gpus: Gpus | None, clock: Clock = time.perf_counter_ns
    ) -> None:
        self.phase: Phase = "loading"
        self.emitted = 0
        self.measured: list[MetricSample] = []
        self._fresh: list[MetricSample] = []
        self._interval = interval_ms * 1_000_000
        self._zero = zero
        self._gpus = gpus
        self._clock = clock
        self._tree = Tree(pid, clock)
        self._cores = psutil.cpu_count() or 1
        self.last = self.read()

    def read(self, gpu: int | None = None) -> Reading:
        """Raises psutil.NoSuchProcess. With `gpu`, the energy counter of that device as well."""
        tree_cpu_s, ram_bytes = self._tree.read()
        return Reading(
            at=self._clock(),
            tree_cpu_s=tree_cpu_s,
            ram_bytes=ram_bytes,
            system_cpu_s=busy_seconds(),
            system_ram_bytes=psutil.virtual_memory().used,
            own_cpu_s=time.process_time(),
            energy_mj=self._gpus.energy_mj(gpu) if self._gpus and gpu is not None else None,
        )

    def fresh(self) -> tuple[MetricSample, ...]:
        """The samples since the last call."""
        fresh, self._fresh = tuple(self._fresh), []
        return fresh

    async def run(self) -> None:
        """Sample until cancelled, or until the process is gone. A missed beat is left out, not made up for."""
        due = self._clock() + self._interval
        while True:
            await asyncio.sleep(max(0, due - self._clock()) / 1e9)
            try:
                self.sample()
            except psutil.NoSuchProcess:
                return
            due = next_beat(due, self._clock(), self._interval)

    def sample(self) -> None:
        before, now = self.last, self.read()
        self.last = now
        sample = MetricSample(
            offset_ms=(now.at - self._zero) / 1e6,
            phase=self.phase,
            cpu_percent=self._percent(now.tree_cpu_s - before.tree_cpu_s, now.at - before.at),
            ram_bytes=now.ram_bytes,
            system_cpu_percent=self._percent(now.system_cpu_s - before.system_cpu_s, now.at - before.at),
            system_ram_bytes=now.system_ram_bytes,
            gpus=self._gpus.sample(self._tree.pids) if self._gpus else (),
        )
        self.emitted += 1
        self._fresh.append(sample)
        if self.phase == "measuring":
            self.measured.append(sample)

    def _percent(self, cpu_s: float, elapsed: int) -> float:
        """Of all logical cores. The kernel counts in ticks of 10 ms, so a short interval can seem overfull."""
        return min(100.0, max(0.0, cpu_s * 1e9 / (elapsed * self._cores) * 100))


@asynccontextmanager
async def sampling(sampler: Sampler) -> AsyncIterator[None]:
    task = asyncio.create_task(sampler.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def next_beat(due: int, now: int, interval: int) -> int:
    """The first beat after `now` of those that `due` is one of."""
    return due + max(1, -(-(now - due) // interval)) * interval


def busy_seconds() -> float:
    """CPU seconds of all cores that were not idle, those stolen by other machines on the same host included."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _read(process: psutil.Process) -> tuple[float, int]:
    with process.oneshot():
        return sum(process.cpu_times()[:4]), process.memory_info().rss

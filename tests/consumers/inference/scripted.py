"""Plain fakes: a measured process that does as it is told, GPUs out of a table, and a worker's identity."""

import asyncio
import os
import time
from collections.abc import Collection
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from consumers.inference.child.protocol import Generate, Generated, Loaded, Resolve, Resolved, Tokens
from consumers.inference.engine import OnTokens
from consumers.inference.hardware.gpus import GpuDevice
from consumers.inference.report import RunIdentity, WorkerIdentity, now
from consumers.inference.run import Taken, Tools
from events.result import GpuSample
from tests.builders import JOB, NOON, REQUEST

LONGEST_S = 100.0


def generated(**changes: Any) -> Generated:
    """Three tokens: the first after 20 ms, then one every 10 ms; 1 ms later it is over."""
    started = changes.pop("started", time.perf_counter_ns())
    default = Generated(
        prompt_tokens=6,
        started=started,
        tokenized=started + 100_000,
        token_stamps=tuple(started + ms * 1_000_000 for ms in (20, 30, 40)),
        finished=started + 41_000_000,
        finish_reason="length",
        output="blue sky",
        replaced=False,
    )
    return replace(default, **changes)


class ScriptedEngine:
    """Answers at once, unless `hold` says at which generation to wait until it is set free; sampling sees ourselves."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.resolved = Resolved(device="cpu", weights="random", revision=None, dtype="float32")
        self.loaded = Loaded(load_ms=12.0, warm=False, facts={"torch": "scripted"})
        self.asked: list[Resolve | Generate] = []
        self.starts = 0
        self.killed = 0
        self.output = "blue sky"
        self.replaced = False
        self.fails: BaseException | None = None
        self.cannot_start: BaseException | None = None
        self.hold: int | None = None
        self.free = asyncio.Event()

    @property
    def generations(self) -> list[Generate]:
        return [asked for asked in self.asked if isinstance(asked, Generate)]

    async def start(self) -> None:
        self.starts += 1

    async def ready(self) -> None:
        await self.start()
        if self.cannot_start is not None:
            raise self.cannot_start

    async def resolve(self, asked: Resolve) -> Resolved:
        self.asked.append(asked)
        return self.resolved

    async def load(self) -> Loaded:
        return self.loaded

    async def generate(self, asked: Generate, on_tokens: OnTokens) -> Generated:
        self.asked.append(asked)
        on_tokens(Tokens(count=1, text="blue"))
        if len(self.generations) == self.hold:
            await self._wait()
        if self.fails is not None:
            raise self.fails
        on_tokens(Tokens(count=3, text=" sky"))
        return generated(output=self.output, replaced=self.replaced)

    async def _wait(self) -> None:
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.killed += 1
            raise


class ScriptedGpus:
    """One GPU; its energy counter goes up by a joule each time it is read."""

    def __init__(self) -> None:
        self.devices = (
            GpuDevice(
                index=0,
                name="Scripted 9000",
                uuid="GPU-7",
                memory_bytes=8_000_000_000,
                power_limit_w=300.0,
                driver="1.0",
                cuda=13000,
            ),
        )
        self.energy = 0

    def sample(self, pids: Collection[int]) -> tuple[GpuSample, ...]:
        return (a_gpu_sample(),)

    def energy_mj(self, index: int) -> int | None:
        self.energy += 1000
        return self.energy


class NoGpus:
    devices: tuple[GpuDevice, ...] = ()

    def sample(self, pids: Collection[int]) -> tuple[GpuSample, ...]:
        return ()

    def energy_mj(self, index: int) -> int | None:
        return None


def a_gpu_sample(**changes: Any) -> GpuSample:
    sample = GpuSample(
        index=0,
        utilization_percent=70.0,
        memory_bytes=3_000_000_000,
        process_memory_bytes=2_000_000_000,
        power_w=200.0,
        temperature_c=60.0,
        sm_clock_mhz=1500.0,
        throttle_reasons=0,
    )
    return replace(sample, **changes)


def an_identity() -> WorkerIdentity:
    return WorkerIdentity(
        worker_id="host-1-aa", host="host", pid=1, pool="cpu", hardware={"cores": 2}, version="0.1.0", started_at=NOON
    )


def a_run() -> RunIdentity:
    return RunIdentity(job_id=JOB, request_id=REQUEST, attempt=1, run_id=uuid4())


def tools(engine: ScriptedEngine, gpus: ScriptedGpus | NoGpus | None = None) -> Tools:
    return Tools(worker=an_identity(), engine=engine, gpus=gpus or NoGpus(), longest_timeout_s=LONGEST_S)


def taken() -> Taken:
    return Taken(at=now(), zero=time.perf_counter_ns())

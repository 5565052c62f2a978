"""The life of one run: resolve, load, warm up, measure. Facts in, facts out; it knows no broker."""

import asyncio
import secrets
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import psutil
from msgspec import Struct

from consumers.inference.child.protocol import Generate, Generated, Loaded, Resolve, Resolved
from consumers.inference.engine import ChildDied, Engine, Refusal
from consumers.inference.hardware.environment import other_measured_processes
from consumers.inference.hardware.figures import Window, hardware_metrics
from consumers.inference.hardware.gpus import Gpus
from consumers.inference.hardware.sampler import Reading, Sampler, sampling
from consumers.inference.measurement import Readiness, iteration
from consumers.inference.progress import Progress
from consumers.inference.report import Report, WorkerIdentity, happens, now
from consumers.inference.result import Measurement, cautions_about, cautions_of, result_of, with_outputs_cut
from events.benchmark import Phase
from events.messages import (
    BenchmarkCompleted,
    BenchmarkFailed,
    BenchmarkProgressed,
    BenchmarkRequested,
    BenchmarkStarted,
    FailureCode,
    MetricSampled,
)
from events.result import Caution, HardwareMetrics, Iteration

TELL_INTERVAL_S = 0.5
EVENT_BUDGET = 8 * 1024 * 1024
ENVELOPE = 4096
SEEDS = 2**63
OUTPUTS_REPLACED = Caution(
    code="nul_replaced", message="the output held NUL or lone surrogates, which are replaced by U+FFFD"
)

Outcome = BenchmarkCompleted | BenchmarkFailed
Found = TypeVar("Found")


class Taken(Struct, frozen=True, kw_only=True):
    """When a worker took the request: on the wall's clock, and where the run's own clock begins."""

    at: datetime
    zero: int


class Tools(Struct, frozen=True, kw_only=True):
    """What a run is made with, the same for every run of a worker."""

    worker: WorkerIdentity
    engine: Engine
    gpus: Gpus
    longest_timeout_s: float


async def run_benchmark(request: BenchmarkRequested, taken: Taken, tools: Tools, report: Report) -> Outcome:
    """An outcome that we can name is a fact to report; anything else is left to rise.

    Cancelled, it kills the measured process, and what was told stays told.
    """
    run = Run(request, taken, tools, report)
    try:
        async with asyncio.timeout(run.remaining_s) as deadline:
            return await run.to_its_end()
    except TimeoutError:
        if not deadline.expired():
            raise
        return run.failed(
            "timeout",
            f"the run was not over after {run.timeout_s:g} s; it was {run.progress.phase}",
            {"timeout_s": run.timeout_s, "phase": run.progress.phase},
        )
    except Refusal as refusal:
        return run.failed(refusal.code, refusal.reason, refusal.details)
    except ChildDied as death:
        return run.failed("child_died", str(death), {"exit_code": death.exit_code, "phase": run.progress.phase})
    except psutil.NoSuchProcess:
        return run.failed("child_died", "the measured process is gone", {"phase": run.progress.phase})


class Run:
    """What is known so far, so that a run that ends early can say what was measured until then."""

    def __init__(self, request: BenchmarkRequested, taken: Taken, tools: Tools, report: Report) -> None:
        self.progress = Progress()
        self.timeout_s = min(request.spec.timeout_s, tools.longest_timeout_s)
        self._request = request
        self._spec = request.spec
        self._taken = taken
        self._tools = tools
        self._report = report
        self._seed = request.spec.seed if request.spec.seed is not None else secrets.randbits(32)
        self._iterations: list[Iteration] = []
        self._cautions: list[Caution] = []
        self._sampler: Sampler | None = None
        self._begin: Reading | None = None
        self._peaks: list[Generated] = []
        self._told_samples_at = 0.0

    @property
    def remaining_s(self) -> float:
        return self.timeout_s - (time.perf_counter_ns() - self._taken.zero) / 1e9

    async def to_its_end(self) -> Outcome:
        self._warn_if_clamped()
        resolved = await self._resolve()
        on_gpu = resolved.device == "cuda"
        gpus = self._tools.gpus if on_gpu else None
        engine, spec = self._tools.engine, self._spec
        self._sampler = Sampler(engine.pid, spec.sample_interval_ms, self._taken.zero, gpus)
        measurement = await self._while_telling(self._measure(resolved, self._sampler))
        self._cautions += cautions_about(measurement.window)
        return self._completed(measurement)

    async def _resolve(self) -> Resolved:
        worker, spec = self._tools.worker, self._spec
        await self._tools.engine.ready()
        resolved = await self._tools.engine.resolve(
            Resolve(model=spec.model, weights=spec.weights, device=spec.device, use_gpu=spec.use_gpu)
        )
        self._cautions += cautions_of(resolved)
        await self._report(
            BenchmarkStarted,
            worker_id=worker.worker_id,
            host=worker.host,
            pool=worker.pool,
            device=resolved.device,
            weights=resolved.weights,
            revision=resolved.revision,
            dtype=resolved.dtype,
            started_at=self._taken.at,
        )
        return resolved

    async def _measure(self, resolved: Resolved, sampler: Sampler) -> Measurement:
        async with sampling(sampler):
            self.progress.enter("loading", 0)
            loaded = await self._tools.engine.load()
            window = await self._window_of_all(sampler, self._nvml_index(loaded))
        return Measurement(
            spec=self._spec,
            seed=self._seed,
            resolved=resolved,
            loaded=loaded,
            readiness=self._readiness(loaded),
            iterations=tuple(self._iterations),
            window=window,
            emitted=sampler.emitted,
            machine=self._tools.worker.hardware,
            other_measured_processes=other_measured_processes(self._tools.engine.pid),
        )

    async def _window_of_all(self, sampler: Sampler, gpu: int | None) -> Window:
        """The measured process idles between two iterations, so both readings lie at the window's very ends."""
        if self._spec.warmup_iterations:
            await self._generate_all("warmup", self._spec.warmup_iterations, sampler)
        self._begin = sampler.read(gpu)
        await self._generate_all("measuring", self._spec.iterations, sampler)
        return self._window(self._begin, sampler.read(gpu), sampler, gpu)

    async def _generate_all(self, phase: Phase, iterations: int, sampler: Sampler) -> None:
        sampler.phase = phase
        self.progress.enter(phase, iterations)
        for index in range(iterations):
            self.progress.begin(index + 1)
            generated = await self._tools.engine.generate(self._generation(index), self.progress.heard)
            self._keep(generated, phase)

    def _generation(self, index: int) -> Generate:
        spec = self._spec
        return Generate(
            prompt=spec.prompt,
            max_tokens=spec.max_tokens,
            temperature=spec.temperature,
            top_p=spec.top_p,
            top_k=spec.top_k,
            seed=(self._seed + index) % SEEDS,
            stop=spec.stop,
            ignore_eos=spec.ignore_eos,
        )

    def _keep(self, generated: Generated, phase: Phase) -> None:
        self._iterations.append(iteration(generated, len(self._iterations), phase, self._taken.zero))
        if phase == "measuring":
            self._peaks.append(msgspec.structs.replace(generated, token_stamps=(), output=""))
        if generated.replaced and OUTPUTS_REPLACED not in self._cautions:
            self._cautions.append(OUTPUTS_REPLACED)

    async def _while_telling(self, work: Coroutine[Any, Any, Found]) -> Found:
        """Do the work and tell of it meanwhile. Where nothing can be told any more, the work ends."""
        over = asyncio.Event()
        working, telling = asyncio.create_task(work), asyncio.create_task(self._tell_until(over))
        try:
            await asyncio.wait({working, telling}, return_when=asyncio.FIRST_COMPLETED)
            self._finish(over)
            await telling
            return await working
        finally:
            self._finish(over)
            working.cancel()
            await asyncio.gather(working, telling, return_exceptions=True)

    def _finish(self, over: asyncio.Event) -> None:
        over.set()
        self.progress.news.set()

    async def _tell_until(self, over: asyncio.Event) -> None:
        """At most twice a second; progress at once as well when the phase changes, and all that is left at the end."""
        while not over.is_set():
            await happens(self.progress.news, within=TELL_INTERVAL_S)
            for update in self.progress.untold():
                await self._report(BenchmarkProgressed, **msgspec.structs.asdict(update))
            if over.is_set() or time.monotonic() - self._told_samples_at >= TELL_INTERVAL_S:
                await self._tell_samples()

    async def _tell_samples(self) -> None:
        self._told_samples_at = time.monotonic()
        if self._sampler is not None and (samples := self._sampler.fresh()):
            await self._report(MetricSampled, samples=samples, emitted=self._sampler.emitted)

    def _completed(self, measurement: Measurement) -> Outcome:
        """Cut to what one event may hold; a result that is larger without any output is a failure."""
        completed = self._report.stamp(
            BenchmarkCompleted,
            result=result_of(measurement),
            iterations=measurement.iterations,
            warnings=tuple(self._cautions),
            device=measurement.resolved.device,
            weights=measurement.resolved.weights,
            samples_emitted=self._emitted,
            finished_at=now(),
        )
        if (size := encoded_size(completed)) <= EVENT_BUDGET:
            return completed
        bare = encoded_size(with_outputs_cut(completed, 0))
        if bare <= EVENT_BUDGET:
            return with_outputs_cut(completed, EVENT_BUDGET - bare)
        self._iterations.clear()  # a failure has to fit as well
        return self.failed(
            "result_too_large",
            f"the result has {size} bytes, and an event may hold {EVENT_BUDGET}; ask for fewer iterations or tokens",
            {"bytes": size, "limit": EVENT_BUDGET},
        )

    def failed(self, code: FailureCode, message: str, details: dict[str, Any]) -> BenchmarkFailed:
        return self._report.stamp(
            BenchmarkFailed,
            code=code,
            message=message,
            details=details,
            iterations=tuple(self._iterations),
            hardware_metrics=self._hardware_so_far(),
            warnings=tuple(self._cautions),
            samples_emitted=self._emitted,
            finished_at=now(),
        )

    @property
    def _emitted(self) -> int:
        return self._sampler.emitted if self._sampler is not None else 0

    def _hardware_so_far(self) -> HardwareMetrics | None:
        """Up to the last sample, for the process itself can no longer be read."""
        if self._begin is None or self._sampler is None or self._sampler.last.at <= self._begin.at:
            return None
        return hardware_metrics(self._window(self._begin, self._sampler.last, self._sampler, None))

    def _window(self, begin: Reading, end: Reading, sampler: Sampler, gpu: int | None) -> Window:
        return Window(
            begin=begin,
            end=end,
            samples=tuple(sampler.measured),
            cores=psutil.cpu_count() or 1,
            gpu=gpu,
            allocated_bytes=max((one.allocated_bytes for one in self._peaks if one.allocated_bytes), default=None),
            reserved_bytes=max((one.reserved_bytes for one in self._peaks if one.reserved_bytes), default=None),
        )

    def _nvml_index(self, loaded: Loaded) -> int | None:
        devices = self._tools.gpus.devices
        return next((gpu.index for gpu in devices if loaded.gpu_uuid and gpu.uuid == loaded.gpu_uuid), None)

    def _readiness(self, loaded: Loaded) -> Readiness:
        queued_ms = (self._taken.at - self._request.requested_at).total_seconds() * 1000
        return Readiness(queue_ms=queued_ms if queued_ms >= 0 else None, load_ms=loaded.load_ms, model_warm=loaded.warm)

    def _warn_if_clamped(self) -> None:
        if self.timeout_s < self._spec.timeout_s:
            message = f"timeout_s {self._spec.timeout_s:g} is more than this worker allows; {self.timeout_s:g} was used"
            self._cautions.append(Caution(code="timeout_clamped", message=message))


def encoded_size(event: Outcome) -> int:
    """Bytes on the wire, the envelope included."""
    return len(msgspec.json.encode(event)) + ENVELOPE

"""What the machine did in the measured window: two readings and the samples between them in, figures out."""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from operator import or_
from statistics import fmean
from typing import Any

from msgspec import Struct

from consumers.inference.hardware.gpus import THERMAL_SLOWDOWN
from consumers.inference.hardware.sampler import Reading
from consumers.inference.measurement import distribution_or_none
from events.result import Energy, GpuSample, HardwareMetrics, MetricSample, Observer, SampleSummary

GB = 1e9
GPU_NEEDS_S = 1.0
CPU_NEEDS_S = 0.5  # the kernel counts CPU time in ticks, which say little in a shorter window
TICK_S = 0.01
OTHERS_PERCENT = 10.0


class Window(Struct, frozen=True, kw_only=True):
    """The measured window. `gpu` is NVML's index of the device that computed, None where none did."""

    begin: Reading
    end: Reading
    samples: tuple[MetricSample, ...]
    cores: int
    gpu: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None

    @property
    def seconds(self) -> float:
        return (self.end.at - self.begin.at) / 1e9

    def percent(self, cpu_s: float) -> float:
        """CPU seconds as a share of all logical cores in the window."""
        return 100 * cpu_s / (self.seconds * self.cores)

    @property
    def counts_cpu(self) -> bool:
        return self.seconds >= CPU_NEEDS_S

    @property
    def gpu_samples(self) -> list[GpuSample]:
        return [gpu for sample in self.samples for gpu in sample.gpus if gpu.index == self.gpu]


def hardware_metrics(window: Window) -> HardwareMetrics:
    begin, end = window.begin, window.end
    return HardwareMetrics(
        cpu_usage_percent=window.percent(end.tree_cpu_s - begin.tree_cpu_s) if window.counts_cpu else None,
        ram_usage_gb=max(begin.ram_bytes, end.ram_bytes, *(sample.ram_bytes for sample in window.samples)) / GB,
        gpu_usage_percent=gpu_usage_percent(window),
        vram_usage_gb=vram_usage_gb(window),
        system_cpu_percent=window.percent(end.system_cpu_s - begin.system_cpu_s) if window.counts_cpu else None,
        system_ram_gb=max(begin.system_ram_bytes, end.system_ram_bytes) / GB,
        other_cpu_percent=others_percent(window) if window.counts_cpu else None,
        torch_allocated_gb=_gb(window.allocated_bytes),
        torch_reserved_gb=_gb(window.reserved_bytes),
        gpus=tuple(_one_gpu(index, window) for index in _indexes(window.samples)),
    )


def others_percent(window: Window) -> float:
    """What was neither the measured process tree nor the worker that watched it.

    In a window too short for CPU figures it is what others used at the least: what the ticks can be wrong by, one for
    each core and two for the tree, is taken off. Few others stay unseen there, and none are invented.
    """
    begin, end = window.begin, window.end
    ours = end.tree_cpu_s - begin.tree_cpu_s + end.own_cpu_s - begin.own_cpu_s
    doubt = 0.0 if window.counts_cpu else TICK_S * (window.cores + 2)
    return max(0.0, window.percent(end.system_cpu_s - begin.system_cpu_s - ours - doubt))


def contaminated(window: Window) -> bool:
    return others_percent(window) > OTHERS_PERCENT


def throttled(window: Window) -> bool:
    return any((gpu.throttle_reasons or 0) & THERMAL_SLOWDOWN for gpu in window.gpu_samples)


def gpu_usage_percent(window: Window) -> float | None:
    """NVML averages over up to a second, so a shorter window would show what was before it."""
    values = _values(gpu.utilization_percent for gpu in window.gpu_samples)
    return fmean(values) if values and window.seconds >= GPU_NEEDS_S else None


def vram_usage_gb(window: Window) -> float | None:
    """What NVML gives the process, else what torch reserved, which lacks the CUDA context."""
    values = _values(gpu.process_memory_bytes for gpu in window.gpu_samples)
    return _gb(max(values, default=window.reserved_bytes))


def energy(window: Window, tokens: int) -> Energy:
    begin, end = window.begin.energy_mj, window.end.energy_mj
    joules = None if begin is None or end is None else (end - begin) / 1000
    return Energy(
        gpu_joules=joules,
        joules_per_token=joules / tokens if joules is not None and tokens else None,
        source="NVML total energy counter" if joules is not None else None,
        window_s=window.seconds,
        samples=len(window.samples),
        largest_gap_ms=largest_gap_ms(window.samples),
    )


def observer(window: Window) -> Observer:
    cpu_s = window.end.own_cpu_s - window.begin.own_cpu_s
    return Observer(cpu_s=cpu_s, core_percent=100 * cpu_s / window.seconds, samples=len(window.samples))


def sample_summary(window: Window, emitted: int, interval_ms: int) -> SampleSummary:
    return SampleSummary(
        emitted=emitted,
        interval_ms=interval_ms,
        largest_gap_ms=largest_gap_ms(window.samples),
        cpu_percent=distribution_or_none(sample.cpu_percent for sample in window.samples),
        ram_gb=distribution_or_none(sample.ram_bytes / GB for sample in window.samples),
        gpu_percent=distribution_or_none(gpu.utilization_percent for gpu in window.gpu_samples),
        vram_gb=distribution_or_none(_gb(gpu.process_memory_bytes) for gpu in window.gpu_samples),
    )


def largest_gap_ms(samples: Sequence[MetricSample]) -> float | None:
    """Between two successive samples; null under two."""
    return max((later.offset_ms - earlier.offset_ms for earlier, later in pairwise(samples)), default=None)


def _one_gpu(index: int, window: Window) -> dict[str, Any]:
    """What this GPU did, whoever made it do so; `measured` marks the one that the model ran on."""
    samples = [gpu for sample in window.samples for gpu in sample.gpus if gpu.index == index]
    power = _values(gpu.power_w for gpu in samples)
    clock = _values(gpu.sm_clock_mhz for gpu in samples)
    throttle = [gpu.throttle_reasons for gpu in samples if gpu.throttle_reasons is not None]
    return {
        "index": index,
        "measured": index == window.gpu,
        "memory_gb": _gb(max(_values(gpu.memory_bytes for gpu in samples), default=None)),
        "power_w": fmean(power) if power else None,
        "temperature_c": max(_values(gpu.temperature_c for gpu in samples), default=None),
        "sm_clock_mhz": fmean(clock) if clock else None,
        "throttle_reasons": reduce(or_, throttle) if throttle else None,
    }


def _indexes(samples: Iterable[MetricSample]) -> list[int]:
    return sorted({gpu.index for sample in samples for gpu in sample.gpus})


def _values(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _gb(amount: float | None) -> float | None:
    return None if amount is None else amount / GB

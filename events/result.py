"""What a run found out. A value without a source is null and `reasons` says why, never 0."""

from typing import Any

from msgspec import Struct

from events.benchmark import FinishReason, Phase


class Distribution(Struct, frozen=True, kw_only=True):
    """Milliseconds or tokens/s over `n` values.

    Sample standard deviation (ddof 1, null under two values), percentiles by linear interpolation; p99 needs 100
    values and p99_9 needs 1000. `ci95` is the t-interval of the mean over iterations, from three iterations on.
    """

    n: int
    mean: float
    sd: float | None
    min: float
    p50: float
    p90: float
    p95: float
    p99: float | None
    p99_9: float | None
    max: float
    ci95: tuple[float, float] | None = None


class Iteration(Struct, frozen=True, kw_only=True):
    """One generation. Offsets are milliseconds from its `started`, one for each generated token.

    `offset_ms` is that `started` on the run's clock, on which the samples lie as well.
    """

    index: int
    phase: Phase
    offset_ms: float
    prompt_tokens: int
    tokens_generated: int
    finish_reason: FinishReason
    tokenize_ms: float
    ttft_ms: float | None
    e2e_ms: float
    token_offsets_ms: tuple[float, ...]
    output: str


class Timings(Struct, frozen=True, kw_only=True):
    """Milliseconds. Null distributions have their reason in the result's `reasons`."""

    queue_ms: float | None
    load_ms: float
    model_warm: bool
    tokenize_ms: Distribution
    ttft_ms: Distribution | None
    itl_ms: Distribution | None
    tpot_ms: Distribution | None
    e2e_ms: Distribution


class Throughput(Struct, frozen=True, kw_only=True):
    """Tokens per second, each a distribution over the measured iterations."""

    prefill_tps: Distribution | None
    decode_tps: Distribution | None
    e2e_tps: Distribution


class HardwareMetrics(Struct, frozen=True, kw_only=True):
    """Over the measured window; percentages of all logical cores, gigabytes of 10⁹ bytes."""

    cpu_usage_percent: float | None
    ram_usage_gb: float | None
    gpu_usage_percent: float | None
    vram_usage_gb: float | None
    system_cpu_percent: float | None = None
    system_ram_gb: float | None = None
    other_cpu_percent: float | None = None
    torch_allocated_gb: float | None = None
    torch_reserved_gb: float | None = None
    gpus: tuple[dict[str, Any], ...] = ()


class Energy(Struct, frozen=True, kw_only=True):
    """GPU energy from NVML's total-energy counter at both ends of the window, in joules."""

    gpu_joules: float | None
    joules_per_token: float | None
    source: str | None
    window_s: float
    samples: int
    largest_gap_ms: float | None


class Observer(Struct, frozen=True, kw_only=True):
    """What watching cost: CPU time of the sampling process in the window, as seconds and percent of one core."""

    cpu_s: float
    core_percent: float
    samples: int


class SampleSummary(Struct, frozen=True, kw_only=True):
    """All samples of the measured window, whether or not they were stored; gigabytes of 10⁹ bytes."""

    emitted: int
    interval_ms: int
    largest_gap_ms: float | None
    cpu_percent: Distribution | None
    ram_gb: Distribution | None
    gpu_percent: Distribution | None = None
    vram_gb: Distribution | None = None


class Caution(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class GpuSample(Struct, frozen=True, kw_only=True):
    """One GPU at one moment; what the driver does not support is null."""

    index: int
    utilization_percent: float | None = None
    memory_bytes: int | None = None
    process_memory_bytes: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: float | None = None
    throttle_reasons: int | None = None


class MetricSample(Struct, frozen=True, kw_only=True):
    """The measured process tree at `offset_ms` of the run's clock; `cpu_percent` is of all logical cores."""

    offset_ms: float
    phase: Phase
    cpu_percent: float
    ram_bytes: int
    system_cpu_percent: float
    system_ram_bytes: int
    gpus: tuple[GpuSample, ...] = ()


class BenchmarkResult(Struct, frozen=True, kw_only=True):
    """All figures are from measured iterations alone, `duration` in seconds.

    `reasons` maps the dotted path of each null to a sentence that says why there is no value.
    """

    duration: float
    tokens_generated: int | float
    prompt_tokens: int
    output: str
    finish_reason: FinishReason
    timings: Timings
    throughput: Throughput
    hardware_metrics: HardwareMetrics
    energy: Energy
    observer: Observer
    samples: SampleSummary
    environment: dict[str, Any]
    sampling: dict[str, Any]
    reasons: dict[str, str]

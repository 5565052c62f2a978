"""A run's result from what was measured; why figures are missing, what to be careful about, and how much fits."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from consumers.inference.child.protocol import GREEDY_BELOW, Loaded, Resolved
from consumers.inference.hardware import figures
from consumers.inference.hardware.environment import commit, version
from consumers.inference.hardware.figures import CPU_NEEDS_S, GPU_NEEDS_S, Window
from consumers.inference.measurement import Readiness, measured, throughput, timings
from events.benchmark import BenchmarkSpec
from events.messages import BenchmarkCompleted
from events.result import BenchmarkResult, Caution, Energy, HardwareMetrics, Iteration

NO_GPU = "no GPU was used"
UNDER_TWO = "every iteration generated fewer than two tokens"
BYTES_A_CHARACTER = 6  # what the longest escape in JSON takes


class Measurement(Struct, frozen=True, kw_only=True):
    """Everything that a run that went well found out."""

    spec: BenchmarkSpec
    seed: int
    resolved: Resolved
    loaded: Loaded
    readiness: Readiness
    iterations: tuple[Iteration, ...]
    window: Window
    emitted: int
    machine: dict[str, Any]
    other_measured_processes: int


def result_of(m: Measurement) -> BenchmarkResult:
    """`output` and `finish_reason` are those of the first measured iteration, whose seed is the seed itself."""
    iterations = measured(m.iterations)
    first, tokens = iterations[0], sum(one.tokens_generated for one in iterations)
    result = BenchmarkResult(
        duration=sum(one.e2e_ms for one in iterations) / len(iterations) / 1000,
        tokens_generated=mean(one.tokens_generated for one in iterations),
        prompt_tokens=first.prompt_tokens,
        output=first.output,
        finish_reason=first.finish_reason,
        timings=timings(iterations, m.readiness),
        throughput=throughput(iterations),
        hardware_metrics=figures.hardware_metrics(m.window),
        energy=figures.energy(m.window, tokens),
        observer=figures.observer(m.window),
        samples=figures.sample_summary(m.window, m.emitted, m.spec.sample_interval_ms),
        environment=environment(m),
        sampling=sampling(m.spec, m.seed),
        reasons={},
    )
    return replace(result, reasons=reasons(result, m))


def environment(m: Measurement) -> dict[str, Any]:
    return {
        **m.machine,
        **m.loaded.facts,
        "device": m.resolved.device,
        "weights": m.resolved.weights,
        "revision": m.resolved.revision,
        "version": version(),
        "commit": commit(),
        "other_measured_processes": m.other_measured_processes,
    }


def sampling(spec: BenchmarkSpec, seed: int) -> dict[str, Any]:
    """The parameters that were used. A seed that was not given was drawn, and is here so that the run can be repeated.

    Iteration i, counted from 0 in its phase, used seed + i.
    """
    return {
        "do_sample": spec.temperature >= GREEDY_BELOW,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "top_k": spec.top_k,
        "max_new_tokens": spec.max_tokens,
        "min_new_tokens": spec.max_tokens if spec.ignore_eos else None,
        "stop": spec.stop,
        "seed": seed,
        "seed_given": spec.seed is not None,
    }


def reasons(result: BenchmarkResult, m: Measurement) -> dict[str, str]:
    """Why a figure is null, by its dotted path. Percentiles and intervals are null by rule, and need none."""
    return {
        path: why
        for path, value, why in (
            ("timings.queue_ms", result.timings.queue_ms, "the clocks of the app and of this worker disagree"),
            ("timings.ttft_ms", result.timings.ttft_ms, "no token was generated"),
            ("timings.itl_ms", result.timings.itl_ms, UNDER_TWO),
            ("timings.tpot_ms", result.timings.tpot_ms, UNDER_TWO),
            ("throughput.prefill_tps", result.throughput.prefill_tps, "no token was generated"),
            ("throughput.decode_tps", result.throughput.decode_tps, UNDER_TWO),
            *_cpu_reasons(result.hardware_metrics, m.window),
            *_gpu_reasons(result.hardware_metrics, result.energy, m),
            *_sample_reasons(result, m),
        )
        if value is None
    }


def _cpu_reasons(hardware: HardwareMetrics, window: Window) -> list[tuple[str, object, str]]:
    short = f"CPU time is counted in ticks of 10 ms, and the window was {window.seconds:.3f} s, not {CPU_NEEDS_S:g} s"
    return [
        ("hardware_metrics.cpu_usage_percent", hardware.cpu_usage_percent, short),
        ("hardware_metrics.system_cpu_percent", hardware.system_cpu_percent, short),
        ("hardware_metrics.other_cpu_percent", hardware.other_cpu_percent, short),
    ]


def _gpu_reasons(hardware: HardwareMetrics, energy: Energy, m: Measurement) -> list[tuple[str, object, str]]:
    on_gpu = m.resolved.device == "cuda"
    short = f"NVML averages over up to a second, and the window was {m.window.seconds:.3f} s"
    usage = short if m.window.seconds < GPU_NEEDS_S else "the driver does not report the utilization of this GPU"
    counter = "the driver does not report an energy counter for this GPU"
    return [
        ("hardware_metrics.gpu_usage_percent", hardware.gpu_usage_percent, usage if on_gpu else NO_GPU),
        ("hardware_metrics.vram_usage_gb", hardware.vram_usage_gb, "nobody reports it" if on_gpu else NO_GPU),
        ("hardware_metrics.torch_allocated_gb", hardware.torch_allocated_gb, NO_GPU),
        ("hardware_metrics.torch_reserved_gb", hardware.torch_reserved_gb, NO_GPU),
        ("energy.gpu_joules", energy.gpu_joules, counter if on_gpu else NO_GPU),
        ("energy.joules_per_token", energy.joules_per_token, counter if on_gpu else NO_GPU),
        ("energy.source", energy.source, counter if on_gpu else NO_GPU),
    ]


def _sample_reasons(result: BenchmarkResult, m: Measurement) -> list[tuple[str, object, str]]:
    few = f"samples in the window: {len(m.window.samples)}, with one every {m.spec.sample_interval_ms} ms"
    on_gpu = m.resolved.device == "cuda"
    return [
        ("energy.largest_gap_ms", result.energy.largest_gap_ms, few),
        ("samples.largest_gap_ms", result.samples.largest_gap_ms, few),
        ("samples.cpu_percent", result.samples.cpu_percent, few),
        ("samples.ram_gb", result.samples.ram_gb, few),
        ("samples.gpu_percent", result.samples.gpu_percent, "no sample of its utilization" if on_gpu else NO_GPU),
        ("samples.vram_gb", result.samples.vram_gb, "the driver hides it" if on_gpu else NO_GPU),
    ]


def cautions_of(resolved: Resolved) -> list[Caution]:
    found = []
    if resolved.random_because is not None:
        what = "the weights are random: the speed is real, the text means nothing"
        found.append(Caution(code="random_weights", message=f"{what} ({resolved.random_because})"))
    elif resolved.weights == "random":
        found.append(Caution(code="random_weights", message="the weights are random, as asked: the text means nothing"))
    if resolved.cpu_because is not None:
        found.append(Caution(code="gpu_unavailable", message=resolved.cpu_because))
    return found


def cautions_about(window: Window) -> list[Caution]:
    found = []
    if beyond := _too_short_for(window):
        short = f"the measured window is {window.seconds:.3f} s: too short for {' and '.join(beyond)}"
        found.append(Caution(code="short_window", message=short))
    if figures.contaminated(window):
        least = "" if window.counts_cpu else "at least "
        share = f"{least}{figures.others_percent(window):.0f} %"
        others = f"others used {share} of this machine's CPU while it was measured"
        found.append(Caution(code="contaminated", message=others))
    if figures.throttled(window):
        found.append(Caution(code="thermal_throttling", message="the GPU was slowed down by its temperature"))
    return found


def _too_short_for(window: Window) -> list[str]:
    """What not to trust."""
    beyond = [] if window.counts_cpu else ["the CPU's utilization"]
    if window.gpu is not None and window.seconds < GPU_NEEDS_S:
        beyond.append("the GPU's utilization")
    return beyond


def with_outputs_cut(completed: BenchmarkCompleted, room: int) -> BenchmarkCompleted:
    """So that all outputs together take no more than `room` bytes of JSON, with a warning that says so."""
    characters = max(0, room) // BYTES_A_CHARACTER // (len(completed.iterations) + 1)
    caution = Caution(
        code="output_truncated", message="the outputs were cut: whole, the result would be too large for one event"
    )
    return replace(
        completed,
        result=replace(completed.result, output=completed.result.output[:characters]),
        iterations=_cut(completed.iterations, characters),
        warnings=(*completed.warnings, caution),
    )


def _cut(iterations: Sequence[Iteration], characters: int) -> tuple[Iteration, ...]:
    return tuple(replace(one, output=one.output[:characters]) for one in iterations)

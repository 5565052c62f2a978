"""What every number of time means: stamps in, figures out. The definitions are those of the documentation, no others.

Stamps are nanoseconds of `time.perf_counter_ns()`, figures milliseconds or tokens/s.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import atan, cos, pi, sin, sqrt
from statistics import fmean, stdev

from msgspec import Struct

from consumers.inference.child.protocol import Generated
from events.benchmark import Phase
from events.result import Distribution, Iteration, Throughput, Timings

P99_NEEDS = 100
P99_9_NEEDS = 1000
INTERVAL_NEEDS = 3


class Readiness(Struct, frozen=True, kw_only=True):
    """What went before the first generation."""

    queue_ms: float | None
    load_ms: float
    model_warm: bool


def iteration(generated: Generated, index: int, phase: Phase, zero: int) -> Iteration:
    """The record of one generation; `zero` is the stamp at which the run's clock began."""
    offsets = tuple((stamp - generated.started) / 1e6 for stamp in generated.token_stamps)
    return Iteration(
        index=index,
        phase=phase,
        offset_ms=(generated.started - zero) / 1e6,
        prompt_tokens=generated.prompt_tokens,
        tokens_generated=len(offsets),
        finish_reason=generated.finish_reason,
        tokenize_ms=(generated.tokenized - generated.started) / 1e6,
        ttft_ms=offsets[0] if offsets else None,
        e2e_ms=(generated.finished - generated.started) / 1e6,
        token_offsets_ms=offsets,
        output=generated.output,
    )


def measured(iterations: Iterable[Iteration]) -> list[Iteration]:
    return [one for one in iterations if one.phase == "measuring"]


def itl_ms(one: Iteration) -> list[float]:
    """The gaps between successive tokens."""
    return [later - earlier for earlier, later in pairwise(one.token_offsets_ms)]


def tpot_ms(one: Iteration) -> float | None:
    """(e2e - ttft) / (n - 1); null under two tokens."""
    if one.ttft_ms is None or one.tokens_generated < 2:
        return None
    return (one.e2e_ms - one.ttft_ms) / (one.tokens_generated - 1)


def prefill_tps(one: Iteration) -> float | None:
    return 1000 * one.prompt_tokens / one.ttft_ms if one.ttft_ms else None


def decode_tps(one: Iteration) -> float | None:
    """(n - 1) / (e2e - ttft); null under two tokens."""
    tpot = tpot_ms(one)
    return 1000 / tpot if tpot else None


def e2e_tps(one: Iteration) -> float:
    return 1000 * one.tokens_generated / one.e2e_ms


def timings(iterations: Sequence[Iteration], readiness: Readiness) -> Timings:
    """Over the measured iterations; the gaps between tokens are pooled, so that their tail is visible."""
    return Timings(
        queue_ms=readiness.queue_ms,
        load_ms=readiness.load_ms,
        model_warm=readiness.model_warm,
        tokenize_ms=distribution([one.tokenize_ms for one in iterations]),
        ttft_ms=distribution_or_none(one.ttft_ms for one in iterations),
        itl_ms=distribution_or_none(gap for one in iterations for gap in itl_ms(one)),
        tpot_ms=distribution_or_none(map(tpot_ms, iterations)),
        e2e_ms=distribution([one.e2e_ms for one in iterations], over_iterations=True),
    )


def throughput(iterations: Sequence[Iteration]) -> Throughput:
    return Throughput(
        prefill_tps=distribution_or_none(map(prefill_tps, iterations), over_iterations=True),
        decode_tps=distribution_or_none(map(decode_tps, iterations), over_iterations=True),
        e2e_tps=distribution(list(map(e2e_tps, iterations)), over_iterations=True),
    )


def distribution_or_none(values: Iterable[float | None], over_iterations: bool = False) -> Distribution | None:
    """Of the values that there are."""
    there = [value for value in values if value is not None]
    return distribution(there, over_iterations) if there else None


def distribution(values: Sequence[float], over_iterations: bool = False) -> Distribution:
    """Of at least one value. One value an iteration also gives the t-interval of their mean, from three on."""
    ordered, n = sorted(values), len(values)
    mean, deviation = fmean(values), stdev(values) if n > 1 else None
    interval = None
    if over_iterations and deviation is not None and n >= INTERVAL_NEEDS:
        half = t_quantile(n - 1) * deviation / sqrt(n)
        interval = (mean - half, mean + half)
    return Distribution(
        n=n,
        mean=mean,
        sd=deviation,
        min=ordered[0],
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99) if n >= P99_NEEDS else None,
        p99_9=percentile(ordered, 99.9) if n >= P99_9_NEEDS else None,
        max=ordered[-1],
        ci95=interval,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """By linear interpolation between the closest ranks, numpy's default."""
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    value = ordered[below] + (ordered[above] - ordered[below]) * (rank - below)
    return min(value, ordered[above])


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t for a whole number of degrees of freedom, by bisection."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < confidence:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_probability(middle, freedom) < confidence else (low, middle)
    return high


def t_probability(t: float, freedom: int) -> float:
    """P(|T| ≤ t), the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = atan(t / sqrt(freedom))
    term = total = cos(angle) if freedom % 2 else 1.0
    for k in range(2 + freedom % 2, freedom - 1, 2):
        term *= cos(angle) ** 2 * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return sin(angle) * total
    return 2 / pi * (angle + (sin(angle) * total if freedom > 1 else 0.0))

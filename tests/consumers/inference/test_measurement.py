"""Stamps in, figures out: the definitions against values worked out by hand, and against what must always hold."""

from collections.abc import Sequence

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.inference.measurement import (
    Readiness,
    decode_tps,
    distribution,
    e2e_tps,
    iteration,
    itl_ms,
    percentile,
    prefill_tps,
    t_quantile,
    throughput,
    timings,
    tpot_ms,
)
from tests.builders import an_iteration
from tests.consumers.inference.scripted import generated

SECOND = 1_000_000_000
READY = Readiness(queue_ms=1.0, load_ms=0.0, model_warm=True)
values = st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=300)
gaps_ns = st.lists(st.integers(min_value=1, max_value=SECOND), min_size=1, max_size=50)


def test_a_generation_becomes_a_record_on_the_runs_clock() -> None:
    record = iteration(generated(started=2 * SECOND), 4, "measuring", zero=SECOND)

    assert record == an_iteration(
        index=4,
        offset_ms=1000.0,
        tokens_generated=3,
        tokenize_ms=0.1,
        ttft_ms=20.0,
        e2e_ms=41.0,
        token_offsets_ms=(20.0, 30.0, 40.0),
        output="blue sky",
    )


def test_the_figures_of_one_iteration_follow_their_definitions() -> None:
    one = iteration(generated(), 0, "measuring", zero=0)

    assert itl_ms(one) == [10.0, 10.0]
    assert tpot_ms(one) == (41 - 20) / 2
    assert prefill_tps(one) == pytest.approx(6 / 0.020)
    assert decode_tps(one) == pytest.approx(2 / 0.021)
    assert e2e_tps(one) == pytest.approx(3 / 0.041)


def test_one_token_has_no_time_between_tokens() -> None:
    one = an_iteration(tokens_generated=1, token_offsets_ms=(2.0,))

    figures = timings([one], READY)

    assert (figures.itl_ms, figures.tpot_ms, throughput([one]).decode_tps) == (None, None, None)
    assert figures.ttft_ms is not None


def test_gaps_are_pooled_over_iterations_so_that_the_tail_is_visible() -> None:
    steady = an_iteration(tokens_generated=3, token_offsets_ms=(1.0, 2.0, 3.0))
    slow_once = an_iteration(tokens_generated=3, token_offsets_ms=(1.0, 2.0, 99.0))

    pooled = timings([steady, slow_once], READY).itl_ms

    assert pooled is not None
    assert (pooled.n, pooled.max) == (4, 97.0)


@given(gaps_ns)
def test_the_first_token_and_all_gaps_add_up_to_the_last_stamp(gaps: list[int]) -> None:
    stamps = [1_000]
    for gap in gaps:
        stamps.append(stamps[-1] + gap)
    one = iteration(generated(started=1_000, token_stamps=tuple(stamps[1:]), finished=stamps[-1]), 0, "measuring", 0)

    assert one.ttft_ms is not None
    assert one.ttft_ms + sum(itl_ms(one)) == pytest.approx((stamps[-1] - stamps[0]) / 1e6)


@given(values)
def test_percentiles_rise_and_lie_between_the_smallest_and_the_largest(numbers: list[float]) -> None:
    figures = distribution(numbers)

    assert figures.min <= figures.p50 <= figures.p90 <= figures.p95 <= figures.max
    assert figures.min == min(numbers)
    assert figures.max == max(numbers)


@given(values, st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9]))
def test_percentiles_are_those_of_numpy(numbers: list[float], percent: float) -> None:
    assert percentile(sorted(numbers), percent) == pytest.approx(numpy.percentile(numbers, percent), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "has_p99", "has_p99_9"), [(99, False, False), (100, True, False), (999, True, False), (1000, True, True)]
)
def test_a_percentile_needs_as_many_values_as_it_divides_them_into(n: int, has_p99: bool, has_p99_9: bool) -> None:
    figures = distribution([float(i) for i in range(n)])

    assert (figures.p99 is not None, figures.p99_9 is not None) == (has_p99, has_p99_9)


def test_one_value_has_no_deviation() -> None:
    assert distribution([3.0]).sd is None


@pytest.mark.parametrize(
    ("freedom", "published"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_the_quantile_of_students_t_is_the_published_one(freedom: int, published: float) -> None:
    assert t_quantile(freedom) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize(("numbers", "expected"), [([1.0, 2.0], None), ([1.0, 2.0, 3.0], (-0.484, 4.484))])
def test_the_mean_over_iterations_has_an_interval_from_three_on(
    numbers: Sequence[float], expected: tuple[float, float] | None
) -> None:
    interval = distribution(numbers, over_iterations=True).ci95

    assert interval == (None if expected is None else pytest.approx(expected, abs=1e-3))

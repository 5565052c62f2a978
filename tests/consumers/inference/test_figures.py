"""What the machine did in a window, from readings that are written down here."""

from typing import Any

import pytest
from msgspec.structs import replace

from consumers.inference.hardware import figures
from consumers.inference.hardware.figures import Window
from consumers.inference.hardware.sampler import Reading
from consumers.inference.result import cautions_about
from events.result import MetricSample
from tests.builders import a_sample
from tests.consumers.inference.scripted import a_gpu_sample


def a_reading(**changes: Any) -> Reading:
    reading = Reading(
        at=0,
        tree_cpu_s=10.0,
        ram_bytes=1_000_000_000,
        system_cpu_s=100.0,
        system_ram_bytes=3_000_000_000,
        own_cpu_s=1.0,
    )
    return replace(reading, **changes)


def a_window(**changes: Any) -> Window:
    """Two seconds on two cores: the process used 2 of the 4 CPU seconds, the worker 0.02 and others 0.18."""
    window = Window(
        begin=a_reading(energy_mj=5_000),
        end=a_reading(at=2_000_000_000, tree_cpu_s=12.0, system_cpu_s=102.2, own_cpu_s=1.02, energy_mj=305_000),
        samples=(a_sample(offset_ms=100.0), a_sample(offset_ms=200.0), a_sample(offset_ms=450.0)),
        cores=2,
    )
    return replace(window, **changes)


def on_a_gpu(**changes: Any) -> MetricSample:
    return a_sample(gpus=(a_gpu_sample(**changes),))


def test_cpu_is_a_share_of_all_cores_and_others_are_what_is_left() -> None:
    hardware = figures.hardware_metrics(a_window())

    assert hardware.cpu_usage_percent == pytest.approx(50.0)
    assert hardware.system_cpu_percent == pytest.approx(55.0)
    assert hardware.other_cpu_percent == pytest.approx(4.5)


def test_memory_is_the_highest_of_all_readings_and_samples() -> None:
    window = a_window(samples=(a_sample(ram_bytes=4_000_000_000), a_sample(ram_bytes=2_000_000_000)))

    assert figures.hardware_metrics(window).ram_usage_gb == 4.0


def test_a_window_without_samples_has_figures_all_the_same() -> None:
    hardware = figures.hardware_metrics(a_window(samples=()))

    assert hardware.cpu_usage_percent == pytest.approx(50.0)
    assert hardware.ram_usage_gb == 1.0


def test_without_a_gpu_nothing_is_said_of_one() -> None:
    hardware = figures.hardware_metrics(a_window())

    assert (hardware.gpu_usage_percent, hardware.vram_usage_gb, hardware.gpus) == (None, None, ())


def test_the_gpu_that_computed_gives_the_figures_and_the_others_are_listed() -> None:
    busy, idle = a_gpu_sample(index=1, utilization_percent=90.0), a_gpu_sample(index=0, utilization_percent=0.0)
    calmer = replace(busy, utilization_percent=80.0, process_memory_bytes=1_000_000_000)
    samples = (a_sample(gpus=(idle, busy)), a_sample(gpus=(idle, calmer)))

    hardware = figures.hardware_metrics(a_window(gpu=1, samples=samples))

    assert (hardware.gpu_usage_percent, hardware.vram_usage_gb) == (85.0, 2.0)
    assert [(gpu["index"], gpu["measured"], gpu["power_w"]) for gpu in hardware.gpus] == [
        (0, False, 200.0),
        (1, True, 200.0),
    ]


def test_a_short_window_has_no_gpu_utilization_and_says_so() -> None:
    window = a_window(gpu=0, samples=(on_a_gpu(),), end=a_reading(at=900_000_000))

    assert figures.gpu_usage_percent(window) is None
    [caution] = cautions_about(window)
    assert caution.code == "short_window"
    assert caution.message == "the measured window is 0.900 s: too short for the GPU's utilization"


@pytest.mark.parametrize(("gpu", "what"), [(None, "CPU's utilization"), (0, "CPU's utilization and the GPU's")])
def test_a_window_too_short_for_ticks_has_no_cpu_figures_and_says_so(gpu: int | None, what: str) -> None:
    window = a_window(gpu=gpu, end=a_reading(at=490_000_000, tree_cpu_s=10.4, system_cpu_s=100.4))

    hardware = figures.hardware_metrics(window)

    assert (hardware.cpu_usage_percent, hardware.system_cpu_percent, hardware.other_cpu_percent) == (None, None, None)
    [caution] = cautions_about(window)
    assert (caution.code, what in caution.message) == ("short_window", True)


def test_where_the_driver_hides_the_process_torch_is_believed() -> None:
    window = a_window(gpu=0, samples=(on_a_gpu(process_memory_bytes=None),), reserved_bytes=1_500_000_000)

    assert figures.vram_usage_gb(window) == 1.5


def test_energy_is_what_the_counter_gained() -> None:
    energy = figures.energy(a_window(), tokens=100)

    assert (energy.gpu_joules, energy.joules_per_token, energy.window_s) == (300.0, 3.0, 2.0)
    assert (energy.samples, energy.largest_gap_ms) == (3, 250.0)


def test_the_observer_says_what_watching_cost() -> None:
    observer = figures.observer(a_window())

    assert observer.cpu_s == pytest.approx(0.02)
    assert observer.core_percent == pytest.approx(1.0)
    assert observer.samples == 3


def test_others_that_use_much_of_the_machine_are_a_warning() -> None:
    crowded = a_window(end=a_reading(at=2_000_000_000, tree_cpu_s=12.0, system_cpu_s=102.5))

    assert [caution.code for caution in cautions_about(crowded)] == ["contaminated"]
    assert cautions_about(a_window()) == []


def test_others_in_a_short_window_are_a_warning_only_where_ticks_do_not_explain_them() -> None:
    """A tenth of a second on two cores: two ticks of others are what counting can be wrong by, ten are not."""
    quiet, crowded = (a_window(end=a_reading(at=100_000_000, system_cpu_s=100.0 + s)) for s in (0.02, 0.1))

    assert [caution.code for caution in cautions_about(quiet)] == ["short_window"]
    assert [caution.code for caution in cautions_about(crowded)] == ["short_window", "contaminated"]
    assert cautions_about(crowded)[1].message.startswith("others used at least 30 % ")


def test_a_gpu_that_was_too_hot_is_a_warning() -> None:
    samples = (on_a_gpu(throttle_reasons=0), on_a_gpu(throttle_reasons=0x40))

    assert [caution.code for caution in cautions_about(a_window(gpu=0, samples=samples))] == ["thermal_throttling"]


def test_the_summary_describes_the_samples_of_the_window() -> None:
    summary = figures.sample_summary(a_window(gpu=0, samples=(on_a_gpu(), on_a_gpu())), emitted=9, interval_ms=100)

    assert (summary.emitted, summary.interval_ms) == (9, 100)
    assert summary.cpu_percent is not None
    assert summary.gpu_percent is not None
    assert (summary.cpu_percent.n, summary.gpu_percent.mean) == (2, 70.0)

"""The life of one run, with a measured process that does as it is told."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from consumers.inference import run as run_module
from consumers.inference.child.protocol import Loaded, Resolved, Tokens
from consumers.inference.engine import ChildDied, Refusal
from consumers.inference.progress import Progress, Update
from consumers.inference.report import RunReport, now
from consumers.inference.run import Outcome, encoded_size, run_benchmark
from events.benchmark import BenchmarkSpec
from events.bus import BrokerUnavailable
from events.bus.memory import MemoryBus
from events.messages import (
    AnyEvent,
    AnyRunEvent,
    BenchmarkCompleted,
    BenchmarkFailed,
    BenchmarkProgressed,
    BenchmarkStarted,
    MetricSampled,
)
from tests.builders import a_spec, requested
from tests.consumers.inference.scripted import LONGEST_S, ScriptedEngine, ScriptedGpus, a_run, taken, tools
from tests.waiting import until

BY_RULE = ("sd", "p99", "p99_9", "ci95")


class Told(MemoryBus):
    """What one run said."""

    def of(self, kind: type[AnyRunEvent]) -> list[AnyEvent]:
        return [event for event in self.events if isinstance(event, kind)]


async def run(
    engine: ScriptedEngine, spec: BenchmarkSpec, bus: MemoryBus | None = None, gpus: ScriptedGpus | None = None
) -> Outcome:
    request = requested(spec=spec, requested_at=now())
    return await run_benchmark(request, taken(), tools(engine, gpus), RunReport(bus or Told(), a_run()))


async def completed(engine: ScriptedEngine, spec: BenchmarkSpec, **more: Any) -> BenchmarkCompleted:
    outcome = await run(engine, spec, **more)
    assert isinstance(outcome, BenchmarkCompleted), outcome
    return outcome


async def failed(engine: ScriptedEngine, spec: BenchmarkSpec, **more: Any) -> BenchmarkFailed:
    outcome = await run(engine, spec, **more)
    assert isinstance(outcome, BenchmarkFailed), outcome
    return outcome


def codes(outcome: Outcome) -> list[str]:
    return [caution.code for caution in outcome.warnings]


def nulls(value: object, path: str = "") -> Iterator[str]:
    """The dotted paths of all that is null, but for what is so by a documented rule."""
    if value is None and path.rpartition(".")[2] not in BY_RULE:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from nulls(inner, f"{path}.{name}" if path else name)


async def test_a_run_says_what_happens_in_order_and_without_a_gap() -> None:
    bus = Told()

    last_word = await completed(ScriptedEngine(), a_spec(iterations=2), bus=bus)

    said = [event for event in bus.events if isinstance(event, AnyRunEvent)]
    assert [event.seq for event in [*said, last_word]] == list(range(len(said) + 1))
    assert isinstance(said[0], BenchmarkStarted)
    phases = [event.phase for event in said if isinstance(event, BenchmarkProgressed)]
    assert list(dict.fromkeys(phases)) == ["loading", "warmup", "measuring"]


async def test_the_first_event_says_what_was_resolved() -> None:
    engine, bus = ScriptedEngine(), Told()
    engine.resolved = Resolved(device="cpu", weights="pretrained", revision="c0ffee", dtype="bfloat16")

    await completed(engine, a_spec(), bus=bus)

    (started,) = bus.of(BenchmarkStarted)
    assert isinstance(started, BenchmarkStarted)
    assert (started.weights, started.revision, started.dtype, started.worker_id) == (
        "pretrained",
        "c0ffee",
        "bfloat16",
        "host-1-aa",
    )


async def test_all_text_is_told_and_each_phase_by_itself() -> None:
    bus = Told()

    await completed(ScriptedEngine(), a_spec(warmup_iterations=1, iterations=2), bus=bus)

    text = {"warmup": "", "measuring": "", "loading": ""}
    for event in bus.of(BenchmarkProgressed):
        assert isinstance(event, BenchmarkProgressed)
        text[event.phase] += event.text
    assert text == {"loading": "", "warmup": "blue sky", "measuring": "blue skyblue sky"}


async def test_every_sample_is_told_and_counted() -> None:
    engine, bus = ScriptedEngine(), Told()
    engine.hold = 2
    running = asyncio.create_task(completed(engine, a_spec(sample_interval_ms=5), bus=bus))
    await until(lambda: len(bus.of(MetricSampled)) >= 2)
    engine.free.set()

    last_word = await running

    batches = [event for event in bus.of(MetricSampled) if isinstance(event, MetricSampled)]
    assert sum(len(batch.samples) for batch in batches) == batches[-1].emitted == last_word.samples_emitted
    assert last_word.result.samples.emitted == last_word.samples_emitted


async def test_warm_up_iterations_are_recorded_and_left_out_of_every_figure() -> None:
    last_word = await completed(ScriptedEngine(), a_spec(warmup_iterations=2, iterations=3))

    assert [one.phase for one in last_word.iterations] == ["warmup"] * 2 + ["measuring"] * 3
    assert [one.index for one in last_word.iterations] == [0, 1, 2, 3, 4]
    assert last_word.result.timings.e2e_ms.n == last_word.result.throughput.e2e_tps.n == 3


async def test_an_iteration_of_a_phase_has_the_seed_and_its_number() -> None:
    engine = ScriptedEngine()

    await completed(engine, a_spec(seed=7, warmup_iterations=1, iterations=3))

    assert [asked.seed for asked in engine.generations] == [7, 7, 8, 9]


async def test_a_seed_that_was_drawn_is_in_the_result() -> None:
    engine = ScriptedEngine()

    sampling = (await completed(engine, a_spec(seed=None))).result.sampling

    assert (sampling["seed"], sampling["seed_given"]) == (engine.generations[0].seed, False)


async def test_every_null_has_a_reason() -> None:
    result = (await completed(ScriptedEngine(), a_spec())).result

    missing = set(nulls(msgspec.to_builtins(result))) - set(result.reasons)

    assert {path for path in missing if not path.startswith(("environment.", "sampling."))} == set()


async def test_on_a_gpu_there_is_energy_and_memory_of_the_device_that_computed() -> None:
    engine = ScriptedEngine()
    engine.resolved = replace(engine.resolved, device="cuda")
    engine.loaded = replace(engine.loaded, gpu_uuid="GPU-7")

    last_word = await completed(engine, a_spec(), gpus=ScriptedGpus())

    assert (last_word.result.energy.gpu_joules, last_word.result.energy.joules_per_token) == (1.0, 1 / 3)
    assert "short_window" in codes(last_word)
    assert "NVML averages" in last_word.result.reasons["hardware_metrics.gpu_usage_percent"]


async def test_what_was_resolved_otherwise_than_wished_is_a_warning() -> None:
    engine = ScriptedEngine()
    engine.resolved = replace(engine.resolved, random_because="the hub is away", cpu_because="no GPU here")

    last_word = await completed(engine, a_spec(timeout_s=LONGEST_S + 1))

    assert codes(last_word) == ["timeout_clamped", "random_weights", "gpu_unavailable", "short_window"]


async def test_characters_that_a_database_refuses_are_replaced_with_one_warning() -> None:
    engine = ScriptedEngine()
    engine.replaced = True

    assert codes(await completed(engine, a_spec(iterations=3))).count("nul_replaced") == 1


async def test_the_deadline_ends_the_run_with_what_was_measured_until_then() -> None:
    engine = ScriptedEngine()
    engine.hold = 3

    last_word = await failed(engine, a_spec(iterations=5, timeout_s=0.3))

    assert (last_word.code, last_word.details) == ("timeout", {"timeout_s": 0.3, "phase": "measuring"})
    assert [one.phase for one in last_word.iterations] == ["warmup", "measuring"]
    assert engine.killed == 1


@pytest.mark.parametrize(
    ("exit_code", "sentence"),
    [
        (-9, "the measured process was ended by SIGKILL; the machine may have run out of memory"),
        (-11, "the measured process was ended by SIGSEGV"),
        (3, "the measured process ended by itself with exit code 3; the worker's log says why"),
    ],
)
async def test_a_measured_process_that_dies_is_a_failure_that_says_how(exit_code: int, sentence: str) -> None:
    engine = ScriptedEngine()
    engine.fails = ChildDied(exit_code)

    last_word = await failed(engine, a_spec())

    assert (last_word.code, last_word.message, last_word.details["exit_code"]) == ("child_died", sentence, exit_code)


async def test_a_refusal_is_a_failure_with_its_numbers() -> None:
    engine = ScriptedEngine()
    engine.fails = Refusal("prompt_too_long", "too long", {"prompt_tokens": 9})

    last_word = await failed(engine, a_spec())

    assert (last_word.code, last_word.message, last_word.details) == (
        "prompt_too_long",
        "too long",
        {"prompt_tokens": 9},
    )


async def test_an_error_that_nobody_named_rises() -> None:
    engine = ScriptedEngine()
    engine.fails = ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        await run(engine, a_spec())


async def test_a_run_that_cannot_be_told_ends() -> None:
    engine, bus = ScriptedEngine(), Told()
    engine.hold = 1
    running = asyncio.create_task(run(engine, a_spec(sample_interval_ms=5), bus))
    await until(lambda: bus.of(MetricSampled))

    bus.available = False

    with pytest.raises(BrokerUnavailable):
        await running
    assert engine.killed == 1


async def test_a_result_too_large_for_one_event_loses_text_first(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    engine.output = "\x01" * 100_000  # the character whose escape in JSON is longest
    monkeypatch.setattr(run_module, "EVENT_BUDGET", 60_000)

    last_word = await completed(engine, a_spec(iterations=2))

    assert "output_truncated" in codes(last_word)
    assert encoded_size(last_word) <= 60_000
    assert last_word.result.output
    assert len({len(one.output) for one in last_word.iterations}) == 1


async def test_a_result_too_large_even_without_text_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "EVENT_BUDGET", 5_000)

    last_word = await failed(ScriptedEngine(), a_spec(iterations=2))

    assert (last_word.code, last_word.details["limit"], last_word.iterations) == ("result_too_large", 5_000, ())


async def test_a_warm_model_took_no_time_to_load() -> None:
    engine = ScriptedEngine()
    engine.loaded = Loaded(load_ms=0.0, warm=True, facts={})

    timings = (await completed(engine, a_spec())).result.timings

    assert (timings.load_ms, timings.model_warm) == (0.0, True)


def test_progress_is_told_once_and_as_one() -> None:
    progress = Progress()
    progress.enter("measuring", 2)
    progress.begin(1)
    progress.heard(Tokens(count=2, text="blue"))
    progress.heard(Tokens(count=3, text=" sky"))

    told, again = progress.untold(), progress.untold()

    assert told == [Update(phase="measuring", iteration=1, iterations=2, tokens=3, text="blue sky")]
    assert again == []

"""Facts to test with: each as ordinary as can be, with what matters to the test said at its call."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from events.benchmark import BenchmarkSpec, DatasetDefinition, DatasetRow, ModelDefinition
from events.messages import (
    BenchmarkCancelled,
    BenchmarkCancelRequested,
    BenchmarkCompleted,
    BenchmarkFailed,
    BenchmarkProgressed,
    BenchmarkRequested,
    BenchmarkStarted,
    DatasetRegistered,
    MetricSampled,
    ModelRegistered,
    WorkerReported,
)
from events.result import (
    BenchmarkResult,
    Distribution,
    Energy,
    HardwareMetrics,
    Iteration,
    MetricSample,
    Observer,
    SampleSummary,
    Throughput,
    Timings,
)

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
JOB = UUID("00000000-0000-4000-8000-000000000001")
REQUEST = UUID("00000000-0000-4000-8000-000000000002")
RUN = UUID("00000000-0000-4000-8000-000000000003")


def a_model(**changes: Any) -> ModelDefinition:
    model = ModelDefinition(
        model_id="builtin/tiny",
        repository="llm-bench/tiny",
        architecture={
            "model_type": "gpt2",
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 64,
            "n_positions": 512,
            "vocab_size": 1000,
            "bos_token_id": 999,
            "eos_token_id": 999,
        },
    )
    return replace(model, **changes)


def a_spec(**changes: Any) -> BenchmarkSpec:
    spec = BenchmarkSpec(
        model=a_model(),
        prompt="Why is the sky blue?",
        task="text-generation",
        max_tokens=8,
        temperature=0.7,
        top_p=0.9,
        use_gpu=True,
        top_k=0,
        iterations=1,
        warmup_iterations=1,
        seed=None,
        stop=(),
        ignore_eos=True,
        device="auto",
        weights="auto",
        sample_interval_ms=100,
        timeout_s=60.0,
        labels={"team": "tests"},
    )
    return replace(spec, **changes)


def requested(**changes: Any) -> BenchmarkRequested:
    request = BenchmarkRequested(job_id=JOB, spec=a_spec(), pool="cpu", body_hash="ab" * 32, requested_at=NOON)
    return replace(request, **changes)


def of_a_run(**changes: Any) -> dict[str, Any]:
    """The identity that every event of one run carries."""
    return {"job_id": JOB, "request_id": REQUEST, "attempt": 1, "run_id": RUN, "seq": 0} | changes


def started(**changes: Any) -> BenchmarkStarted:
    return BenchmarkStarted(
        **{
            **of_a_run(seq=0),
            "worker_id": "host-1-aa",
            "host": "host",
            "pool": "cpu",
            "device": "cpu",
            "weights": "random",
            "revision": None,
            "dtype": "float32",
            "started_at": NOON,
            **changes,
        }
    )


def progressed(**changes: Any) -> BenchmarkProgressed:
    return BenchmarkProgressed(
        **{
            **of_a_run(seq=1),
            "phase": "measuring",
            "iteration": 1,
            "iterations": 1,
            "tokens": 3,
            "text": "blue",
            **changes,
        }
    )


def a_sample(**changes: Any) -> MetricSample:
    sample = MetricSample(
        offset_ms=100.0,
        phase="measuring",
        cpu_percent=50.0,
        ram_bytes=300_000_000,
        system_cpu_percent=60.0,
        system_ram_bytes=2_000_000_000,
    )
    return replace(sample, **changes)


def sampled(**changes: Any) -> MetricSampled:
    samples = (a_sample(offset_ms=100.0), a_sample(offset_ms=200.0))
    return MetricSampled(**{**of_a_run(seq=2), "samples": samples, "emitted": 2, **changes})


def a_distribution(**changes: Any) -> Distribution:
    distribution = Distribution(
        n=1, mean=2.0, sd=None, min=2.0, p50=2.0, p90=2.0, p95=2.0, p99=None, p99_9=None, max=2.0
    )
    return replace(distribution, **changes)


def an_iteration(**changes: Any) -> Iteration:
    iteration = Iteration(
        index=0,
        phase="measuring",
        offset_ms=10.0,
        prompt_tokens=6,
        tokens_generated=2,
        finish_reason="length",
        tokenize_ms=0.1,
        ttft_ms=2.0,
        e2e_ms=4.0,
        token_offsets_ms=(2.0, 4.0),
        output=" blue sky",
    )
    return replace(iteration, **changes)


def a_result(**changes: Any) -> BenchmarkResult:
    one = a_distribution()
    result = BenchmarkResult(
        duration=0.004,
        tokens_generated=2,
        prompt_tokens=6,
        output=" blue sky",
        finish_reason="length",
        timings=Timings(
            queue_ms=1.0,
            load_ms=20.0,
            model_warm=False,
            tokenize_ms=one,
            ttft_ms=one,
            itl_ms=one,
            tpot_ms=one,
            e2e_ms=one,
        ),
        throughput=Throughput(prefill_tps=one, decode_tps=one, e2e_tps=one),
        hardware_metrics=HardwareMetrics(
            cpu_usage_percent=40.5, ram_usage_gb=0.3, gpu_usage_percent=None, vram_usage_gb=None
        ),
        energy=Energy(
            gpu_joules=None, joules_per_token=None, source=None, window_s=0.004, samples=0, largest_gap_ms=None
        ),
        observer=Observer(cpu_s=0.0, core_percent=0.1, samples=2),
        samples=SampleSummary(emitted=2, interval_ms=100, largest_gap_ms=100.0, cpu_percent=one, ram_gb=one),
        environment={"python": "3.11"},
        sampling={"temperature": 0.7},
        reasons={"hardware_metrics.gpu_usage_percent": "no GPU was used"},
    )
    return replace(result, **changes)


def completed(**changes: Any) -> BenchmarkCompleted:
    return BenchmarkCompleted(
        **{
            **of_a_run(seq=3),
            "result": a_result(),
            "iterations": (an_iteration(),),
            "warnings": (),
            "device": "cpu",
            "weights": "random",
            "samples_emitted": 2,
            "finished_at": NOON,
            **changes,
        }
    )


def failed(**changes: Any) -> BenchmarkFailed:
    return BenchmarkFailed(
        **{
            **of_a_run(seq=3),
            "code": "child_died",
            "message": "the measured process was ended by SIGKILL",
            "details": {"signal": 9},
            "iterations": (),
            "hardware_metrics": None,
            "warnings": (),
            "samples_emitted": 2,
            "finished_at": NOON,
            **changes,
        }
    )


def cancel_requested(**changes: Any) -> BenchmarkCancelRequested:
    return BenchmarkCancelRequested(**{"job_id": JOB, "requested_at": NOON, **changes})


def cancelled(**changes: Any) -> BenchmarkCancelled:
    return BenchmarkCancelled(**{"job_id": JOB, "attempt": 0, "finished_at": NOON, **changes})


def model_registered(**changes: Any) -> ModelRegistered:
    return ModelRegistered(**{"model": a_model(), "registered_at": NOON, **changes})


def a_dataset(**changes: Any) -> DatasetDefinition:
    dataset = DatasetDefinition(dataset_id="two", rows=(DatasetRow(prompt="1 + 1 ="), DatasetRow(prompt="Hi")))
    return replace(dataset, **changes)


def dataset_registered(**changes: Any) -> DatasetRegistered:
    return DatasetRegistered(**{"dataset": a_dataset(), "registered_at": NOON, **changes})


def reported(**changes: Any) -> WorkerReported:
    return WorkerReported(
        **{
            "worker_id": "host-1-aa",
            "host": "host",
            "pid": 1,
            "pool": "cpu",
            "state": "idle",
            "job_id": None,
            "run_id": None,
            "hardware": {"cores": 2},
            "version": "0.1.0",
            "started_at": NOON,
            "reported_at": NOON,
            **changes,
        }
    )

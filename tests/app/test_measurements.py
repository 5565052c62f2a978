import csv
import io
import json
from typing import Any
from uuid import uuid4

from tests.app.serving import Api
from tests.app.stories import Run, a_completed_job
from tests.builders import a_sample, an_iteration, sampled

BENCHMARKS = "/api/v1/benchmarks"


async def measured(api: Api, job: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    answer = await api.get(f"{BENCHMARKS}/{job['job_id']}/metrics", params=parameters)
    assert answer.status_code == 200, answer.text
    metrics: dict[str, Any] = answer.json()
    return metrics


async def test_before_a_run_there_are_no_samples(api: Api) -> None:
    job = await api.submit(sample_interval_ms=250)

    assert await measured(api, job) == {
        "job_id": job["job_id"],
        "run_id": None,
        "attempt": None,
        "emitted": 0,
        "stored": 0,
        "interval_ms": 250,
        "summary": None,
        "samples": [],
    }


async def test_samples_can_be_read_while_the_job_runs(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    await run.start()
    await run.sample(3)

    metrics = await measured(api, job)

    assert (metrics["run_id"], metrics["attempt"], metrics["emitted"], metrics["stored"]) == (str(run.run_id), 1, 3, 3)
    assert metrics["summary"] is None
    assert metrics["samples"][1] == {
        "offset_ms": 100.0,
        "phase": "measuring",
        "cpu_percent": 50.0,
        "ram_bytes": 300_000_000,
        "system_cpu_percent": 60.0,
        "system_ram_bytes": 2_000_000_000,
        "gpus": [],
    }


async def test_the_summary_comes_with_the_result(api: Api) -> None:
    metrics = await measured(api, await a_completed_job(api))

    assert metrics["summary"]["cpu_percent"]["n"] == 1


async def test_a_gap_in_the_samples_can_be_seen(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    await run.start()
    await run.tell(sampled(**run.identity(), samples=(a_sample(),), emitted=5))

    metrics = await measured(api, job)

    assert (metrics["emitted"], metrics["stored"]) == (5, 1)


async def a_long_job(api: Api) -> dict[str, Any]:
    """A thousand samples, with one peak and one low of each kind."""
    job = await api.submit()
    run = Run(api, job)
    await run.start()
    samples = [a_sample(offset_ms=float(number)) for number in range(1000)]
    samples[333] = a_sample(offset_ms=333.0, cpu_percent=99.0)
    samples[444] = a_sample(offset_ms=444.0, cpu_percent=1.0)
    samples[555] = a_sample(offset_ms=555.0, ram_bytes=9)
    samples[777] = a_sample(offset_ms=777.0, ram_bytes=999_000_000_000)
    await run.tell(sampled(**run.identity(), samples=tuple(samples), emitted=1000))
    return job


async def test_fewer_points_keep_every_extreme(api: Api) -> None:
    job = await a_long_job(api)

    samples = (await measured(api, job, max_points=40))["samples"]

    offsets = [sample["offset_ms"] for sample in samples]
    assert len(samples) <= 40
    assert {333.0, 444.0, 555.0, 777.0} <= set(offsets)
    assert offsets == sorted(offsets)


async def test_two_points_are_the_extremes_of_the_cpu(api: Api) -> None:
    job = await a_long_job(api)

    samples = (await measured(api, job, max_points=2))["samples"]

    assert [sample["cpu_percent"] for sample in samples] == [99.0, 1.0]


async def test_more_points_than_there_are_leave_all_as_they_are(api: Api) -> None:
    job = await a_long_job(api)

    assert await measured(api, job, max_points=1000) == await measured(api, job)


async def test_samples_come_as_csv_too(api: Api) -> None:
    job = await a_completed_job(api)
    path = f"{BENCHMARKS}/{job['job_id']}/metrics"

    accepted = await api.get(path, headers={"Accept": "text/csv"})
    asked = await api.get(path, params={"format": "csv"})

    assert accepted.headers["content-type"] == "text/csv; charset=utf-8"
    assert accepted.content == asked.content
    rows = list(csv.DictReader(io.StringIO(accepted.text)))
    assert [(row["offset_ms"], row["ram_bytes"], row["gpus"]) for row in rows] == [
        ("0.0", "300000000", "[]"),
        ("100.0", "300000000", "[]"),
    ]


async def test_every_iteration_has_its_record(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    await run.start()
    await run.complete(iterations=(an_iteration(index=0, phase="warmup"), an_iteration(index=1)))
    path = f"{BENCHMARKS}/{job['job_id']}/iterations"

    items = (await api.get(path)).json()["items"]
    lines = await api.get(path, headers={"Accept": "application/jsonl"})

    assert [(item["index"], item["phase"], item["token_offsets_ms"]) for item in items] == [
        (0, "warmup", [2.0, 4.0]),
        (1, "measuring", [2.0, 4.0]),
    ]
    assert lines.headers["content-type"] == "application/jsonl"
    assert [json.loads(line) for line in lines.text.splitlines()] == items
    assert (await api.get(path, params={"format": "jsonl"})).content == lines.content


async def test_before_the_end_there_are_no_records(api: Api) -> None:
    job = await api.submit()
    path = f"{BENCHMARKS}/{job['job_id']}/iterations"

    assert (await api.get(path)).json() == {"items": []}
    assert (await api.get(path, params={"format": "jsonl"})).content == b""


async def test_a_superseded_run_has_no_say_in_the_samples(api: Api) -> None:
    job = await api.submit()
    first, second = Run(api, job), Run(api, job, attempt=2)
    await first.start()
    await first.sample(5)
    await second.start(worker_id=str(uuid4()))
    await second.sample(2)

    assert (await measured(api, job))["stored"] == 2

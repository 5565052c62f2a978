"""A job as it is shown at each point of its life, alone and in lists."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from events.messages import BenchmarkCancelRequested
from events.result import Caution
from tests.app.serving import Api, kind, problem
from tests.app.stories import Run, a_completed_job
from tests.builders import NOON, a_result, failed
from tests.waiting import until

BENCHMARKS = "/api/v1/benchmarks"

PUBLIC = ["job_id", "model", "task", "duration", "tokens_generated", "output", "hardware_metrics"]
AFTER_IT = [
    "status", "finish_reason", "attempt", "device", "weights", "created_at", "started_at", "finished_at", "progress",
    "labels", "warnings", "error", "links",
]  # fmt: skip
IN_FULL = [
    "prompt_tokens", "timings", "throughput", "hardware", "energy", "environment", "observer", "sampling", "reasons",
    "samples", "runs", "request",
]  # fmt: skip


async def show(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    answer = await api.get(f"{BENCHMARKS}/{job['job_id']}")
    assert answer.status_code == 200
    shown: dict[str, Any] = answer.json()
    return shown


async def test_a_queued_job_has_all_fields_and_no_result(api: Api) -> None:
    job = await show(api, await api.submit())

    assert list(job) == PUBLIC + AFTER_IT + IN_FULL
    assert (job["model"], job["task"], job["status"], job["attempt"]) == ("gpt2", "text-generation", "queued", 0)
    assert {job[name] for name in ("duration", "tokens_generated", "output", "hardware_metrics", "error")} == {None}
    assert job["links"] == {
        "self": f"{BENCHMARKS}/{job['job_id']}",
        "cancel": f"{BENCHMARKS}/{job['job_id']}/cancel",
        "metrics": f"{BENCHMARKS}/{job['job_id']}/metrics",
        "iterations": f"{BENCHMARKS}/{job['job_id']}/iterations",
        "events": f"{BENCHMARKS}/{job['job_id']}/events",
    }


async def test_a_running_job_tells_its_progress(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    await run.start(device="cpu", weights="random")
    await run.progress(phase="measuring", iteration=1, iterations=3, tokens=17)

    shown = await show(api, job)

    assert (shown["status"], shown["attempt"], shown["device"], shown["weights"]) == ("running", 1, "cpu", "random")
    assert shown["progress"] == {"phase": "measuring", "iteration": 1, "iterations": 3, "tokens": 17}
    assert shown["duration"] is None
    assert shown["runs"] == [
        {
            "run_id": str(run.run_id),
            "attempt": 1,
            "worker_id": "host-1-aa",
            "started_at": "2026-01-02T12:00:00Z",
            "finished_at": None,
            "state": "running",
        }
    ]


async def test_a_completed_job_is_its_result(api: Api) -> None:
    job = await api.submit(labels={"team": "core"})
    run = Run(api, job)
    await run.start()
    await run.sample(2)
    await run.complete(warnings=(Caution(code="random_weights", message="The text means nothing."),))

    shown = await show(api, job)

    assert list(shown) == PUBLIC + AFTER_IT + IN_FULL
    assert [shown[name] for name in PUBLIC] == [
        job["job_id"],
        "gpt2",
        "text-generation",
        0.004,
        2,
        " blue sky",
        {"cpu_usage_percent": 40.5, "ram_usage_gb": 0.3, "gpu_usage_percent": None, "vram_usage_gb": None},
    ]
    assert (shown["status"], shown["finish_reason"], shown["attempt"]) == ("completed", "length", 1)
    assert (shown["finished_at"], shown["progress"], shown["error"]) == ("2026-01-02T12:00:00Z", None, None)
    assert shown["warnings"] == [{"code": "random_weights", "message": "The text means nothing."}]
    assert shown["timings"]["ttft_ms"]["p50"] == 2.0
    assert (shown["samples"]["emitted"], shown["samples"]["stored"]) == (2, 2)
    assert shown["samples"]["summary"]["interval_ms"] == 100
    assert shown["reasons"] == {"hardware_metrics.gpu_usage_percent": "no GPU was used"}
    assert shown["labels"] == {"team": "core"}
    assert shown["request"]["model_id"] == "gpt2"
    assert shown["runs"][0]["state"] == "completed"


async def test_a_failed_job_says_why_and_what_was_measured_until_then(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    await run.start()
    await run.fail(
        code="prompt_too_long",
        message="1030 tokens, and the context holds 1024",
        details={"prompt_tokens": 1030, "context": 1024},
        hardware_metrics=a_result().hardware_metrics,
    )

    shown = await show(api, job)

    assert shown["status"] == "failed"
    assert shown["error"] == {
        "code": "prompt_too_long",
        "message": "1030 tokens, and the context holds 1024",
        "details": {"prompt_tokens": 1030, "context": 1024},
    }
    assert (shown["duration"], shown["hardware_metrics"]["cpu_usage_percent"]) == (None, 40.5)


async def test_a_job_that_was_run_twice_shows_both_runs_and_the_result_of_the_second(api: Api) -> None:
    job = await api.submit()
    first, second = Run(api, job), Run(api, job, attempt=2)
    await first.start(worker_id="one")
    await second.start(worker_id="two")
    await second.complete()

    shown = await show(api, job)

    assert (shown["status"], shown["attempt"]) == ("completed", 2)
    assert [(run["worker_id"], run["state"]) for run in shown["runs"]] == [("one", "superseded"), ("two", "completed")]


async def test_a_job_whose_request_could_not_be_read_is_shown_as_far_as_it_is_known(api: Api) -> None:
    job_id = uuid4()
    await api.bus.publish(failed(job_id=job_id, run_id=uuid4(), code="undecodable_request", message="no"))

    shown = await until(lambda: _shown(api, job_id))

    assert (shown["model"], shown["task"], shown["request"], shown["status"]) == (None, None, None, "failed")
    assert shown["error"]["code"] == "undecodable_request"


async def _shown(api: Api, job_id: UUID) -> dict[str, Any]:
    answer = await api.get(f"{BENCHMARKS}/{job_id}")
    return dict(answer.json()) if answer.status_code == 200 else {}


async def test_a_queued_job_is_cancelled_at_once(api: Api) -> None:
    job = await api.submit()

    answer = await api.post(f"{BENCHMARKS}/{job['job_id']}/cancel")

    assert answer.status_code == 202
    assert answer.json()["status"] in ("cancelling", "cancelled")
    await until(lambda: _has_status(api, job, "cancelled"))


async def test_a_running_job_is_cancelling_until_its_worker_answers(api: Api) -> None:
    job = await api.submit()
    await Run(api, job).start()

    answer = await api.post(f"{BENCHMARKS}/{job['job_id']}/cancel")
    again = await api.post(f"{BENCHMARKS}/{job['job_id']}/cancel")

    assert (answer.status_code, again.status_code) == (202, 202)
    assert (answer.json()["status"], again.json()["status"]) == ("cancelling", "cancelling")
    assert [e for e in api.bus.events if isinstance(e, BenchmarkCancelRequested) and str(e.job_id) == job["job_id"]]


async def test_a_finished_job_cannot_be_cancelled(api: Api) -> None:
    completed = await a_completed_job(api)
    cancelled = await api.submit()
    await api.post(f"{BENCHMARKS}/{cancelled['job_id']}/cancel")
    await until(lambda: _has_status(api, cancelled, "cancelled"))

    answers = [await api.post(f"{BENCHMARKS}/{job['job_id']}/cancel") for job in (completed, cancelled)]

    assert [kind(answer) for answer in answers] == [(409, "job-finished")] * 2
    assert "completed" in problem(answers[0])["detail"]


async def test_a_job_that_only_the_app_knows_can_be_cancelled(api: Api) -> None:
    job = await api.submit()
    api.bus.available = False
    try:
        answer = await api.post(f"{BENCHMARKS}/{job['job_id']}/cancel")
    finally:
        api.bus.available = True

    assert kind(answer) == (503, "broker-unavailable")


async def _has_status(api: Api, job: dict[str, Any], status: str) -> bool:
    return bool((await show(api, job))["status"] == status)


async def listed(api: Api, **parameters: Any) -> list[str]:
    answer = await api.get(BENCHMARKS, params=parameters)
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()["items"]]


async def test_a_list_is_newest_first_and_its_pages_leave_nothing_out(api: Api) -> None:
    label = str(uuid4())
    jobs = [await api.submit(labels={"test": label}) for _ in range(7)]

    pages: list[list[str]] = []
    cursor = None
    while not pages or cursor:
        parameters = {"label": f"test:{label}", "limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await api.get(BENCHMARKS, params=parameters)).json()
        cursor = page["next_cursor"]
        pages.append([job["job_id"] for job in page["items"]])

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [job_id for page in pages for job_id in page] == [job["job_id"] for job in reversed(jobs)]


async def test_an_item_of_a_list_is_the_job_without_its_details(api: Api) -> None:
    label = str(uuid4())
    job = await a_completed_job(api, labels={"test": label})

    [item] = (await api.get(BENCHMARKS, params={"label": f"test={label}"})).json()["items"]

    assert list(item) == PUBLIC + AFTER_IT
    assert item == {name: value for name, value in (await show(api, job)).items() if name in item}


async def test_a_list_can_be_filtered(api: Api) -> None:
    label = str(uuid4())
    queued = (await api.submit(labels={"test": label, "a=b": "c:d"}, model_id="distilgpt2"))["job_id"]
    completed = (await a_completed_job(api, labels={"test": label}))["job_id"]
    here = {"label": f"test:{label}"}

    assert await listed(api, **here) == [completed, queued]
    assert await listed(api, **here, status="completed") == [completed]
    assert await listed(api, **here, status="queued") == [queued]
    assert await listed(api, **here, model_id="distilgpt2") == [queued]
    assert await listed(api, **here, task="text-generation") == [completed, queued]
    assert await listed(api, **here, device="cpu") == [completed]
    assert await listed(api, **here, created_after="2020-01-01T00:00:00Z") == [completed, queued]
    assert await listed(api, **here, created_before="2020-01-01T00:00:00+02:00") == []
    assert await listed(api, label=["test:" + label, "nobody:has"]) == []


@pytest.mark.parametrize("status", ["queued", "running", "cancelling", "completed", "failed", "cancelled"])
async def test_every_status_can_be_asked_for(api: Api, status: str) -> None:
    await listed(api, status=status, created_after=NOON.isoformat())

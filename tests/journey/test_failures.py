"""What can be foreseen to go wrong has a name, says what to do, and leaves the worker ready for the next job."""

from tests.journey.service import Json, Service


async def test_what_cannot_be_run_fails_by_name_and_the_next_job_runs(service: Service) -> None:
    service.start_worker()
    await service.client.post("/models", json={"model_id": "nobody/has-this"})
    cases: dict[str, Json] = {
        "model_unavailable": {"model_id": "nobody/has-this"},
        "prompt_too_long": {"prompt": "word " * 2000},
        "gpu_unavailable": {"device": "cuda", "use_gpu": True},
        "timeout": {"iterations": 1000, "max_tokens": 200, "timeout_s": 1},
    }
    jobs = {code: await service.submit(**changes) for code, changes in cases.items()}
    last = await service.submit()

    results = {code: await service.result(job_id) for code, job_id in jobs.items()}

    assert {code: (job["status"], job["error"]["code"]) for code, job in results.items()} == {
        code: ("failed", code) for code in cases
    }
    too_long = results["prompt_too_long"]["error"]
    assert too_long["details"]["context_length"] == 512
    assert too_long["details"]["prompt_tokens"] > 512
    assert {str(too_long["details"][name]) for name in ("prompt_tokens", "context_length")} <= set(
        too_long["message"].split()
    )
    assert "architecture" in results["model_unavailable"]["error"]["message"]
    assert (await service.result(last))["status"] == "completed"

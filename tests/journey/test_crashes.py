"""Whichever single process dies, the job ends once, and says which attempt it was."""

import signal

import psutil

from tests.journey.service import Service
from tests.servers import RunningBroker, RunningPostgres
from tests.waiting import until

LONG = {"iterations": 120, "max_tokens": 50}


async def test_a_worker_that_dies_gives_the_job_a_second_attempt(service: Service) -> None:
    worker = service.start_worker()
    job_id = await service.submit(**LONG)
    await service.until_measuring(job_id)
    orphan = worker.child()
    assert orphan is not None

    worker.kill()
    service.start_worker()

    result = await service.result(job_id)
    assert (result["status"], result["attempt"]) == ("completed", 2)
    assert not psutil.pid_exists(orphan.pid)


async def test_a_child_that_dies_is_a_failure_and_the_next_job_runs(service: Service) -> None:
    worker = service.start_worker()
    job_id = await service.submit(**LONG)
    await service.until_measuring(job_id)
    child = worker.child()
    assert child is not None

    child.send_signal(signal.SIGKILL)

    result = await service.result(job_id)
    assert (result["status"], result["error"]["code"]) == ("failed", "child_died")
    assert (await service.result(await service.submit()))["status"] == "completed"


async def test_two_workers_share_a_queue(service: Service) -> None:
    service.start_worker()
    service.start_worker()
    await service.until_workers(2)
    jobs = [await service.submit(iterations=100) for _ in range(4)]

    results = [await service.result(job_id) for job_id in jobs]

    assert {result["status"] for result in results} == {"completed"}
    assert len({result["runs"][0]["worker_id"] for result in results}) == 2


async def test_a_job_survives_the_app_that_accepted_it(service: Service) -> None:
    job_id = await service.submit()
    service.parts[-1].kill()

    service.start_worker()
    service.start_app()
    await service.until_healthy()

    assert (await service.result(job_id))["status"] == "completed"


async def test_a_job_survives_the_projection(service: Service) -> None:
    service.start_worker()
    job_id = await service.submit(**LONG)
    await service.until_measuring(job_id)
    service.parts[0].kill()

    service.start_projection()

    assert (await service.result(job_id))["status"] == "completed"
    events = [event async for event in service.events(job_id)]
    assert [event["data"]["seq"] for event in events[1:]] == list(range(len(events) - 1))


async def test_a_job_survives_postgres(service: Service, postgres: RunningPostgres) -> None:
    service.start_worker()
    job_id = await service.submit(**LONG)
    await service.until_measuring(job_id)

    await postgres.kill()
    response = await service.client.get(f"/benchmarks/{job_id}")
    assert (response.status_code, "retry-after" in response.headers) == (503, True)
    await postgres.start()

    result = await service.result(job_id)
    assert (result["status"], result["attempt"]) == ("completed", 1)


async def test_a_job_survives_the_broker(service: Service, broker: RunningBroker) -> None:
    service.start_worker()
    done = await service.result(await service.submit())
    job_id = await service.submit(**LONG)
    await service.until_measuring(job_id)

    await broker.kill()
    await broker.start()

    result = await service.result(job_id)
    assert (result["status"], done["status"]) == ("completed", "completed")
    assert result["attempt"] == 2


async def test_a_post_to_a_service_without_broker_says_when_to_come_again(
    service: Service, broker: RunningBroker
) -> None:
    await broker.kill()

    async def refused() -> bool:
        response = await service.client.post("/benchmarks", json={"model_id": "gpt2", "prompt": "Hi"})
        return response.status_code == 503 and response.json()["type"].endswith("broker-unavailable")

    await until(refused)
    response = await service.client.post("/benchmarks", json={"model_id": "gpt2", "prompt": "Hi"})
    assert "retry-after" in response.headers
    assert (await service.client.get("/health")).status_code == 503
    await broker.start()
    await service.until_healthy()


async def test_a_worker_that_is_told_to_stop_finishes_its_job(service: Service) -> None:
    worker = service.start_worker()
    job_id = await service.submit(iterations=100)
    await service.until_measuring(job_id)

    assert await worker.stop() == 0

    result = await service.result(job_id)
    assert (result["status"], result["attempt"]) == ("completed", 1)


async def test_a_worker_that_may_not_finish_gives_its_job_back(service: Service) -> None:
    worker = service.start_worker(LLM_BENCH_DRAIN_S="0")
    job_id = await service.submit(**LONG)
    await service.until_measuring(job_id)

    assert await worker.stop() == 0
    service.start_worker()

    result = await service.result(job_id)
    assert (result["status"], result["attempt"]) == ("completed", 2)

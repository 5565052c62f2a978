from tests.journey.service import Service


async def test_a_queued_job_is_cancelled_though_no_worker_lives(service: Service) -> None:
    job_id = await service.submit()

    response = await service.client.post(f"/benchmarks/{job_id}/cancel")

    assert response.status_code == 202
    assert (await service.result(job_id))["status"] == "cancelled"


async def test_a_job_that_was_cancelled_while_queued_is_not_run_afterwards(service: Service) -> None:
    cancelled, other = await service.submit(), await service.submit()
    await service.client.post(f"/benchmarks/{cancelled}/cancel")
    await service.result(cancelled)

    service.start_worker()

    assert (await service.result(other))["status"] == "completed"
    assert (await service.job(cancelled))["status"] == "cancelled"


async def test_a_job_behind_a_running_one_is_cancelled_at_once(service: Service) -> None:
    service.start_worker()
    await service.until_workers(1)
    running = await service.submit(iterations=1000, max_tokens=100)
    await service.until_measuring(running)
    waiting = await service.submit()

    await service.client.post(f"/benchmarks/{waiting}/cancel")

    assert (await service.result(waiting))["status"] == "cancelled"
    assert (await service.job(running))["status"] == "running"
    await service.client.post(f"/benchmarks/{running}/cancel")
    await service.result(running)


async def test_a_running_job_is_cancelled_and_the_next_one_runs(service: Service) -> None:
    service.start_worker()
    job_id = await service.submit(iterations=1000, max_tokens=100)
    await service.until_measuring(job_id)

    response = await service.client.post(f"/benchmarks/{job_id}/cancel")

    assert response.status_code == 202
    assert (await service.result(job_id))["status"] == "cancelled"
    again = await service.client.post(f"/benchmarks/{job_id}/cancel")
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    assert (await service.result(await service.submit()))["status"] == "completed"

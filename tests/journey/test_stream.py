from tests.journey.service import Json, Service


async def stream(service: Service, job_id: str, last_event_id: str | None = None) -> list[Json]:
    return [event async for event in service.events(job_id, last_event_id)]


async def test_a_stream_tells_a_run_in_order_and_ends(service: Service) -> None:
    service.start_worker()
    job_id = await service.submit(iterations=100)

    events = await stream(service, job_id)

    names = [event["event"] for event in events]
    assert names[:2] == ["benchmark.requested.v1", "benchmark.started.v1"]
    assert names[-1] == "benchmark.completed.v1"
    assert {"benchmark.progressed.v1", "metric.sampled.v1"} <= set(names)
    assert [event["data"]["seq"] for event in events[1:]] == list(range(len(events) - 1))


async def test_a_stream_that_was_interrupted_and_resumed_equals_a_whole_one(service: Service) -> None:
    service.start_worker()
    job_id = await service.submit(iterations=100)

    first: list[Json] = []
    async for event in service.events(job_id):
        first.append(event)
        if len(first) == 3:
            break
    rest = await stream(service, job_id, last_event_id=first[-1]["id"])

    assert first + rest == await stream(service, job_id)


async def test_a_stream_that_has_seen_the_end_has_nothing_more(service: Service) -> None:
    service.start_worker()
    job_id = await service.submit()
    events = await stream(service, job_id)

    response = await service.client.get(f"/benchmarks/{job_id}/events", headers={"Last-Event-ID": events[-1]["id"]})

    assert response.status_code == 204


async def test_a_stream_of_two_attempts_shows_both_and_one_end(service: Service) -> None:
    worker = service.start_worker()
    job_id = await service.submit(iterations=120, max_tokens=50)
    await service.until_measuring(job_id)
    worker.kill()
    service.start_worker()

    events = await stream(service, job_id)

    starts = [event["data"]["attempt"] for event in events if event["event"] == "benchmark.started.v1"]
    assert starts == [1, 2]
    assert [event["event"] for event in events].count("benchmark.completed.v1") == 1

"""A POST whose broker goes silent after it was sent: nobody can know, so the answer says so, and repeating is safe."""

from pathlib import Path

from tests.journey.service import a_body, a_service
from tests.relay import relay_to
from tests.waiting import until

KEY = {"Idempotency-Key": "the same one"}


async def test_a_post_whose_broker_is_lost_while_it_waits_can_be_repeated(
    broker_url: str, database_url: str, tmp_path: Path
) -> None:
    async with relay_to(broker_url) as (url, relay), a_service(broker_url, database_url, tmp_path) as service:
        service.start_projection()
        service.start("app", LLM_BENCH_AMQP_URL=url)
        await service.until_healthy()

        relay.freeze()
        unknown = await service.client.post("/benchmarks", json=a_body(), headers=KEY)
        refused = await service.client.post("/benchmarks", json=a_body())
        relay.thaw()

        assert (unknown.status_code, unknown.json()["type"].rsplit(":", 1)[-1]) == (503, "outcome-unknown")
        assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[-1]) == (503, "broker-unavailable")
        assert "retry-after" in unknown.headers

        async def accepted() -> bool:
            response = await service.client.post("/benchmarks", json=a_body(), headers=KEY)
            return response.status_code == 202 and response.json()["job_id"] == unknown.json()["job_id"]

        await until(accepted, timeout=30)
        assert len((await service.client.get("/benchmarks")).json()["items"]) == 1

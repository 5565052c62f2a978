import asyncio
from uuid import UUID, uuid4

import pytest

from app.benchmark import EXAMPLE
from app.state.log import Log
from events.bus import OutcomeUnknown
from events.bus.memory import MemoryBus
from events.messages import AnyEvent, BenchmarkRequested
from tests.app import serving
from tests.app.serving import Api, kind, problem, wrong_fields
from tests.builders import requested
from tests.waiting import until

BENCHMARKS = "/api/v1/benchmarks"


def requests_of(api: Api, job_id: str) -> list[BenchmarkRequested]:
    events = [event for event in api.bus.events if isinstance(event, BenchmarkRequested)]
    return [event for event in events if event.job_id == UUID(job_id)]


async def test_a_benchmark_is_accepted_and_found_at_once(api: Api) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE)

    found = await api.get(answer.headers["location"])

    assert answer.status_code == 202
    assert answer.headers["location"] == f"{BENCHMARKS}/{answer.json()['job_id']}"
    assert found.json() | {"created_at": None} == answer.json() | {"created_at": None}


async def test_the_event_carries_the_whole_spec_and_model(api: Api) -> None:
    job = await api.submit(prompt="The whole of it", labels={"team": "core"}, seed=7)

    [event] = requests_of(api, job["job_id"])

    assert (event.spec.prompt, event.spec.labels, event.spec.seed) == ("The whole of it", {"team": "core"}, 7)
    assert event.spec.model.architecture == {"model_type": "gpt2"}
    assert event.pool == "cpu"


async def test_only_the_model_and_the_prompt_are_required(api: Api) -> None:
    answer = await api.post(BENCHMARKS, {"model_id": "gpt2", "prompt": "Hi"})

    assert answer.json()["request"] == {
        "model_id": "gpt2",
        "prompt": "Hi",
        "task": "text-generation",
        "max_tokens": 50,
        "temperature": 0.7,
        "top_p": 0.9,
        "use_gpu": True,
        "top_k": 0,
        "iterations": 1,
        "warmup_iterations": 1,
        "seed": None,
        "stop": [],
        "ignore_eos": False,
        "device": "auto",
        "weights": "auto",
        "sample_interval_ms": 100,
        "timeout_s": 600.0,
        "labels": {},
    }


async def test_what_a_job_says_it_was_asked_can_be_asked_again(api: Api) -> None:
    job = await api.submit(stop=["\n"], labels={"a": "b"})

    again = await api.post(BENCHMARKS, job["request"])

    assert again.json()["request"] == job["request"]


async def test_without_a_key_the_same_body_is_another_job(api: Api) -> None:
    assert (await api.submit())["job_id"] != (await api.submit())["job_id"]


async def test_the_same_key_and_body_give_the_same_job(api: Api) -> None:
    key = {"Idempotency-Key": str(uuid4())}

    first = await api.post(BENCHMARKS, EXAMPLE, headers=key)
    again = await api.post(BENCHMARKS, dict(reversed(EXAMPLE.items())), headers=key)

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert len(requests_of(api, first.json()["job_id"])) == 1


async def test_many_at_once_with_one_key_are_one_job(api: Api) -> None:
    key = {"Idempotency-Key": str(uuid4())}

    answers = await asyncio.gather(*(api.post(BENCHMARKS, EXAMPLE, headers=key) for _ in range(8)))

    assert {answer.status_code for answer in answers} == {202}
    [job_id] = {answer.json()["job_id"] for answer in answers}
    assert len(requests_of(api, job_id)) == 1
    assert len(api.parts.submissions) == 0


async def test_many_bodies_at_once_with_one_key_leave_one_job(api: Api) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    bodies = [EXAMPLE | {"seed": seed} for seed in range(6)]

    answers = await asyncio.gather(*(api.post(BENCHMARKS, body, headers=key) for body in bodies))

    [job] = [answer.json() for answer in answers if answer.status_code == 202]
    assert [event.spec.seed for event in requests_of(api, job["job_id"])] == [job["request"]["seed"]]
    assert {kind(answer) for answer in answers if answer.status_code != 202} == {(422, "idempotency-key-reused")}


async def test_the_same_key_with_another_body_is_refused(api: Api) -> None:
    key = {"Idempotency-Key": "a key, printable"}
    await api.post(BENCHMARKS, EXAMPLE, headers=key)

    answer = await api.post(BENCHMARKS, EXAMPLE | {"max_tokens": 51}, headers=key)

    assert kind(answer) == (422, "idempotency-key-reused")
    assert wrong_fields(answer) == {"Idempotency-Key"}


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"caf\xe9", b"a\tb"])
async def test_a_key_that_is_none_is_refused(api: Api, key: bytes) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE, headers=[(b"Idempotency-Key", key)])

    assert kind(answer) == (422, "validation-error")
    assert wrong_fields(answer) == {"Idempotency-Key"}


async def test_a_broker_that_is_down_is_said_at_once(api: Api) -> None:
    api.bus.available = False
    try:
        answer = await api.post(BENCHMARKS, EXAMPLE)
    finally:
        api.bus.available = True

    assert kind(answer) == (503, "broker-unavailable")
    assert int(answer.headers["retry-after"]) > 0


class LosingBus(MemoryBus):
    """The link is lost while a publish waits for its confirm; what was sent may have arrived or not."""

    def __init__(self, arrives: bool) -> None:
        super().__init__()
        self.losing = True
        self._arrives = arrives

    async def publish(self, event: AnyEvent, *, event_id: UUID | None = None) -> UUID:
        if self.losing:
            if self._arrives:
                await super().publish(event, event_id=event_id)
            raise OutcomeUnknown("the link to the broker was lost")
        return await super().publish(event, event_id=event_id)


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_broker_lost_while_a_post_waits_is_an_unknown_outcome_that_can_be_repeated(
    database_url: str, arrives: bool
) -> None:
    bus, key = LosingBus(arrives), {"Idempotency-Key": "once"}
    async with serving.api(database_url, bus=bus) as api:
        lost = await api.post(BENCHMARKS, EXAMPLE, headers=key)
        bus.losing = False

        again = await api.post(BENCHMARKS, EXAMPLE, headers=key)

    assert kind(lost) == (503, "outcome-unknown")
    assert "retry-after" in lost.headers
    assert again.status_code == 202
    assert again.json()["job_id"] == problem(lost)["job_id"]
    assert len({event_id for event_id, event in bus.published if isinstance(event, BenchmarkRequested)}) == 1


async def test_while_the_projection_is_late_the_app_answers_for_the_job_itself(database_url: str) -> None:
    async with serving.api(database_url, projected=False) as api:
        job = await api.submit()
        path = f"{BENCHMARKS}/{job['job_id']}"

        found = [(await api.get(path + part)).json() for part in ("", "/metrics", "/iterations")]

        assert found[0] == job
        assert (found[0]["status"], found[1]["samples"], found[2]) == ("queued", [], {"items": []})

        async with serving.projecting(api.bus, database_url):
            await until(lambda: len(api.parts.accepted) == 0)
            stored = (await api.get(path)).json()

    assert stored == job


async def test_with_a_key_a_late_projection_leaves_the_outcome_unknown(database_url: str) -> None:
    async with serving.api(database_url, projected=False) as api:
        answer = await api.post(BENCHMARKS, EXAMPLE, headers={"Idempotency-Key": "late"})

    assert kind(answer) == (503, "outcome-unknown")
    assert UUID(problem(answer)["job_id"])


async def test_many_at_once_with_one_key_share_an_unknown_outcome(database_url: str) -> None:
    key = {"Idempotency-Key": "late"}
    async with serving.api(database_url, projected=False) as api:
        answers = await asyncio.gather(*(api.post(BENCHMARKS, EXAMPLE, headers=key) for _ in range(8)))

    assert {kind(answer) for answer in answers} == {(503, "outcome-unknown")}
    assert len(requests_of(api, problem(answers[0])["job_id"])) == 1


class LateConfirmBus(MemoryBus):
    """The broker's confirm arrives when the event has been stored already, and was heard of in the log."""

    log: Log

    async def publish(self, event: AnyEvent, *, event_id: UUID | None = None) -> UUID:
        before = self.log.position
        event_id = await super().publish(event, event_id=event_id)
        await until(lambda: self.log.position != before)
        return event_id


async def test_a_job_that_was_stored_before_its_confirm_arrived_is_not_kept_in_memory(database_url: str) -> None:
    bus = LateConfirmBus()
    async with serving.api(database_url, bus=bus) as api:
        bus.log = api.parts.log
        await api.submit()

        assert len(api.parts.accepted) == 0


async def test_another_app_finds_a_job_by_its_key_as_well(api: Api) -> None:
    job = await api.post(BENCHMARKS, EXAMPLE, headers={"Idempotency-Key": "two apps"})

    async with serving.serving(api.bus, api.database_url) as (_, _, url):
        again = await api.post(f"{url}{BENCHMARKS}", EXAMPLE, headers={"Idempotency-Key": "two apps"})

    assert again.json()["job_id"] == job.json()["job_id"]


async def test_a_strange_request_event_does_no_harm(api: Api) -> None:
    job_id = uuid4()

    await api.bus.publish(requested(job_id=job_id))

    found = await until(lambda: _found(api, f"{BENCHMARKS}/{job_id}"))
    assert found["model"] == "builtin/tiny"


async def _found(api: Api, path: str) -> dict[str, object]:
    answer = await api.get(path)
    return dict(answer.json()) if answer.status_code == 200 else {}

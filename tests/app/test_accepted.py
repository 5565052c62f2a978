from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from app.state import accepted
from app.state.accepted import Accepted, AcceptedJob
from tests.app.serving import Api, kind
from tests.app.stories import a_completed_job


def a_job(job_id: UUID, size: int = 10) -> AcceptedJob:
    return AcceptedJob(
        job_id=job_id,
        model_id="gpt2",
        task="text-generation",
        labels={},
        request=b"x" * size,
        created_at=datetime.now(UTC),
        accepted_at=0.0,
    )


@pytest.mark.parametrize(("most_jobs", "most_bytes"), [(2, 1000), (100, 25)])
def test_the_oldest_are_forgotten_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch, most_jobs: int, most_bytes: int
) -> None:
    monkeypatch.setattr(accepted, "MOST_JOBS", most_jobs)
    monkeypatch.setattr(accepted, "MOST_BYTES", most_bytes)
    jobs, first, second, third = Accepted(), uuid4(), uuid4(), uuid4()

    for job_id in (first, second, third):
        jobs.add(a_job(job_id))

    assert [jobs.get(job_id) is not None for job_id in (first, second, third)] == [False, True, True]


def test_what_is_stored_is_forgotten_and_leaves_no_lag() -> None:
    jobs, job_id = Accepted(), uuid4()
    jobs.add(a_job(job_id))
    waiting = jobs.lag_s()

    jobs.forget(job_id)
    jobs.forget(job_id)

    assert (len(jobs), jobs.lag_s(), waiting > 0) == (0, 0.0, True)


async def test_a_job_whose_storing_was_not_heard_of_is_forgotten_when_it_is_found(api: Api) -> None:
    job = await a_completed_job(api)
    api.parts.accepted.add(a_job(UUID(job["job_id"])))

    answer = await api.get(job["links"]["self"])

    assert (answer.json()["status"], len(api.parts.accepted)) == ("completed", 0)


async def test_a_job_whose_end_was_not_heard_of_cannot_be_cancelled(api: Api) -> None:
    job = await a_completed_job(api)
    api.parts.accepted.add(a_job(UUID(job["job_id"])))

    answer = await api.post(job["links"]["cancel"])

    assert (kind(answer), len(api.parts.accepted)) == ((409, "job-finished"), 0)

"""What workers say of a job, so that it can be seen at each point of its life."""

from typing import Any
from uuid import UUID, uuid4

from events.messages import AnyEvent
from tests.app.serving import Api
from tests.builders import a_sample, completed, failed, progressed, sampled, started


class Run:
    """One execution of a job, told event by event through the real projection."""

    def __init__(self, api: Api, job: dict[str, Any], attempt: int = 1) -> None:
        self._api = api
        self._seq = -1
        self.job_id = UUID(job["job_id"])
        self.run_id = uuid4()
        self._attempt = attempt
        self._request_id = next(
            event_id for event_id, event in api.bus.published if getattr(event, "job_id", None) == self.job_id
        )

    def identity(self) -> dict[str, Any]:
        self._seq += 1
        return {
            "job_id": self.job_id,
            "request_id": self._request_id,
            "attempt": self._attempt,
            "run_id": self.run_id,
            "seq": self._seq,
        }

    async def tell(self, *events: AnyEvent) -> None:
        """Publish these, and wait until the app has heard that they are stored."""
        for event in events:
            event_id = uuid4()
            with self._api.parts.log.expecting(event_id) as stored:
                await self._api.bus.publish(event, event_id=event_id)
                assert await self._api.parts.log.stored(stored, 5)

    async def start(self, **changes: Any) -> None:
        await self.tell(started(**self.identity(), **changes))

    async def progress(self, **changes: Any) -> None:
        await self.tell(progressed(**self.identity(), **changes))

    async def sample(self, count: int, **changes: Any) -> None:
        samples = tuple(a_sample(offset_ms=100.0 * number, **changes) for number in range(count))
        await self.tell(sampled(**self.identity(), samples=samples, emitted=count))

    async def complete(self, **changes: Any) -> None:
        await self.tell(completed(**self.identity(), **changes))

    async def fail(self, **changes: Any) -> None:
        await self.tell(failed(**self.identity(), **changes))


async def a_completed_job(api: Api, **changes: Any) -> dict[str, Any]:
    job = await api.submit(**changes)
    run = Run(api, job)
    await run.start()
    await run.sample(2)
    await run.complete()
    return job

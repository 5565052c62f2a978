"""The jobs that this app accepted and that are not known to be stored yet: until then it answers for them itself."""

import time
from collections import OrderedDict
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from events.benchmark import Task

MOST_JOBS = 20_000
MOST_BYTES = 32_000_000


class AcceptedJob(Struct, frozen=True, kw_only=True):
    """`request` is the validated request as JSON."""

    job_id: UUID
    model_id: str
    task: Task
    labels: dict[str, str]
    request: bytes
    created_at: datetime
    accepted_at: float


class Accepted:
    """Bounded: while nothing is stored for long, the oldest are forgotten first."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[UUID, AcceptedJob] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: UUID) -> AcceptedJob | None:
        return self._jobs.get(job_id)

    def add(self, job: AcceptedJob) -> None:
        self._jobs[job.job_id] = job
        self._bytes += len(job.request)
        while len(self._jobs) > MOST_JOBS or self._bytes > MOST_BYTES:
            self.forget(next(iter(self._jobs)))

    def forget(self, job_id: UUID) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._bytes -= len(job.request)

    def lag_s(self) -> float:
        """For how long the oldest of them has been waiting to be stored."""
        oldest = next(iter(self._jobs.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.accepted_at

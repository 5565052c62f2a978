"""Takes one request at a time, has it run, and acknowledges it when its last word is confirmed."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from uuid import UUID, uuid4

from msgspec import Struct

from consumers.inference.engine import CannotStart
from consumers.inference.report import (
    BROKER_TROUBLE,
    RunIdentity,
    RunReport,
    confirmed,
    happens,
    now,
    until_available,
)
from consumers.inference.run import Outcome, Taken, Tools, run_benchmark
from events.bus import Bus, Delivery, Settlement, Subscription, handle
from events.bus.topology import cancel_queue, pool_queue
from events.envelope import Envelope, Undecodable
from events.messages import (
    AnyEvent,
    BenchmarkCancelled,
    BenchmarkCancelRequested,
    BenchmarkFailed,
    BenchmarkRequested,
    FailureCode,
    TerminalEvent,
    WorkerReported,
    type_of,
)

logger = logging.getLogger(__name__)

CANCELS_REMEMBERED = 10_000
CANCELS_AT_ONCE = 100
REPORT_INTERVAL_S = 5.0
REPORTS_APART_S = 1.0
REPORT_WITHIN_S = 2.0
UNKNOWN_REQUEST = UUID(int=0)


class Limits(Struct, frozen=True, kw_only=True):
    """A request that has had `max_attempts` is not run again; a stop leaves the running job `drain_s` to end."""

    max_attempts: int = 5
    drain_s: float = 30.0


class Cancels:
    """What was cancelled, also of jobs that this worker does not have, or not yet."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[UUID, None] = OrderedDict()
        self._watched: tuple[UUID, asyncio.Event] | None = None

    def remember(self, job_id: UUID) -> None:
        self._jobs[job_id] = None
        if len(self._jobs) > CANCELS_REMEMBERED:
            self._jobs.popitem(last=False)
        if self._watched is not None and self._watched[0] == job_id:
            self._watched[1].set()

    def watch(self, job_id: UUID) -> asyncio.Event:
        """Set once the job is cancelled. One job is watched at a time."""
        event = asyncio.Event()
        if job_id in self._jobs:
            event.set()
        self._watched = (job_id, event)
        return event


class Worker:
    """One of any number that share a pool's queue."""

    def __init__(self, bus: Bus, tools: Tools, limits: Limits) -> None:
        self._bus = bus
        self._tools = tools
        self._limits = limits
        self._cancels = Cancels()
        self._run: RunIdentity | None = None
        self._changed = asyncio.Event()
        self._broken: CannotStart | None = None
        self._breaks = asyncio.Event()

    async def serve(self, stop: asyncio.Event) -> None:
        """Until `stop` is set: then take nothing more, and give back what does not end in time.

        Raises CannotStart, and has given its request back by then: a worker that cannot measure would fail all jobs.
        """
        worker = self._tools.worker
        async with (
            self._bus.subscribe(pool_queue(worker.pool), prefetch=1) as requests,
            self._bus.subscribe(cancel_queue(worker.worker_id), prefetch=CANCELS_AT_ONCE) as cancels,
            asyncio.TaskGroup() as tasks,
        ):
            beside = [tasks.create_task(self._hear(cancels)), tasks.create_task(self._report_itself())]
            leaving = tasks.create_task(_take_no_more_after(stop, requests))
            while (delivery := await _next_unless(stop, requests)) is not None:
                await self._settle(delivery, stop)
            await leaving
            for task in beside:
                task.cancel()
        await self._say("stopping")
        if self._broken is not None:
            raise self._broken

    async def _settle(self, delivery: Delivery, stop: asyncio.Event) -> None:
        """What is not over when the worker must stop goes back with its subscription; rejected, it would come again."""
        handling = asyncio.create_task(handle(delivery, self._handle, self._answer_undecodable))
        await _first(handling, self._drained(stop), self._breaks.wait())
        if self._broken is not None:
            stop.set()
        if handling.done():
            handling.result()
        else:
            handling.cancel()
            await asyncio.gather(handling, return_exceptions=True)
            logger.info("request left to another worker: this one stops", extra={"attempt": delivery.attempt})
        if not stop.is_set():
            await self._tools.engine.start()

    async def _drained(self, stop: asyncio.Event) -> None:
        await stop.wait()
        if self._run is not None:
            await asyncio.sleep(self._limits.drain_s)

    async def _handle(self, envelope: Envelope, event: AnyEvent, delivery: Delivery) -> Settlement:
        if not isinstance(event, BenchmarkRequested):
            raise Undecodable(f"{type_of(event)} is no request")
        cancelled = self._cancels.watch(event.job_id)
        if not await until_available(self._bus, delivery):
            return Settlement.REQUEUE
        run = RunIdentity(job_id=event.job_id, request_id=envelope.id, attempt=delivery.attempt, run_id=uuid4())
        with self._busy(run):
            last_word = await self._last_word(event, run, cancelled, delivery)
            if last_word is None or not await confirmed(self._bus, last_word, delivery):
                return Settlement.REQUEUE
        logger.info("run over", extra={**_ids(run), "type": type_of(last_word)})
        return Settlement.ACK

    async def _last_word(
        self, request: BenchmarkRequested, run: RunIdentity, cancelled: asyncio.Event, delivery: Delivery
    ) -> TerminalEvent | None:
        """How the job ends, or None where it is somebody else's again."""
        if cancelled.is_set():
            return BenchmarkCancelled(
                job_id=run.job_id, attempt=run.attempt, request_id=run.request_id, finished_at=now()
            )
        if run.attempt > self._limits.max_attempts:
            return self._exhausted(run)
        return await self._execute(request, run, cancelled, delivery)

    async def _execute(
        self, request: BenchmarkRequested, run: RunIdentity, cancelled: asyncio.Event, delivery: Delivery
    ) -> Outcome | BenchmarkCancelled | None:
        """Run it until it is over, cancelled or lost. A run that nobody can be told of is abandoned."""
        logger.info("run begins", extra=_ids(run))
        report = RunReport(self._bus, run)
        taken = Taken(at=now(), zero=time.perf_counter_ns())
        running = asyncio.create_task(run_benchmark(request, taken, self._tools, report))
        try:
            await _first(running, cancelled.wait(), delivery.lost.wait())
            if running.done():
                return running.result()
            if delivery.lost.is_set():
                logger.warning("run abandoned: the request was lost", extra=_ids(run))
                return None
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return report.stamp(BenchmarkCancelled, finished_at=now())
        except BROKER_TROUBLE as error:
            logger.warning("run abandoned: it cannot be reported", extra={**_ids(run), "error": repr(error)})
            return None
        except CannotStart as error:
            logger.error("worker gives up: its measured process cannot start", extra={"error": str(error)})
            self._broken = error
            self._breaks.set()
            await delivery.lost.wait()  # given back at once, it would come again
            return None
        finally:
            report.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @contextmanager
    def _busy(self, run: RunIdentity) -> Iterator[None]:
        """A stop leaves time for the run and for its last word, which is lost where nobody confirms it."""
        self._run = run
        self._changed.set()
        try:
            yield
        finally:
            self._run = None
            self._changed.set()

    def _exhausted(self, run: RunIdentity) -> BenchmarkFailed:
        before = run.attempt - 1
        message = f"{before} attempts at this job ended without a result"
        return _failed(run, "attempts_exhausted", message, attempts=before, max_attempts=self._limits.max_attempts)

    async def _answer_undecodable(self, error: Undecodable, delivery: Delivery) -> None:
        """Its job ends, if it can be told which; the message is kept aside all the same."""
        if error.job_id is None:
            return
        run = RunIdentity(
            job_id=error.job_id,
            request_id=error.event_id or UNKNOWN_REQUEST,
            attempt=delivery.attempt,
            run_id=uuid4(),
        )
        message = f"this worker cannot read the request: {error}"
        await confirmed(self._bus, _failed(run, "undecodable_request", message), delivery)

    async def _hear(self, cancels: Subscription) -> None:
        while True:
            await handle(await cancels.next(), self._remember)

    async def _remember(self, envelope: Envelope, event: AnyEvent, delivery: Delivery) -> Settlement:
        if isinstance(event, BenchmarkCancelRequested):
            self._cancels.remember(event.job_id)
        return Settlement.ACK

    async def _report_itself(self) -> None:
        """Every few seconds and at once when the state changes, yet never twice within a second."""
        while True:
            self._changed.clear()
            if not await self._say("busy" if self._run else "idle"):
                self._changed.set()
            await asyncio.sleep(REPORTS_APART_S)
            await happens(self._changed, within=REPORT_INTERVAL_S - REPORTS_APART_S)

    async def _say(self, state: Literal["idle", "busy", "stopping"]) -> bool:
        """Report this worker; False where the broker did not take it, for which nothing waits."""
        worker, run = self._tools.worker, self._run
        report = WorkerReported(
            worker_id=worker.worker_id,
            host=worker.host,
            pid=worker.pid,
            pool=worker.pool,
            state=state,
            job_id=run.job_id if run else None,
            run_id=run.run_id if run else None,
            hardware=worker.hardware,
            version=worker.version,
            started_at=worker.started_at,
            reported_at=now(),
        )
        try:
            async with asyncio.timeout(REPORT_WITHIN_S):
                await self._bus.publish(report)
        except (*BROKER_TROUBLE, TimeoutError):
            return False
        return True


def _failed(run: RunIdentity, code: FailureCode, message: str, **details: Any) -> BenchmarkFailed:
    """The end of a job without a run: its only event."""
    return BenchmarkFailed(
        job_id=run.job_id,
        request_id=run.request_id,
        attempt=run.attempt,
        run_id=run.run_id,
        seq=0,
        code=code,
        message=message,
        details=details,
        iterations=(),
        hardware_metrics=None,
        warnings=(),
        samples_emitted=0,
        finished_at=now(),
    )


def _ids(run: RunIdentity) -> dict[str, Any]:
    return {"job_id": run.job_id, "run_id": run.run_id, "attempt": run.attempt}


async def _next_unless(stop: asyncio.Event, requests: Subscription) -> Delivery | None:
    """The next request. What arrives together with the stop stays unsettled, and goes back with the subscription."""
    taking = asyncio.create_task(requests.next())
    try:
        await _first(taking, stop.wait())
        return None if stop.is_set() else taking.result()
    finally:
        taking.cancel()


async def _take_no_more_after(stop: asyncio.Event, requests: Subscription) -> None:
    """Else the broker would hand over the next request with the last one's settling, only to count a lost attempt."""
    await stop.wait()
    await requests.take_no_more()


async def _first(task: asyncio.Task[Any], *others: Coroutine[Any, Any, Any]) -> None:
    """Wait for the task or for any of the others, of which nothing stays behind."""
    waiting = [asyncio.create_task(other) for other in others]
    try:
        await asyncio.wait([task, *waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

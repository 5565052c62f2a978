"""Taking, settling, cancelling and stopping, on the bus in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import msgspec
import pytest

from consumers.inference import worker as worker_module
from consumers.inference.engine import CannotStart
from consumers.inference.worker import Cancels, Limits, Worker
from events.bus import OutcomeUnknown
from events.bus.memory import MemoryBus
from events.bus.topology import cancel_queue, pool_queue
from events.envelope import encode
from events.messages import (
    AnyEvent,
    AnyRunEvent,
    BenchmarkCancelled,
    BenchmarkCompleted,
    BenchmarkFailed,
    BenchmarkRequested,
    BenchmarkStarted,
    MetricSampled,
    TerminalEvent,
    WorkerReported,
    type_of,
)
from tests.builders import JOB, NOON, REQUEST, a_spec, cancel_requested, requested
from tests.consumers.inference.scripted import ScriptedEngine, tools
from tests.waiting import until

QUEUE = pool_queue("cpu").name
REQUEST_KEY = f"{type_of(BenchmarkRequested)}.cpu"


class Broker(MemoryBus):
    """`unconfirmed` is how many of the next last words arrive and are not confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.unconfirmed = 0

    async def publish(self, event: AnyEvent, *, event_id: UUID | None = None) -> UUID:
        event_id = await super().publish(event, event_id=event_id)
        if isinstance(event, TerminalEvent) and self.unconfirmed:
            self.unconfirmed -= 1
            raise OutcomeUnknown("the broker did not confirm in time")
        return event_id

    @property
    def last_words(self) -> list[TerminalEvent]:
        return [event for event in self.events if isinstance(event, TerminalEvent)]

    @property
    def starts(self) -> list[BenchmarkStarted]:
        return [event for event in self.events if isinstance(event, BenchmarkStarted)]

    @property
    def waiting(self) -> int:
        return len(self.queues[QUEUE].waiting)


class Service:
    """A worker on a broker, and the handle to stop it with."""

    def __init__(self, limits: Limits) -> None:
        self.bus = Broker()
        self.engine = ScriptedEngine()
        self.stop = asyncio.Event()
        self.worker = Worker(self.bus, tools(self.engine), limits)

    async def last_word(self, number: int = 1) -> TerminalEvent:
        await until(lambda: len(self.bus.last_words) >= number)
        return self.bus.last_words[number - 1]

    async def until_running(self) -> None:
        await until(lambda: len(self.engine.generations) == self.engine.hold)


@asynccontextmanager
async def serving(limits: Limits | None = None) -> AsyncIterator[Service]:
    service = Service(limits or Limits())
    serving = asyncio.create_task(service.worker.serve(service.stop))
    await until(lambda: cancel_queue("host-1-aa").name in service.bus.queues)
    try:
        yield service
    finally:
        service.stop.set()
        service.engine.free.set()
        await serving


async def test_a_request_is_run_and_acknowledged_after_its_last_word() -> None:
    async with serving() as service:
        await service.bus.publish(requested(), event_id=REQUEST)

        last_word = await service.last_word()

        assert isinstance(last_word, BenchmarkCompleted)
        assert (last_word.job_id, last_word.request_id, last_word.attempt) == (JOB, REQUEST, 1)
    assert service.bus.waiting == 0


async def test_one_job_after_the_other_each_a_run_of_its_own() -> None:
    async with serving() as service:
        for _ in range(3):
            await service.bus.publish(requested(job_id=uuid4()))

        await service.last_word(3)

        assert len({started.run_id for started in service.bus.starts}) == 3


async def test_a_last_word_is_repeated_under_its_id_until_it_is_confirmed() -> None:
    async with serving() as service:
        service.bus.unconfirmed = 2
        await service.bus.publish(requested())

        await service.last_word(3)

        ids = [event_id for event_id, event in service.bus.published if isinstance(event, TerminalEvent)]
        assert len(set(ids)) == 1
    assert service.bus.waiting == 0


async def test_a_cancelled_run_ends_at_once_and_its_process_is_killed() -> None:
    async with serving() as service:
        service.engine.hold = 1
        await service.bus.publish(requested(), event_id=REQUEST)
        await service.until_running()

        await service.bus.publish(cancel_requested())
        last_word = await service.last_word()

        assert isinstance(last_word, BenchmarkCancelled)
        assert (last_word.attempt, last_word.request_id, last_word.run_id) == (1, REQUEST, service.bus.starts[0].run_id)
        assert (service.engine.killed, last_word.seq) == (1, 1 + _last_seq(service.bus))


def _last_seq(bus: Broker) -> int:
    return max(getattr(event, "seq", None) or 0 for event in bus.events if not isinstance(event, TerminalEvent))


async def test_a_cancel_that_came_before_its_request_is_remembered() -> None:
    async with serving() as service:
        await service.bus.publish(cancel_requested())
        await until(lambda: not service.bus.queues[cancel_queue("host-1-aa").name].waiting)

        await service.bus.publish(requested(), event_id=REQUEST)
        last_word = await service.last_word()

        assert isinstance(last_word, BenchmarkCancelled)
        assert (last_word.attempt, last_word.request_id, last_word.run_id) == (1, REQUEST, None)
        assert service.bus.starts == []


def test_cancels_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "CANCELS_REMEMBERED", 2)
    cancels = Cancels()
    jobs = [uuid4() for _ in range(3)]

    for job in jobs:
        cancels.remember(job)

    assert [cancels.watch(job).is_set() for job in jobs] == [False, True, True]


async def test_a_lost_request_is_abandoned_and_comes_back_as_the_next_attempt() -> None:
    async with serving() as service:
        service.engine.hold = 1
        await service.bus.publish(requested())
        await service.until_running()

        service.engine.hold = None
        service.bus.drop_connections()
        last_word = await service.last_word()

        assert [started.attempt for started in service.bus.starts] == [1, 2]
        assert (last_word.attempt, last_word.run_id) == (2, service.bus.starts[1].run_id)
        assert service.engine.killed == 1


async def test_of_a_lost_run_nothing_more_is_said() -> None:
    async with serving() as service:
        service.engine.hold = 1
        await service.bus.publish(requested(spec=a_spec(sample_interval_ms=5)))
        await until(lambda: _of_run(service.bus, 0)[-1:] and isinstance(_of_run(service.bus, 0)[-1], MetricSampled))

        service.engine.hold = None
        service.bus.drop_connections()
        said = len(_of_run(service.bus, 0))
        await service.last_word()

        assert len(_of_run(service.bus, 0)) == said


def _of_run(bus: Broker, number: int) -> list[AnyEvent]:
    """All that was said of one of the runs, in the order of their starts."""
    runs = [started.run_id for started in bus.starts[number : number + 1]]
    return [event for event in bus.events if isinstance(event, AnyRunEvent) and event.run_id in runs]


async def test_while_the_broker_is_away_no_attempt_is_spent() -> None:
    async with serving() as service:
        service.bus.available = False
        service.bus.put(encode(requested(), event_id=REQUEST, source="tests", time=NOON), REQUEST_KEY)
        await until(lambda: service.bus.waiting == 0)

        service.bus.available = True
        last_word = await service.last_word()

        assert (type(last_word), last_word.attempt) == (BenchmarkCompleted, 1)


async def test_too_many_attempts_end_the_job_without_a_run() -> None:
    async with serving(Limits(max_attempts=2)) as service:
        service.bus.queues[QUEUE].give_back(encode(requested(), event_id=REQUEST, source="tests", time=NOON), attempt=2)

        last_word = await service.last_word()

        assert isinstance(last_word, BenchmarkFailed)
        assert (last_word.code, last_word.attempt, last_word.details) == (
            "attempts_exhausted",
            3,
            {"attempts": 2, "max_attempts": 2},
        )
        assert last_word.message == "2 attempts at this job ended without a result"
        assert service.bus.starts == []


async def test_a_request_that_cannot_be_read_ends_its_job_and_is_kept_aside() -> None:
    wire = msgspec.json.decode(encode(requested(), event_id=REQUEST, source="tests", time=NOON))
    wire["data"]["spec"]["max_tokens"] = "many"
    async with serving() as service:
        service.bus.put(msgspec.json.encode(wire), REQUEST_KEY)

        last_word = await service.last_word()
        await until(lambda: service.bus.parked)

        assert isinstance(last_word, BenchmarkFailed)
        assert (last_word.code, last_word.job_id, last_word.request_id) == ("undecodable_request", JOB, REQUEST)
        assert "max_tokens" in last_word.message
    assert service.bus.waiting == 0


async def test_noise_and_strange_facts_are_kept_aside_and_the_next_job_runs() -> None:
    async with serving() as service:
        service.bus.put(b"\xff noise", REQUEST_KEY)
        service.bus.put(encode(cancel_requested(), event_id=REQUEST, source="tests", time=NOON), REQUEST_KEY)
        await service.bus.publish(requested())

        last_word = await service.last_word()

        assert isinstance(last_word, BenchmarkCompleted)
        assert len(service.bus.parked) == 2


async def test_an_error_that_nobody_named_gives_the_request_back() -> None:
    async with serving(Limits(max_attempts=2)) as service:
        service.engine.fails = ZeroDivisionError("a bug")
        await service.bus.publish(requested())

        last_word = await service.last_word()

        assert isinstance(last_word, BenchmarkFailed)
        assert (last_word.code, last_word.attempt) == ("attempts_exhausted", 3)


async def test_a_stop_lets_the_running_job_end() -> None:
    async with serving() as service:
        service.engine.hold = 1
        await service.bus.publish(requested())
        await service.until_running()

        service.stop.set()
        service.engine.free.set()

        assert isinstance(await service.last_word(), BenchmarkCompleted)
    assert service.bus.waiting == 0


async def test_a_stop_gives_back_what_does_not_end_in_time() -> None:
    async with serving(Limits(drain_s=0.05)) as service:
        service.engine.hold = 1
        await service.bus.publish(requested())
        await service.until_running()

        service.stop.set()
        await until(lambda: service.bus.waiting == 1)

    assert (service.bus.last_words, service.engine.killed) == ([], 1)


async def test_a_stop_leaves_time_for_a_last_word_that_is_not_confirmed_yet() -> None:
    async with serving() as service:
        service.bus.unconfirmed = 2
        await service.bus.publish(requested())
        await service.last_word()

        service.stop.set()
        await service.last_word(3)

    assert (service.bus.waiting, len({event.attempt for event in service.bus.last_words})) == (0, 1)


async def test_a_worker_whose_measured_process_cannot_start_gives_the_request_back_and_ends() -> None:
    service = Service(Limits())
    service.engine.cannot_start = CannotStart("no torch")
    for job_id in (JOB, uuid4()):
        service.bus.put(encode(requested(job_id=job_id), event_id=uuid4(), source="tests", time=NOON), REQUEST_KEY)

    with pytest.raises(CannotStart, match="no torch"):
        await service.worker.serve(service.stop)

    assert (service.bus.last_words, service.bus.starts, service.engine.killed) == ([], [], 0)
    assert [attempt for _, attempt in service.bus.queues[QUEUE].waiting] == [2, 1]


async def test_a_stop_takes_nothing_more() -> None:
    async with serving() as service:
        service.stop.set()
        await service.bus.publish(requested(spec=a_spec()))

    assert (service.bus.starts, service.bus.waiting) == ([], 1)


async def test_a_worker_reports_what_it_is_doing_and_that_it_stops() -> None:
    async with serving() as service:
        service.engine.hold = 1
        await until(lambda: reports(service.bus))
        await service.bus.publish(requested())

        await until(lambda: reports(service.bus)[-1].state == "busy")
        busy = reports(service.bus)[-1]

    assert (busy.job_id, busy.run_id) == (JOB, service.bus.starts[0].run_id)
    states = [report.state for report in reports(service.bus)]
    assert (states[0], states[-1]) == ("idle", "stopping")


def reports(bus: Broker) -> list[WorkerReported]:
    return [event for event in bus.events if isinstance(event, WorkerReported)]


async def test_after_each_job_a_measured_process_is_there_for_the_next() -> None:
    async with serving() as service:
        await service.bus.publish(requested())
        await service.last_word()

        await until(lambda: service.engine.starts == 2)

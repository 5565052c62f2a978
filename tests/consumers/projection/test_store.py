import random
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.projection.fold import Folded
from consumers.projection.queries import Connection
from consumers.projection.store import Arrival, store
from events.bus import BrokerUnavailable
from events.bus.memory import MemoryBus
from events.messages import AnyEvent, BenchmarkCancelled, BenchmarkCancelRequested
from tests.builders import (
    JOB,
    NOON,
    REQUEST,
    RUN,
    a_dataset,
    a_model,
    cancel_requested,
    cancelled,
    completed,
    dataset_registered,
    failed,
    model_registered,
    of_a_run,
    progressed,
    reported,
    requested,
    sampled,
    started,
)
from tests.consumers.projection.arrivals import arrived, select_job, select_tables

SECOND_RUN = UUID("00000000-0000-4000-8000-00000000000b")

A_WHOLE_RUN: list[AnyEvent] = [
    requested(),
    started(seq=0),
    progressed(seq=1, tokens=1),
    sampled(seq=2),
    progressed(seq=3, tokens=5),
    completed(seq=4),
]


async def store_all(connection: Connection, bus: MemoryBus, *events: AnyEvent) -> None:
    await store(connection, [arrived(event) for event in events], bus)


async def test_a_whole_run_is_written_down(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, *A_WHOLE_RUN)

    run = await connection.fetchrow("SELECT outcome, tokens, device, samples_emitted FROM runs")
    assert (await select_job(connection))["status"] == "completed"
    assert run is not None
    assert tuple(run) == ("completed", 5, "cpu", 2)
    assert await connection.fetchval("SELECT count(*) FROM samples") == 2


async def test_positions_grow_by_one_in_the_order_of_the_batch(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, *A_WHOLE_RUN[:3])
    await store_all(connection, bus, *A_WHOLE_RUN[3:])

    rows = await connection.fetch("SELECT position, type FROM events ORDER BY position")
    assert [row["position"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["type"] for row in rows][-1] == "benchmark.completed.v1"


async def test_the_same_batch_twice_changes_nothing(connection: Connection, bus: MemoryBus) -> None:
    batch = [arrived(event) for event in A_WHOLE_RUN]
    await store(connection, batch, bus)
    before = await select_tables(connection)

    stored = await store(connection, [*batch, *batch], bus)

    assert stored == 0
    assert await select_tables(connection) == before


async def test_an_event_that_comes_twice_in_a_batch_keeps_its_first_place(
    connection: Connection, bus: MemoryBus
) -> None:
    done, overtaken = arrived(completed()), arrived(started(attempt=2, run_id=SECOND_RUN))

    await store(connection, [arrived(requested()), arrived(started()), done, overtaken, done], bus)

    rows = await connection.fetch("SELECT event_id FROM events ORDER BY position")
    assert [row["event_id"] for row in rows].index(done.envelope.id) == 2
    assert (await select_job(connection))["status"] == "completed"


async def test_listeners_hear_of_the_last_position(connection: Connection, bus: MemoryBus, database_url: str) -> None:
    heard = []
    listener = await asyncpg.connect(database_url)
    await listener.add_listener("llmbench_log", lambda *notification: heard.append(notification[3]))

    await store_all(connection, bus, *A_WHOLE_RUN)

    await listener.fetchval("SELECT 1")
    await listener.close()
    assert heard == ["6"]


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(1, len(A_WHOLE_RUN))), repeats=st.lists(st.integers(0, 5), max_size=4))
def test_a_run_may_arrive_in_any_order_and_more_than_once(order: list[int], repeats: list[int]) -> None:
    arrivals = [arrived(event) for event in A_WHOLE_RUN]
    expected = fold_all(arrivals)

    shuffled = fold_all([arrivals[0], *(arrivals[place] for place in order), *(arrivals[place] for place in repeats)])

    assert shuffled == expected


def fold_all(arrivals: list[Arrival]) -> tuple[object, ...]:
    folded = Folded(jobs={})
    seen = set()
    for arrival in arrivals:
        if arrival.envelope.id not in seen:
            seen.add(arrival.envelope.id)
            folded.fold(arrival.event, arrival.envelope.id, NOON, 1)  # type: ignore[arg-type] # all are of a job
    return folded.jobs, folded.runs, sorted((run_id, sample.offset_ms) for run_id, sample in folded.samples)


async def test_single_events_in_any_order_give_the_same_tables(
    connection: Connection, bus: MemoryBus, database_url: str
) -> None:
    arrivals = [arrived(event) for event in A_WHOLE_RUN]
    await store(connection, arrivals, bus)
    expected = await select_tables(connection)

    await connection.execute("TRUNCATE events, jobs, runs, samples")
    for arrival in random.Random(7).sample(arrivals, len(arrivals)):
        await store(connection, [arrival], bus)

    assert await select_tables(connection) == expected


async def test_a_second_attempt_speaks_for_the_job_and_the_first_is_superseded(
    connection: Connection, bus: MemoryBus
) -> None:
    second = of_a_run(attempt=2, run_id=SECOND_RUN)
    await store_all(connection, bus, requested(), started(), started(**second))

    await store_all(connection, bus, progressed(tokens=9), completed())

    assert await select_job(connection) == {
        "status": "running",
        "attempt": 2,
        "run_id": SECOND_RUN,
        "outcome_event_id": None,
    }
    superseded = await connection.fetch("SELECT type FROM events WHERE superseded ORDER BY position")
    assert [row["type"] for row in superseded] == ["benchmark.progressed.v1", "benchmark.completed.v1"]


async def test_of_two_runs_of_one_attempt_the_later_started_speaks(connection: Connection, bus: MemoryBus) -> None:
    later = of_a_run(run_id=SECOND_RUN)
    await store_all(connection, bus, requested(), started())

    await store_all(connection, bus, started(**later, started_at=NOON + timedelta(seconds=5)), progressed(tokens=1))

    assert (await select_job(connection))["run_id"] == SECOND_RUN


async def test_the_first_terminal_event_is_final(connection: Connection, bus: MemoryBus) -> None:
    accepted = arrived(completed())
    await store(connection, [arrived(requested()), arrived(started()), accepted], bus)

    await store_all(connection, bus, failed(attempt=2, run_id=SECOND_RUN), cancelled(attempt=3))

    assert await select_job(connection) == {
        "status": "completed",
        "attempt": 1,
        "run_id": RUN,
        "outcome_event_id": accepted.envelope.id,
    }


async def test_the_database_itself_keeps_an_outcome(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, *A_WHOLE_RUN)

    with pytest.raises(asyncpg.RaiseError, match="its outcome is final"):
        await connection.execute("UPDATE jobs SET outcome = 'failed'")


async def test_a_second_request_for_a_job_is_superseded_with_its_runs(connection: Connection, bus: MemoryBus) -> None:
    other = uuid4()
    await store_all(connection, bus, requested())

    await store(connection, [arrived(requested(body_hash="other"), event_id=other)], bus)
    await store_all(connection, bus, started(request_id=other), completed(request_id=other, seq=1))

    row = await connection.fetchrow("SELECT status, request_id, body_hash FROM jobs")
    assert row is not None
    assert tuple(row) == ("queued", REQUEST, "ab" * 32)


async def test_a_terminal_event_without_a_request_still_makes_a_job(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, failed(code="undecodable_request", seq=0))

    assert (await select_job(connection))["status"] == "failed"


async def test_a_queued_job_that_is_to_be_cancelled_is_cancelled_here(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, requested())

    await store_all(connection, bus, cancel_requested())

    [(event_id, said)] = bus.published
    assert isinstance(said, BenchmarkCancelled)
    assert (await select_job(connection))["status"] == "cancelling"
    await store(connection, [arrived(said, event_id)], bus)
    assert (await select_job(connection))["status"] == "cancelled"


async def test_a_cancel_that_names_a_run_and_no_request_is_taken_as_one_without_a_run(
    connection: Connection, bus: MemoryBus
) -> None:
    await store_all(connection, bus, requested(), cancelled(run_id=RUN))

    assert (await select_job(connection))["status"] == "cancelled"


async def test_a_running_job_is_left_to_its_worker(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, requested(), started())

    await store_all(connection, bus, cancel_requested())

    assert bus.events == []
    assert (await select_job(connection))["status"] == "cancelling"


async def test_a_worker_that_starts_a_cancelled_job_is_told_again(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, requested(), cancelled())

    await store_all(connection, bus, started())

    assert [type(event) for event in bus.events] == [BenchmarkCancelRequested]
    assert (await select_job(connection))["status"] == "cancelled"


async def test_a_late_start_of_the_run_that_completed_tells_nobody_to_stop(
    connection: Connection, bus: MemoryBus
) -> None:
    await store_all(connection, bus, requested(), completed())

    await store_all(connection, bus, started())

    assert bus.events == []


async def test_nothing_is_stored_when_what_follows_cannot_be_said(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, requested())
    bus.available = False

    with pytest.raises(BrokerUnavailable):
        await store_all(connection, bus, cancel_requested())

    assert (await select_job(connection))["status"] == "queued"


async def test_the_first_definition_of_a_model_stands(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, model_registered(), model_registered(model=a_model(description="another")))

    assert "another" not in await connection.fetchval("SELECT definition::text FROM models")


async def test_a_dataset_is_stored_with_its_rows(connection: Connection, bus: MemoryBus) -> None:
    await store_all(connection, bus, dataset_registered())

    row = await connection.fetchrow("SELECT dataset_id, row_count FROM datasets")
    assert row is not None
    assert tuple(row) == (a_dataset().dataset_id, 2)


async def test_a_report_updates_its_worker_and_leaves_the_log_alone(connection: Connection, bus: MemoryBus) -> None:
    late = reported(state="busy", job_id=JOB, reported_at=NOON + timedelta(seconds=5))

    await store_all(connection, bus, late, reported())

    assert '"busy"' in await connection.fetchval("SELECT report::text FROM workers")
    assert await connection.fetchval("SELECT count(*) FROM events") == 0

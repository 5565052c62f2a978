"""The log as Server-Sent Events."""

import asyncio
import json
import random
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from msgspec import Struct

from app.routes import events
from app.state import queries
from app.state.queries import PageLimits
from app.web import stream
from events.messages import type_of
from tests.app import serving
from tests.app.serving import Api, kind, wrong_fields
from tests.app.stories import Run, a_completed_job
from tests.builders import model_registered, progressed, started
from tests.waiting import until

BENCHMARKS = "/api/v1/benchmarks"


class Told(Struct, frozen=True):
    id: int
    event: str
    data: dict[str, Any]


def events_of(job: dict[str, Any]) -> str:
    return f"{BENCHMARKS}/{job['job_id']}/events"


def parse(text: str) -> list[Told]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in text.split("\n\n")]
    return [Told(int(block["id"]), block["event"], json.loads(block["data"])) for block in blocks if "id" in block]


async def whole(api: Api, path: str, **headers: str) -> list[Told]:
    answer = await api.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


class Listener:
    """Collects what a stream tells while it goes on."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.text = ""
        self.ended = False

    @property
    def told(self) -> list[Told]:
        return parse(self.text[: self.text.rfind("\n\n")])

    async def listen(self) -> None:
        async for chunk in self.response.aiter_text():
            self.text += chunk
        self.ended = True


@asynccontextmanager
async def listening(api: Api, path: str, **headers: str) -> AsyncIterator[Listener]:
    async with api.client.stream("GET", path, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream"), await response.aread()
        listener = Listener(response)
        task = asyncio.create_task(listener.listen())
        try:
            yield listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_finished_job_tells_its_whole_history_and_ends(api: Api) -> None:
    job = await a_completed_job(api)

    told = await whole(api, events_of(job))

    assert [event.event for event in told] == [
        "benchmark.requested.v1",
        "benchmark.started.v1",
        "metric.sampled.v1",
        "benchmark.completed.v1",
    ]
    assert [event.id for event in told] == sorted(event.id for event in told)
    assert {event.data["job_id"] for event in told} == {job["job_id"]}
    assert told[-1].data["result"]["output"] == " blue sky"


async def test_a_stream_says_how_soon_to_come_back(api: Api) -> None:
    answer = await api.get(events_of(await a_completed_job(api)))

    assert answer.text.startswith("retry: 2000\n\n")
    assert answer.headers["cache-control"] == "no-cache"


async def test_a_stream_tells_what_happens_as_it_happens(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    async with listening(api, events_of(job)) as listener:
        await until(lambda: len(listener.told) == 1)

        await run.start()
        await until(lambda: len(listener.told) == 2)
        await run.progress()
        await until(lambda: len(listener.told) == 3)
        await run.complete()

        await until(lambda: listener.ended)
    assert listener.told == await whole(api, events_of(job))


async def test_many_at_once_hear_the_same(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    streams = [asyncio.create_task(whole(api, events_of(job))) for _ in range(20)]
    await run.start()
    for _ in range(30):
        await run.progress()
    await run.complete()

    told = await asyncio.gather(*streams)

    assert len(told[0]) == 33
    assert all(one == told[0] for one in told)


@pytest.mark.parametrize("received", [0, 1, 2, 3])
async def test_an_interrupted_stream_resumed_equals_a_whole_one(api: Api, received: int) -> None:
    job = await a_completed_job(api)
    history = await whole(api, events_of(job))
    last = str(history[received - 1].id if received else 0)

    by_header = await whole(api, events_of(job), **{"Last-Event-ID": last})
    by_query = await whole(api, f"{events_of(job)}?last_event_id={last}")

    assert history[:received] + by_header == history
    assert by_query == by_header


async def test_who_has_it_all_gets_nothing_more(api: Api) -> None:
    job = await a_completed_job(api)
    last = (await whole(api, events_of(job)))[-1].id

    answers = [await api.get(events_of(job), headers={"Last-Event-ID": str(last + more)}) for more in (0, 1)]

    assert [(answer.status_code, answer.content) for answer in answers] == [(204, b"")] * 2


@pytest.mark.parametrize("last", ["-1", "x", "1.5", str(2**63), "9" * 5000, "²"])
async def test_a_malformed_last_event_id_is_named(api: Api, last: str) -> None:
    job = await api.submit()

    header = await api.get(events_of(job), headers=[(b"Last-Event-ID", last.encode())])
    query = await api.get(events_of(job), params={"last_event_id": last})

    assert (kind(header), wrong_fields(header)) == ((422, "validation-error"), {"Last-Event-ID"})
    assert (kind(query), wrong_fields(query)) == ((422, "validation-error"), {"last_event_id"})


async def test_a_superseded_run_is_not_told(api: Api) -> None:
    job = await api.submit()
    first, second = Run(api, job), Run(api, job, attempt=2)
    await first.start()
    await second.start()
    await first.complete()
    await second.complete()

    told = await whole(api, events_of(job))

    assert [(event.event, event.data.get("attempt")) for event in told] == [
        ("benchmark.requested.v1", None),
        ("benchmark.started.v1", 1),
        ("benchmark.started.v1", 2),
        ("benchmark.completed.v1", 2),
    ]


async def test_a_long_history_is_told_in_pages_with_no_gap(api: Api) -> None:
    job = await api.submit()
    run = Run(api, job)
    await run.start()
    for _ in range(450):
        await api.bus.publish(progressed(**run.identity()))
    await run.complete()

    told = await whole(api, events_of(job))

    assert [event.data["seq"] for event in told[1:]] == list(range(452))


@pytest.mark.parametrize(("size", "most"), [(100_000, 2), (300_000, 1)])
async def test_a_page_of_large_events_has_few_of_them(api: Api, size: int, most: int) -> None:
    job = await api.submit()
    job_id, run = UUID(job["job_id"]), Run(api, job)
    await run.start()
    after = max(event.id for event in await received(api, events_of(job), 2))
    for _ in range(5):
        await run.progress(text=random_text(size))

    pages = [
        await queries.select_events_of_job(api.parts.database, job_id, after, events.PAGE),
        await queries.select_events_about_job(api.parts.database, job_id, after, events.PAGE, None),
        await queries.select_events(api.parts.database, after, events.PAGE, None),
    ]

    assert [len(page) for page in pages] == [most] * 3
    for path in (events_of(job), f"/api/v1/events?last_event_id={after}&job_id={job_id}"):
        assert (await received(api, path, 5))[-1].id == after + 5
    assert len(await received(api, f"/api/v1/events?last_event_id={after}", 5)) == 5


def random_text(size: int) -> str:
    """What no table can compress much."""
    return random.randbytes(size // 2).hex()


async def received(api: Api, path: str, count: int) -> list[Told]:
    async with listening(api, path) as listener:
        await until(lambda: len(listener.told) >= count)
    return listener.told


async def test_a_job_that_only_the_app_knows_can_be_followed_already(database_url: str) -> None:
    async with serving.api(database_url, projected=False) as api:
        job = await api.submit()
        async with listening(api, events_of(job)) as listener:
            assert listener.told == []

            async with serving.projecting(api.bus, database_url):
                await until(lambda: len(listener.told) == 1)


async def test_a_quiet_stream_shows_that_it_lives(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    job = await api.submit()

    async with listening(api, events_of(job)) as listener:
        await until(lambda: listener.text.count("\n:\n\n") > 2)


async def test_a_reader_that_goes_leaves_nothing_behind(api: Api) -> None:
    job = await api.submit()
    async with listening(api, events_of(job)) as listener:
        await until(lambda: listener.told)
        assert api.parts.log.watchers == 1

    await until(lambda: api.parts.log.watchers == 0)


async def test_a_reader_that_takes_nothing_is_cut_off_and_disturbs_nobody(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SLOWEST_WRITE_S", 0.2)
    job = await api.submit()
    run = Run(api, job)
    await run.start()
    with stalled_reader(api, events_of(job)) as reader:
        await until(lambda: api.parts.log.watchers == 1)

        for _ in range(40):
            await run.progress(text="x" * 200_000)

        await until(lambda: api.parts.log.watchers == 0)
        await run.complete()
        assert (await whole(api, events_of(job)))[-1].event == "benchmark.completed.v1"
        reader.close()


def stalled_reader(api: Api, path: str) -> socket.socket:
    """A client that asks and then reads nothing."""
    url = urlsplit(str(api.client.base_url))
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((url.hostname, url.port))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
    return reader


async def test_streams_end_when_the_app_stops(database_url: str) -> None:
    async with serving.api(database_url) as api:
        job = await api.submit()
        async with listening(api, events_of(job)) as one, listening(api, "/api/v1/events") as all_of_it:
            await until(lambda: one.told)

            api.server.should_exit = True

            await until(lambda: one.ended and all_of_it.ended, timeout=2)


async def test_a_stream_outlives_the_loss_of_the_listening_connection(database_url: str) -> None:
    async with serving.api(database_url) as api:
        job = await api.submit()
        run = Run(api, job)
        async with listening(api, events_of(job)) as listener:
            await until(lambda: listener.told)
            await serving.signal_sessions_of_the_app(database_url, signal.SIGTERM)
            await api.bus.publish(started(**run.identity()))

            await until(lambda: len(listener.told) == 2)
            await run.complete()
            await until(lambda: listener.ended)


async def test_everything_is_told_from_now_on(api: Api) -> None:
    await api.submit()
    async with listening(api, "/api/v1/events") as listener:
        await until(lambda: api.parts.log.watchers == 1)

        job = await api.submit()

        await until(lambda: listener.told)
    assert listener.told[0].data["job_id"] == job["job_id"]


async def test_everything_can_be_told_from_the_beginning_and_filtered(api: Api) -> None:
    job = await a_completed_job(api)
    wanted = {"last_event_id": 0, "job_id": job["job_id"], "type": ["benchmark.started.v1", "benchmark.completed.v1"]}
    path = str(httpx.URL("/api/v1/events", params=wanted))

    async with listening(api, path) as listener:
        await until(lambda: len(listener.told) == 2)

    assert [event.event for event in listener.told] == ["benchmark.started.v1", "benchmark.completed.v1"]


async def test_what_a_filter_leaves_out_is_not_read_again(api: Api) -> None:
    async with listening(api, f"/api/v1/events?type={type_of(model_registered())}") as listener:
        await until(lambda: api.parts.log.watchers == 1)
        await a_completed_job(api)

        await api.post("/api/v1/models", {"model_id": "told/at-last"})

        await until(lambda: listener.told)
    assert [event.event for event in listener.told] == ["model.registered.v1"]


async def test_a_page_looks_at_so_many_positions_and_no_more(api: Api) -> None:
    await a_completed_job(api)
    limits = PageLimits(events=200, stored_bytes=131_072, positions=3)

    [nothing] = await queries.select_events(api.parts.database, 0, limits, ["model.retired.v1"])

    assert (nothing["position"], nothing["reach"], nothing["head"] > 3) == (None, 3, True)


async def test_a_rare_event_is_found_behind_many_pages_of_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PAGE", PageLimits(events=200, stored_bytes=131_072, positions=3))
    for _ in range(3):
        await a_completed_job(api)
    await api.post("/api/v1/models", {"model_id": "rare/one"})

    async with listening(api, "/api/v1/events?last_event_id=0&type=model.registered.v1") as listener:
        await until(lambda: "rare/one" in listener.text)


async def test_an_unknown_type_of_event_is_named(api: Api) -> None:
    assert wrong_fields(await api.get("/api/v1/events?type=nonsense")) == {"type"}

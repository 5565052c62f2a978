"""The example is followed through whatever happens, and its result is shown as it is."""

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from rich.console import Console

from embedded import showcase
from embedded.showcase import Moment, StreamEvent, Watch, follow, parse, rows, show

STORY: list[tuple[str, str, dict[str, Any]]] = [
    ("1", "benchmark.requested.v1", {}),
    ("2", "benchmark.started.v1", {"attempt": 1}),
    ("3", "benchmark.progressed.v1", {"phase": "loading", "iteration": 0, "iterations": 1, "tokens": 0, "text": ""}),
    ("4", "benchmark.progressed.v1", {"phase": "measuring", "iteration": 1, "iterations": 1, "tokens": 2, "text": ""}),
    ("5", "metric.sampled.v1", {"samples": [{"cpu_percent": 48.0, "ram_bytes": 900_000_000}], "emitted": 1}),
    ("6", "benchmark.progressed.v1", {"phase": "measuring", "iteration": 1, "iterations": 1, "tokens": 12, "text": ""}),
    ("7", "benchmark.completed.v1", {}),
]

JOB: dict[str, Any] = {
    "job_id": "the-job",
    "status": "completed",
    "model": "gpt2",
    "device": "cpu",
    "duration": 1.234,
    "tokens_generated": 50.0,
    "output": "The sky\nis [blue].",
    "hardware_metrics": {"cpu_usage_percent": 48.1, "ram_usage_gb": 0.91, "gpu_usage_percent": None},
    "timings": {"ttft_ms": {"p50": 31.25}, "itl_ms": None},
    "throughput": {"decode_tps": {"mean": 41.0}, "e2e_tps": {"mean": 40.5}},
    "energy": {"gpu_joules": None},
    "weights": "random",
    "warnings": [{"code": "random_weights", "message": "The text means nothing."}],
    "reasons": {"timings.itl_ms": "one token alone", "energy": "no GPU"},
}


class Stream(httpx.AsyncByteStream):
    """What an app sends, until the connection breaks."""

    def __init__(self, text: str, broken: bool) -> None:
        self._text = text
        self._broken = broken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b": welcome\n\nretry: 1000\n\n"
        for character in self._text:  # cut anywhere
            yield character.encode()
        if self._broken:
            raise httpx.ReadError("the connection broke")


class FragileApp(httpx.AsyncBaseTransport):
    """Plays STORY in answers of `at_once` events, and breaks the connection after each."""

    def __init__(self, at_once: int = 100, outages: int = 0) -> None:
        self.at_once = at_once
        self.outages = outages
        self.asked: list[str | None] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, json={"job_id": "the-job"}, request=request)
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=JOB, request=request)
        if self.outages:
            self.outages -= 1
            return httpx.Response(503, request=request)
        after = request.headers.get("last-event-id")
        self.asked.append(after)
        left = STORY[int(after or 0) :]
        blocks = [f"id: {i}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for i, name, data in left[: self.at_once]]
        return httpx.Response(200, stream=Stream("".join(blocks), self.at_once < len(left)), request=request)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showcase, "RETRY_S", 0.0)


async def test_a_stream_that_breaks_is_followed_to_its_end_with_nothing_lost_or_twice() -> None:
    app = FragileApp(at_once=3, outages=2)
    async with httpx.AsyncClient(transport=app, base_url="http://app") as client:
        events = [event async for event in follow(client, "/events")]

    assert [event.id for event in events] == [i for i, _, _ in STORY]
    assert app.asked == [None, "3", "6"]


async def test_a_stream_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showcase, "PATIENCE_S", 0.1)
    async with httpx.AsyncClient(transport=FragileApp(at_once=0), base_url="http://app") as client:
        with pytest.raises(TimeoutError):
            assert [event async for event in follow(client, "/events")]


def test_an_event_may_have_many_lines_of_data_and_a_comment_is_none() -> None:
    assert parse(["id: 7", "event: said", 'data: {"a":', "data: 1}"]) == StreamEvent("said", {"a": 1}, "7")
    assert parse([": still here"]) is None
    assert parse(["retry: 1000"]) is None


def test_a_run_is_seen_moving() -> None:
    times = iter([0.0, 10.0, 12.0])
    watch = Watch(clock=lambda: next(times))

    moments = [watch.see(StreamEvent(name, data, i)) for i, name, data in STORY]

    assert [str(moment) for moment in moments] == [
        "queued",
        "loading",
        "loading",
        "measuring 1/1, 2 tokens",
        "measuring 1/1, 2 tokens, CPU 48 %, RAM 0.90 GB",
        "measuring 1/1, 12 tokens, 5.0 tokens/s, CPU 48 %, RAM 0.90 GB",
        "measuring 1/1, 12 tokens, 5.0 tokens/s, CPU 48 %, RAM 0.90 GB",
    ]


def test_a_second_attempt_starts_from_nothing() -> None:
    watch = Watch()
    for i, name, data in STORY[:6]:
        watch.see(StreamEvent(name, data, i))

    assert watch.see(StreamEvent("benchmark.started.v1", {"attempt": 2}, "9")) == Moment(phase="loading")


def test_the_result_says_why_a_figure_is_missing_and_never_0() -> None:
    shown = dict(rows(JOB))

    assert shown["time to first token"] == "31.2 ms"
    assert shown["inter-token latency, p95"] == "n/a (one token alone)"
    assert shown["GPU energy"] == "n/a (no GPU)"
    assert shown["GPU"] == "n/a"
    assert shown["weights"] == "random"
    assert shown["warning: random_weights"] == "The text means nothing."


@pytest.mark.parametrize("terminal", [True, False])
async def test_the_example_is_shown_with_and_without_a_terminal(terminal: bool) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, highlight=False)
    async with httpx.AsyncClient(transport=FragileApp(at_once=4), base_url="http://app") as client:
        await show(client, console)

    shown = output.getvalue()
    assert "measuring 1/1" in shown
    assert "The sky is [blue]." in shown
    assert "curl http://app/api/v1/benchmarks/the-job" in shown
    assert ("\x1b[" in shown) == terminal

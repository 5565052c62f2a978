"""The README's example: submitted, watched while it runs, and its result as a table."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

EXAMPLE: dict[str, Any] = {
    "model_id": "gpt2",
    "prompt": "Explain in one sentence why the sky is blue.",
    "task": "text-generation",
    "max_tokens": 50,
    "temperature": 0.7,
    "top_p": 0.9,
    "use_gpu": True,
}

TERMINAL = {"benchmark.completed.v1", "benchmark.failed.v1", "benchmark.cancelled.v1"}
RETRY_S = 0.5
PATIENCE_S = 120.0  # loading a large model for the first time says nothing for a while


class StreamEvent(Struct, frozen=True):
    """One event of a Server-Sent Events stream; `id` is where to go on after it."""

    name: str
    data: dict[str, Any]
    id: str


class Moment(Struct, frozen=True):
    """A run as it is seen right now; None where nothing was said yet."""

    phase: str = "queued"
    iteration: int = 0
    iterations: int = 0
    tokens: int = 0
    tokens_per_s: float | None = None
    cpu_percent: float | None = None
    ram_bytes: int | None = None

    def __str__(self) -> str:
        known = [
            f"{self.phase} {self.iteration}/{self.iterations}" if self.iteration else self.phase,
            f"{self.tokens} tokens" if self.iteration else "",
            f"{self.tokens_per_s:.1f} tokens/s" if self.tokens_per_s is not None else "",
            f"CPU {self.cpu_percent:.0f} %" if self.cpu_percent is not None else "",
            f"RAM {self.ram_bytes / 1e9:.2f} GB" if self.ram_bytes is not None else "",
        ]
        return ", ".join(filter(None, known))


class Watch:
    """Follows a run from event to event. Its rate is for the eye: the result holds the measured one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.moment = Moment()
        self._clock = clock
        self._first = (0.0, 0)

    def see(self, event: StreamEvent) -> Moment:
        match event.name:
            case "benchmark.started.v1":
                self.moment = Moment(phase="loading")
            case "benchmark.progressed.v1":
                self.moment = self._progress(event.data)
            case "metric.sampled.v1" if samples := event.data.get("samples"):
                last = samples[-1]
                self.moment = replace(self.moment, cpu_percent=last["cpu_percent"], ram_bytes=last["ram_bytes"])
        return self.moment

    def _progress(self, data: dict[str, Any]) -> Moment:
        moment = replace(self.moment, **{name: data[name] for name in ("phase", "iteration", "iterations", "tokens")})
        now = self._clock()
        if (moment.phase, moment.iteration) != (self.moment.phase, self.moment.iteration):
            self._first = (now, moment.tokens)
        elapsed, tokens = now - self._first[0], moment.tokens - self._first[1]
        return replace(moment, tokens_per_s=tokens / elapsed if tokens and elapsed > 0.1 else None)


async def show(client: httpx.AsyncClient, console: Console) -> None:
    """Never ends the service: what goes wrong here is said, and that is all."""
    try:
        job_id = await _submit(client)
        console.print(f"benchmark {job_id}: {EXAMPLE['model_id']}, {EXAMPLE['prompt']!r}", markup=False)
        await _watch(client, job_id, console)
        job = (await client.get(f"/api/v1/benchmarks/{job_id}")).raise_for_status().json()
    except (httpx.HTTPError, TimeoutError) as error:
        console.print(f"the example could not be shown: {str(error) or 'no answer in time'}", markup=False)
    else:
        _print_result(job, str(client.base_url).rstrip("/"), console)


async def _submit(client: httpx.AsyncClient) -> str:
    response = await client.post("/api/v1/benchmarks", json=EXAMPLE)
    if response.is_error:
        raise httpx.HTTPError(f"the app refused it with {response.status_code}: {response.text}")
    return str(response.json()["job_id"])


async def _watch(client: httpx.AsyncClient, job_id: str, console: Console) -> None:
    watch = Watch()
    with _display(console) as draw:
        async for event in follow(client, f"/api/v1/benchmarks/{job_id}/events"):
            draw(watch.see(event))


async def follow(client: httpx.AsyncClient, path: str) -> AsyncIterator[StreamEvent]:
    """Every event once, up to the terminal one, through broken connections; TimeoutError when none comes for long."""
    last, heard = "", time.monotonic()
    while time.monotonic() - heard < PATIENCE_S:
        try:
            async for event in _connect(client, path, last):
                yield event
                last, heard = event.id, time.monotonic()
                if event.name in TERMINAL:
                    return
        except httpx.HTTPStatusError as error:
            if not error.response.is_server_error:
                raise
        except httpx.TransportError:
            pass
        await asyncio.sleep(RETRY_S)
    raise TimeoutError


async def _connect(client: httpx.AsyncClient, path: str, last: str) -> AsyncIterator[StreamEvent]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    async with client.stream("GET", path, headers=headers) as response:
        response.raise_for_status()
        lines: list[str] = []
        async for line in response.aiter_lines():
            if line:
                lines.append(line)
                continue
            if event := parse(lines):
                yield event
            lines = []


def parse(lines: Iterable[str]) -> StreamEvent | None:
    """The event of a block of lines; None for a comment, a `retry`, or an event without data."""
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    if "data" not in fields:
        return None
    name, position = fields.get("event", ["message"])[-1], fields.get("id", [""])[-1]
    return StreamEvent(name, json.loads("\n".join(fields["data"])), position)


@contextmanager
def _display(console: Console) -> Iterator[Callable[[Moment], None]]:
    """A live bar where somebody looks, else a line whenever something has changed."""
    if not console.is_terminal:
        yield _line_writer(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("queued", total=EXAMPLE["max_tokens"], figures="")

        def draw(moment: Moment) -> None:
            name, _, figures = str(moment).partition(", ")
            progress.update(task, description=name, completed=moment.tokens, figures=figures)

        yield draw


def _line_writer(console: Console) -> Callable[[Moment], None]:
    said = Moment()

    def write(moment: Moment) -> None:
        nonlocal said
        if (moment.phase, moment.iteration, moment.tokens) != (said.phase, said.iteration, said.tokens):
            said = moment
            console.print(f"  {moment}", markup=False)

    return write


def _print_result(job: dict[str, Any], url: str, console: Console) -> None:
    if job["status"] != "completed":
        error = job.get("error") or {}
        console.print(f"the example ended as {job['status']}: {error.get('message', 'no reason given')}", markup=False)
    else:
        console.print(result_table(job))
    console.print(f"curl {url}/api/v1/benchmarks/{job['job_id']}\nthe API is described at {url}/docs", markup=False)


def result_table(job: dict[str, Any]) -> Table:
    table = Table("what", "value", title=f"{job['model']} on {job['device']}", title_justify="left", show_header=False)
    for name, value in rows(job):
        table.add_row(name, escape(value))
    return table


def rows(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of what people ask for first."""
    figure = _figures(job)
    yield "time to first token", figure("timings.ttft_ms.p50", "{:.1f} ms")
    yield "inter-token latency, p50", figure("timings.itl_ms.p50", "{:.1f} ms")
    yield "inter-token latency, p95", figure("timings.itl_ms.p95", "{:.1f} ms")
    yield "tokens per second, decoding", figure("throughput.decode_tps.mean", "{:.1f}")
    yield "tokens per second, end to end", figure("throughput.e2e_tps.mean", "{:.1f}")
    yield "duration", figure("duration", "{:.2f} s")
    yield "tokens", figure("tokens_generated", "{:.0f}")
    yield "peak RAM", figure("hardware_metrics.ram_usage_gb", "{:.2f} GB")
    yield "CPU, of all cores", figure("hardware_metrics.cpu_usage_percent", "{:.1f} %")
    yield "GPU", figure("hardware_metrics.gpu_usage_percent", "{:.1f} %")
    yield "GPU memory", figure("hardware_metrics.vram_usage_gb", "{:.2f} GB")
    yield "GPU energy", figure("energy.gpu_joules", "{:.1f} J")
    yield "weights", figure("weights", "{}")
    yield "output", " ".join(str(job["output"]).split())
    for warning in job["warnings"]:
        yield f"warning: {warning['code']}", warning["message"]


def _figures(job: dict[str, Any]) -> Callable[[str, str], str]:
    """How a dotted path of the result is written; a null says why, where the result does."""
    reasons: dict[str, str] = job.get("reasons") or {}

    def figure(path: str, form: str) -> str:
        value: Any = job
        parts = path.split(".")
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return form.format(value)
        paths = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        reason = next((reasons[each] for each in paths if each in reasons), None)
        return f"n/a ({reason})" if reason else "n/a"

    return figure

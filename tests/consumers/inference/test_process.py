"""The worker as a process: how it starts, what it takes along when it ends, and its talk with a real broker."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from events.bus import Delivery, Settlement, Subscription
from events.bus.rabbit import RabbitBus, open_bus
from events.bus.topology import PROJECTION, pool_queue
from events.envelope import decode
from events.messages import (
    AnyEvent,
    AnyRunEvent,
    BenchmarkCompleted,
    BenchmarkProgressed,
    BenchmarkStarted,
    WorkerReported,
)
from tests.builders import a_spec, requested
from tests.waiting import until

NOWHERE = "amqp://guest:guest@127.0.0.1:9/"
LONG = a_spec(iterations=300, max_tokens=480, ignore_eos=True, timeout_s=300.0)


@asynccontextmanager
async def a_worker(environment: dict[str, str], **settings: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumers.inference", env={**environment, "LLM_BENCH_POOL": "cpu", **settings}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def measured_process(worker: Process) -> psutil.Process:
    children: list[psutil.Process] = await until(lambda: psutil.Process(worker.pid).children())
    return children[0]


async def gone(process: psutil.Process) -> None:
    await until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


async def hear(subscription: Subscription, kind: type[AnyEvent]) -> AnyEvent:
    """The next event of a kind; what comes before it is taken and forgotten."""
    async with asyncio.timeout(60):
        while True:
            delivery = await subscription.next()
            await delivery.settle(Settlement.ACK)
            _, event = decode(delivery.body)
            if isinstance(event, kind):
                return event


async def take_back(bus: RabbitBus) -> Delivery:
    """The request that a worker left, as the next worker would get it."""
    async with bus.subscribe(pool_queue("cpu"), prefetch=1) as requests, asyncio.timeout(30):
        delivery = await requests.next()
        await delivery.settle(Settlement.ACK)
        return delivery


@pytest.fixture
async def bus(broker_url: str) -> AsyncIterator[RabbitBus]:
    async with open_bus(broker_url, "tests") as bus:
        await bus.until_connected()
        yield bus


@pytest.fixture
async def log(bus: RabbitBus) -> AsyncIterator[Subscription]:
    async with bus.subscribe(PROJECTION, prefetch=100) as subscription:
        yield subscription


async def test_a_killed_worker_takes_its_measured_process_along(measured_environment: dict[str, str]) -> None:
    async with a_worker(measured_environment, LLM_BENCH_AMQP_URL=NOWHERE) as worker:
        child = await measured_process(worker)

        worker.kill()

        await gone(child)


async def test_a_stopped_worker_ends_well_and_leaves_nothing_behind(measured_environment: dict[str, str]) -> None:
    async with a_worker(measured_environment, LLM_BENCH_AMQP_URL=NOWHERE) as worker:
        child = await measured_process(worker)
        rss = psutil.Process(worker.pid).memory_info().rss

        worker.terminate()

        assert (await worker.wait(), child.is_running(), rss < 120e6) == (0, False, True)


async def test_a_setting_that_cannot_be_meant_is_named(measured_environment: dict[str, str]) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "consumers.inference",
        env={**measured_environment, "LLM_BENCH_DRAIN_S": "soon"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await worker.communicate()

    assert (worker.returncode, b"LLM_BENCH_DRAIN_S" in said, b"Traceback" in said) == (2, True, False)


async def test_a_job_goes_through_a_real_broker(
    bus: RabbitBus, log: Subscription, broker_url: str, measured_environment: dict[str, str]
) -> None:
    async with a_worker(measured_environment, LLM_BENCH_AMQP_URL=broker_url) as worker:
        reported = await hear(log, WorkerReported)
        await bus.publish(requested(spec=a_spec(iterations=2)))

        started = await hear(log, BenchmarkStarted)
        completed = await hear(log, BenchmarkCompleted)
        worker.terminate()
        stopping = await hear(log, WorkerReported)
        while isinstance(stopping, WorkerReported) and stopping.state != "stopping":
            stopping = await hear(log, WorkerReported)

        assert isinstance(reported, WorkerReported)
        assert isinstance(started, BenchmarkStarted)
        assert isinstance(completed, BenchmarkCompleted)
        assert (started.worker_id, started.run_id) == (reported.worker_id, completed.run_id)
        assert (completed.weights, len(completed.iterations)) == ("random", 3)
        assert await worker.wait() == 0


@pytest.mark.parametrize(("with_signal", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
async def test_a_worker_that_ends_in_mid_run_leaves_the_job_to_another(
    bus: RabbitBus,
    log: Subscription,
    broker_url: str,
    measured_environment: dict[str, str],
    with_signal: signal.Signals,
    exit_code: int,
) -> None:
    async with a_worker(measured_environment, LLM_BENCH_AMQP_URL=broker_url, LLM_BENCH_DRAIN_S="0.1") as worker:
        await bus.publish(requested(spec=LONG))
        event = await hear(log, BenchmarkProgressed)
        while isinstance(event, BenchmarkProgressed) and event.phase != "measuring":
            event = await hear(log, BenchmarkProgressed)
        child = await measured_process(worker)

        worker.send_signal(with_signal)

        assert await worker.wait() == exit_code
        assert (await take_back(bus)).attempt == 2
        await gone(child)


async def test_a_worker_that_cannot_measure_ends_badly_and_leaves_the_job_to_another(
    bus: RabbitBus, broker_url: str, measured_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is broken')")
    broken = {**measured_environment, "PYTHONPATH": str(tmp_path)}
    async with a_worker(broken, LLM_BENCH_AMQP_URL=broker_url) as worker:
        await bus.publish(requested())

        assert await worker.wait() == 1
        assert (await take_back(bus)).attempt == 2


async def test_all_that_a_run_says_arrives_in_its_order(
    bus: RabbitBus, log: Subscription, broker_url: str, measured_environment: dict[str, str]
) -> None:
    async with a_worker(measured_environment, LLM_BENCH_AMQP_URL=broker_url):
        await bus.publish(requested(spec=a_spec(iterations=3, max_tokens=400)))

        said = [event async for event in _run_events(log)]

        assert [event.seq for event in said] == list(range(len(said)))


async def _run_events(log: Subscription) -> AsyncIterator[AnyRunEvent]:
    async with asyncio.timeout(60):
        while True:
            delivery = await log.next()
            await delivery.settle(Settlement.ACK)
            _, event = decode(delivery.body)
            if isinstance(event, AnyRunEvent):
                yield event
            if isinstance(event, BenchmarkCompleted):
                return

"""`python -m consumers.inference`: one inference worker. It needs the broker, and nothing else of the service."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping

from msgspec import Struct

from consumers.inference.engine import CannotStart, open_engine
from consumers.inference.hardware.environment import machine, version
from consumers.inference.hardware.gpus import Gpus, open_gpus
from consumers.inference.report import WorkerIdentity, now
from consumers.inference.run import Tools
from consumers.inference.worker import Limits, Worker
from events import logs
from events.benchmark import Pool
from events.bus.rabbit import open_bus
from events.settings import PREFIX, InvalidSetting, read_settings


class Settings(Struct, frozen=True, kw_only=True):
    """Without a `pool` it is `gpu` where there is one. The broker must let a message be held for `max_timeout_s`."""

    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    pool: Pool | None = None
    drain_s: float = 30.0
    max_attempts: int = 5
    max_timeout_s: float = 1500.0
    log_level: logs.Level = "info"


def identify(pool: Pool, gpus: Gpus) -> WorkerIdentity:
    host, pid = socket.gethostname(), os.getpid()
    return WorkerIdentity(
        worker_id=f"{host}-{pid}-{secrets.token_hex(3)}",
        host=host,
        pid=pid,
        pool=pool,
        hardware=machine(gpus.devices),
        version=version(),
        started_at=now(),
    )


def measured_environment(environment: Mapping[str, str], pool: Pool) -> dict[str, str]:
    """What the measured process sees: nothing of ours, for it needs no broker, and no GPU in the cpu pool."""
    kept = {name: value for name, value in environment.items() if not name.startswith(PREFIX)}
    return kept | ({"CUDA_VISIBLE_DEVICES": ""} if pool == "cpu" else {})


async def run(settings: Settings, environment: Mapping[str, str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with open_gpus() as gpus:
        pool = settings.pool or ("gpu" if gpus.devices else "cpu")
        identity = identify(pool, gpus)
        limits = Limits(max_attempts=settings.max_attempts, drain_s=settings.drain_s)
        async with (
            open_bus(settings.amqp_url, f"worker/{identity.worker_id}") as bus,
            open_engine(measured_environment(environment, pool)) as engine,
        ):
            tools = Tools(worker=identity, engine=engine, gpus=gpus, longest_timeout_s=settings.max_timeout_s)
            await Worker(bus, tools, limits).serve(stop)


def main() -> int:
    try:
        settings = read_settings(Settings, os.environ)
        logs.configure(settings.log_level)
        asyncio.run(run(settings, os.environ))
    except InvalidSetting as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except CannotStart:  # logged where it was decided
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

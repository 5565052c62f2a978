"""The service as its operator runs it: each part a process of its own, to be killed and started again."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from embedded.ports import free_ports
from tests.waiting import until

ROOT = Path(__file__).parents[2]
ENDED = ("completed", "failed", "cancelled")

Json = dict[str, Any]


class Part:
    """One process of the service: `python -m <module>`."""

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        self.module = module
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=os.environ | environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def child(self) -> psutil.Process | None:
        """The measured process of a worker."""
        children = psutil.Process(self.pid).children(recursive=True)
        return next((child for child in children if "consumers.inference.child" in " ".join(child.cmdline())), None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 60)


class Service:
    """Starts its parts on one broker and one database, and talks to it as its clients do."""

    def __init__(self, broker_url: str, database_url: str, folder: Path) -> None:
        [self.port] = free_ports([None])
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.parts: list[Part] = []
        self.environment = {
            "LLM_BENCH_AMQP_URL": broker_url,
            "LLM_BENCH_DATABASE_URL": database_url,
            "LLM_BENCH_PORT": str(self.port),
            "LLM_BENCH_POOL": "cpu",
            "HF_HUB_OFFLINE": "1",
        }
        self.client = httpx.AsyncClient(base_url=f"{self.url}/api/v1", timeout=30)

    def start(self, module: str, **environment: str) -> Part:
        log = self.folder / f"{module}-{len(self.parts)}.log"
        part = Part(module, self.environment | environment, log)
        self.parts.append(part)
        return part

    def start_app(self) -> Part:
        return self.start("app")

    def start_projection(self) -> Part:
        return self.start("consumers.projection")

    def start_worker(self, **environment: str) -> Part:
        return self.start("consumers.inference", **environment)

    async def until_healthy(self) -> None:
        async def healthy() -> bool:
            try:
                response = await self.client.get("/health")
            except httpx.TransportError:
                return False
            return response.status_code == 200

        async def knows_models() -> bool:
            return bool((await self.client.get("/models")).json().get("items"))

        await until(healthy, timeout=60, interval=0.1)
        await until(knows_models, timeout=60, interval=0.1)

    async def until_workers(self, count: int) -> None:
        async def alive() -> bool:
            workers = (await self.client.get("/workers")).json()["items"]
            return len([worker for worker in workers if worker["alive"]]) >= count

        await until(alive, timeout=60, interval=0.1)

    async def submit(self, **changes: Any) -> str:
        response = await self.client.post("/benchmarks", json=a_body(**changes))
        assert response.status_code == 202, response.text
        return str(response.json()["job_id"])

    async def job(self, job_id: str) -> Json:
        response = await self.client.get(f"/benchmarks/{job_id}")
        assert response.status_code == 200, response.text
        found: Json = response.json()
        return found

    async def until_status(self, job_id: str, *statuses: str, timeout: float = 90) -> Json:
        async def reached() -> Json | None:
            try:
                job = await self.job(job_id)
            except (httpx.TransportError, AssertionError):
                return None
            return job if job["status"] in statuses else None

        found: Json = await until(reached, timeout=timeout, interval=0.05)
        return found

    async def until_measuring(self, job_id: str) -> Json:
        async def measuring() -> Json | None:
            job = await self.job(job_id)
            assert job["status"] not in ENDED, job["error"] or job["status"]
            return job if (job["progress"] or {}).get("phase") == "measuring" else None

        found: Json = await until(measuring, timeout=90, interval=0.05)
        return found

    async def result(self, job_id: str, timeout: float = 120) -> Json:
        return await self.until_status(job_id, *ENDED, timeout=timeout)

    async def events(self, job_id: str, last_event_id: str | None = None) -> AsyncIterator[Json]:
        """The stream of a job, to its end: each event with its `id`, `event` and decoded `data`."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        async with self.client.stream("GET", f"/benchmarks/{job_id}/events", headers=headers, timeout=60) as response:
            if response.status_code == 204:
                return
            assert response.status_code == 200, await response.aread()
            event: Json = {}
            async for line in response.aiter_lines():
                if not line and "data" in event:
                    yield event | {"data": json.loads(event["data"])}
                    event = {}
                elif line and not line.startswith((":", "retry:")):
                    field, _, value = line.partition(": ")
                    event[field] = value

    async def close(self) -> None:
        await self.client.aclose()
        for part in self.parts:
            if part.process.poll() is None:
                part.kill()

    def logs(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in sorted(self.folder.glob("*.log")))


def a_body(**changes: Any) -> Json:
    """A benchmark of the tiny model that takes a second; `iterations` makes it as long as a test needs."""
    body = {
        "model_id": "builtin/tiny",
        "prompt": "Why is the sky blue?",
        "max_tokens": 20,
        "warmup_iterations": 0,
        "ignore_eos": True,
        "use_gpu": False,
    }
    return body | changes


@asynccontextmanager
async def a_service(broker_url: str, database_url: str, folder: Path) -> AsyncIterator[Service]:
    """Nothing runs yet; whatever the test starts is ended with it."""
    service = Service(broker_url, database_url, folder)
    try:
        yield service
    except BaseException:
        print(service.logs())
        raise
    finally:
        await service.close()

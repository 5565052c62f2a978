"""Tokens a second measured through the whole service, against the same generation alone, in alternating runs."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.journey.service import Json, Service
from tests.performance.bare_generation import NEW_TOKENS

ITERATIONS = 2


class Bare:
    """A process that generates when told to, and otherwise waits."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def tokens_per_second(self, prompt_tokens: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{ITERATIONS} {prompt_tokens}\n")
        self._process.stdin.flush()
        return float(await asyncio.to_thread(self._process.stdout.readline))


@contextmanager
def bare_generation() -> Iterator[Bare]:
    command = [sys.executable, "-m", "tests.performance.bare_generation"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Bare(process)


async def result_of_a_job(service: Service) -> Json:
    job_id = await service.submit(
        model_id="gpt2",
        prompt="Explain in one sentence why the sky is blue, for somebody who has never seen it.",
        max_tokens=NEW_TOKENS,
        warmup_iterations=0,
        iterations=ITERATIONS,
    )
    async for _ in service.events(job_id):
        pass  # to ask again and again whether it is over would cost the cores that are measured
    result = await service.job(job_id)
    assert result["status"] == "completed", result["error"]
    return result


async def measure(service: Service, pairs: int) -> list[tuple[float, float]]:
    """Alternating pairs after one that warms both up."""
    measured = []
    with bare_generation() as bare:
        prompt_tokens = (await result_of_a_job(service))["prompt_tokens"]
        await bare.tokens_per_second(prompt_tokens)
        for _ in range(pairs):
            result = await result_of_a_job(service)
            alone = await bare.tokens_per_second(prompt_tokens)
            measured.append((float(result["throughput"]["e2e_tps"]["mean"]), alone))
    return measured

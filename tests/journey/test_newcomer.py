"""The way of a newcomer: one command, the README's example, every route; then Ctrl-C, and the same data again."""

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from embedded.ports import free_ports
from embedded.postgres import data_folder
from embedded.showcase import EXAMPLE
from tests.journey.service import ROOT
from tests.waiting import until

Json = dict[str, Any]

DATA = "data with a space"
PUBLIC_CONTRACT = ["job_id", "model", "task", "duration", "tokens_generated", "output", "hardware_metrics"]
FIRST_METRICS = ["cpu_usage_percent", "ram_usage_gb", "gpu_usage_percent", "vram_usage_gb"]
REST_OF_THE_RESULT = {
    "status",
    "finish_reason",
    "attempt",
    "device",
    "weights",
    "created_at",
    "started_at",
    "finished_at",
    "timings",
    "throughput",
    "energy",
    "environment",
    "warnings",
    "error",
    "request",
    "links",
}


class Command:
    """`python -m embedded`, which is what `make run` runs."""

    def __init__(self, folder: Path, **environment: str) -> None:
        [port] = free_ports([None])
        folder.mkdir(exist_ok=True)
        self.data = folder / DATA
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"output-{port}"
        given = {"LLM_BENCH_DATA": str(self.data), "LLM_BENCH_PORT": str(port), "HF_HUB_OFFLINE": "1"} | environment
        unset = dict.fromkeys(("LLM_BENCH_DATABASE_URL", "LLM_BENCH_AMQP_URL"), "")
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "embedded"],
                cwd=ROOT,
                env=os.environ | unset | given,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    async def until_said(self, words: str, timeout: float = 240) -> None:
        def said() -> bool:
            assert self.process.poll() is None or words in self.output, self.output
            return words in self.output

        await until(said, timeout=timeout, interval=0.2)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    async def stop(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 120)


def lives(process: psutil.Process) -> bool:
    """A zombie has ended; that the machine's first process has not yet asked how is none of ours."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("newcomer")
    yield folder
    shutil.rmtree(data_folder(folder / DATA / "postgres"), ignore_errors=True)  # root's is not in our folder


@pytest.fixture(scope="module")
def command(folder: Path) -> Iterator[Command]:
    command = Command(folder)
    yield command
    if command.process.poll() is None:
        command.process.terminate()
        command.process.wait(120)


@pytest.fixture(scope="module")
async def client(command: Command) -> AsyncIterator[httpx.AsyncClient]:
    await command.until_said("serving at")
    async with httpx.AsyncClient(base_url=f"{command.url}/api/v1", timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
async def job(client: httpx.AsyncClient) -> Json:
    """The example that the command has run by itself."""
    [found] = (await client.get("/benchmarks")).json()["items"]
    result: Json = (await client.get(f"/benchmarks/{found['job_id']}")).json()
    return result


async def test_the_command_shows_the_example_and_its_result(command: Command, job: Json) -> None:
    for words in ("measuring", "time to first token", "tokens per second", "random_weights", job["job_id"]):
        assert words in command.output


async def test_the_processes_are_named_for_what_they_do(command: Command, client: httpx.AsyncClient) -> None:
    commands = [" ".join(process.cmdline()) for process in command.family()]

    for module in ("app", "consumers.inference", "consumers.projection"):
        assert any(line.endswith(f"-m {module}") for line in commands), commands


async def test_no_secret_stands_in_an_argument_list(command: Command, client: httpx.AsyncClient) -> None:
    environment = (command.data / "env").read_text()
    secrets = [url.split("@")[0].rsplit(":", 1)[1] for url in environment.split("'") if "://" in url]

    everything = " ".join(" ".join(process.cmdline()) for process in psutil.process_iter())

    assert len(secrets) == 2
    assert not [secret for secret in secrets if secret in everything]
    assert stat.S_IMODE((command.data / "env").stat().st_mode) == 0o600


async def test_the_example_has_the_shape_of_the_public_contract(job: Json) -> None:
    assert list(job)[:7] == PUBLIC_CONTRACT
    assert list(job["hardware_metrics"])[:4] == FIRST_METRICS
    assert set(job) >= REST_OF_THE_RESULT
    assert {name: job["request"][name] for name in EXAMPLE} == EXAMPLE


async def test_the_example_ran_without_network_and_gpu_and_says_so(job: Json) -> None:
    assert (job["status"], job["model"], job["task"]) == ("completed", "gpt2", "text-generation")
    assert (job["weights"], job["device"]) == ("random", "cpu")
    assert {"random_weights", "gpu_unavailable"} <= {warning["code"] for warning in job["warnings"]}
    assert 1 <= job["tokens_generated"] <= 50
    assert job["output"].strip()
    assert job["hardware_metrics"]["gpu_usage_percent"] is None
    assert "hardware_metrics.gpu_usage_percent" in job["reasons"]
    assert 0.3 < job["hardware_metrics"]["ram_usage_gb"] < 10
    assert 0 < job["hardware_metrics"]["cpu_usage_percent"] <= 100


async def test_every_figure_can_be_recomputed_from_the_records(client: httpx.AsyncClient, job: Json) -> None:
    items = (await client.get(f"/benchmarks/{job['job_id']}/iterations")).json()["items"]

    assert [item["phase"] for item in items] == ["warmup", "measuring"]
    record = items[1]
    offsets = record["token_offsets_ms"]
    assert len(offsets) == record["tokens_generated"] == job["tokens_generated"]
    assert job["timings"]["ttft_ms"]["mean"] == pytest.approx(offsets[0])
    assert job["timings"]["itl_ms"]["mean"] == pytest.approx((offsets[-1] - offsets[0]) / (len(offsets) - 1))
    assert job["duration"] == pytest.approx(record["e2e_ms"] / 1000)
    assert job["throughput"]["e2e_tps"]["mean"] == pytest.approx(len(offsets) / record["e2e_ms"] * 1000)


async def test_the_samples_are_counted_and_have_a_summary(client: httpx.AsyncClient, job: Json) -> None:
    metrics = (await client.get(f"/benchmarks/{job['job_id']}/metrics")).json()
    few = (await client.get(f"/benchmarks/{job['job_id']}/metrics", params={"max_points": 4})).json()

    assert metrics["emitted"] == metrics["stored"] == len(metrics["samples"]) > 5
    assert metrics["summary"]["ram_gb"]["max"] == pytest.approx(job["hardware_metrics"]["ram_usage_gb"], rel=0.2)
    assert 2 <= len(few["samples"]) < len(metrics["samples"])


async def test_the_list_filters_and_pages(client: httpx.AsyncClient, job: Json) -> None:
    for _ in range(2):
        await client.post("/benchmarks", json={"model_id": "builtin/tiny", "prompt": "Hi", "labels": {"team": "a"}})

    async def listed() -> bool:
        return len((await client.get("/benchmarks")).json()["items"]) == 3

    await until(listed)
    first = (await client.get("/benchmarks", params={"limit": 2})).json()
    rest = (await client.get("/benchmarks", params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert [item["job_id"] for item in rest["items"]] == [job["job_id"]]
    assert rest["next_cursor"] is None
    for filters, count in [
        ({"model_id": "gpt2"}, 1),
        ({"label": "team:a"}, 2),
        ({"task": "text-generation"}, 3),
        ({"status": "cancelled"}, 0),
        ({"created_before": job["created_at"]}, 0),
    ]:
        items = (await client.get("/benchmarks", params=filters)).json()["items"]
        assert len(items) == count, filters


async def test_the_catalogue_comes_with_models_and_takes_more(client: httpx.AsyncClient, command: Command) -> None:
    mine = {"model_id": "mine/nano", "architecture": {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 16}}

    answers = [await client.post("/models", json=mine), await client.post("/models", json=mine | {"description": "x"})]
    found = await client.get("/models/mine/nano")

    assert [answer.status_code for answer in answers] == [201, 409]
    assert found.json()["model_id"] == "mine/nano"
    assert {"gpt2", "distilgpt2", "builtin/tiny"} <= {
        item["model_id"] for item in (await client.get("/models")).json()["items"]
    }


async def test_a_dataset_comes_with_the_service_and_more_are_taken(client: httpx.AsyncClient, command: Command) -> None:
    rows = [{"prompt": "1 + 1 =", "reference": "2"}, {"prompt": "Hi"}]

    as_json = await client.post("/datasets", json={"dataset_id": "sums", "rows": rows})
    as_lines = await client.post(
        "/datasets",
        params={"dataset_id": "lines"},
        content="\n".join(map(json.dumps, rows)),
        headers={"Content-Type": "application/jsonl"},
    )

    assert (as_json.status_code, as_lines.status_code) == (201, 201)
    assert len((await client.get("/datasets/lines")).json()["rows"]) == 2
    assert (await client.get("/datasets/builtin/questions")).status_code == 200


async def test_the_fleet_is_one_worker(client: httpx.AsyncClient, command: Command) -> None:
    [worker] = (await client.get("/workers")).json()["items"]

    assert (worker["alive"], worker["pool"]) == (True, "cpu")


async def test_a_second_service_on_the_same_port_is_refused_at_once(
    client: httpx.AsyncClient, command: Command
) -> None:
    port = command.url.rsplit(":", 1)[1]
    second = Command(command.data.parent / "second", LLM_BENCH_PORT=port)

    assert await asyncio.to_thread(second.process.wait, 60) == 1
    assert f"LLM_BENCH_PORT is {port}" in second.output


async def test_stopped_it_leaves_nothing_and_started_again_it_knows_everything(
    client: httpx.AsyncClient, command: Command, job: Json, folder: Path
) -> None:
    family = command.family()

    assert await command.stop() == 0

    assert [process for process in family if lives(process)] == []
    again = Command(folder, LLM_BENCH_SHOWCASE="0")
    try:
        await again.until_said("serving at")
        async with httpx.AsyncClient(base_url=f"{again.url}/api/v1") as other:
            assert (await other.get(f"/benchmarks/{job['job_id']}")).json() == job
    finally:
        await again.stop()

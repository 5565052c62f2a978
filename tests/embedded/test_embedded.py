"""`python -m embedded`, as a user starts it, with stand-ins for the service's own processes."""

import asyncio
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from embedded.ports import free_ports
from embedded.processes import Record
from tests import servers
from tests.embedded.programs import lives
from tests.embedded.stand_ins import write_stand_ins
from tests.waiting import until


class Service:
    """One `python -m embedded`, seen as its user sees it."""

    def __init__(self, checkout: Path, **environment: str) -> None:
        self.checkout = checkout
        self.data = checkout / ".local"
        self.port = free_ports([None])[0]
        self.environment = environment
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        given = {name: value for name, value in os.environ.items() if not name.startswith("LLM_BENCH_")}
        own = {"LLM_BENCH_PORT": str(self.port), "LLM_BENCH_SHOWCASE": "0"}
        with (self.checkout / "terminal").open("wb") as terminal:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "embedded",
                cwd=self.checkout,
                env=given | own | self.environment,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return (self.checkout / "terminal").read_text()

    @property
    def story(self) -> list[str]:
        path = self.data / "story"
        return path.read_text().splitlines() if path.exists() else []

    def pids(self) -> dict[str, int]:
        return {entry.name: entry.identity.pid for entry in Record(self.data / "processes.json").read()}

    async def until_serving(self) -> None:
        await until(lambda: "serving at" in self.said or self.process.returncode is not None, timeout=60)
        assert self.process.returncode is None, self.said

    async def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """Under a private folder, with a space in its path."""
    home = tmp_path / "a home"
    home.mkdir(mode=0o700)
    folder = write_stand_ins(home / "check out")
    yield folder
    servers.remove(folder / ".local")


def json_port(path: Path, name: str) -> int:
    found = re.search(rf'"{name}":(\d+)', path.read_text())
    assert found
    return int(found[1])


@asynccontextmanager
async def started(service: Service) -> AsyncIterator[Service]:
    """Ended at the end, with whatever it may have left behind."""
    await service.start()
    try:
        yield service
    finally:
        left = service.pids()
        await service.stop()
        for pid in left.values():
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def given(broker_url: str, database_url: str) -> dict[str, str]:
    """The servers of all tests, so that most of these need none of their own."""
    return {"LLM_BENCH_AMQP_URL": broker_url, "LLM_BENCH_DATABASE_URL": database_url}


async def test_it_starts_with_servers_of_its_own_leaves_nothing_behind_and_starts_again_the_same(
    checkout: Path,
) -> None:
    async with started(Service(checkout)) as service:
        await service.until_serving()
        urls = (service.data / "env").read_text()
        processes = service.pids()
        below = {child.pid for pid in processes.values() for child in psutil.Process(pid).children(recursive=True)}
        ports = [json_port(service.data / "broker/access.json", name) for name in ("amqp", "epmd", "distribution")]

        assert list(processes) == ["epmd", "postgres", "rabbitmq", "projection", "worker", "app"]
        assert await service.stop() == 0

        assert not [pid for pid in {*processes.values(), *below} if lives(pid)]
        assert free_ports(ports) == ports
    assert re.findall(r"stopped (\w+)", service.said) == ["app", "worker", "projection", "rabbitmq", "postgres", "epmd"]
    assert service.said.endswith("everything is stopped\n")

    async with started(Service(checkout)) as service:
        await service.until_serving()
        assert (service.data / "env").read_text() == urls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_the_app_starts_last_and_everything_ends_in_the_opposite_order(
    checkout: Path, given: dict[str, str], number: int
) -> None:
    async with started(Service(checkout, **given)) as service:
        await service.until_serving()
        assert await service.stop(number) == 0

    begun = ["projection migrates", "projection starts", "worker starts", "app starts"]
    assert sorted(service.story[:4]) == sorted(begun)
    assert service.story[0] == begun[0]
    assert service.story[4:] == ["app ends", "worker ends", "projection ends"]


async def test_a_second_ctrl_c_cuts_short_what_the_first_waits_for(checkout: Path, given: dict[str, str]) -> None:
    worker = checkout / "consumers/inference/__main__.py"
    worker.write_text(worker.read_text().replace("lambda *_: sys.exit(0)", "signal.SIG_IGN"))
    async with started(Service(checkout, LLM_BENCH_DRAIN_S="1000", **given)) as service:
        await service.until_serving()
        left = service.pids()

        service.process.send_signal(signal.SIGINT)
        await until(lambda: "stopped app" in service.said)
        assert await service.stop(signal.SIGINT) == 0

        assert not [pid for pid in left.values() if lives(pid)]
        assert service.story[-2:] == ["app ends", "projection ends"]
        assert service.said.endswith("stopped app\nstopped worker\nstopped projection\neverything is stopped\n")


async def test_the_two_urls_win_and_no_server_is_started(checkout: Path, given: dict[str, str]) -> None:
    async with started(Service(checkout, **given)) as service:
        await service.until_serving()

        assert list(service.pids()) == ["projection", "worker", "app"]
        assert not (service.data / "broker").exists()


async def test_another_terminal_can_source_the_urls(checkout: Path, given: dict[str, str]) -> None:
    async with started(Service(checkout, **given)) as service:
        await service.until_serving()
        path = service.data / "env"
        shell = 'set -eu; . "$1"; printf "%s\\n" "$LLM_BENCH_AMQP_URL" "$LLM_BENCH_DATABASE_URL"'
        sourcing = await asyncio.create_subprocess_exec(
            "sh", "-c", shell, "sh", str(path), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await sourcing.communicate()

        assert output.decode().splitlines() == list(given.values())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_secrets_are_in_no_argument_list_and_a_worker_has_no_way_to_the_database(
    checkout: Path, given: dict[str, str]
) -> None:
    async with started(Service(checkout, **given)) as service:
        await service.until_serving()
        processes = {name: psutil.Process(pid) for name, pid in service.pids().items()}

        arguments = {name: process.cmdline()[1:] for name, process in processes.items()}
        assert arguments == {
            "projection": ["-m", "consumers.projection"],
            "worker": ["-m", "consumers.inference"],
            "app": ["-m", "app"],
        }
        assert {name for name, process in processes.items() if "LLM_BENCH_DATABASE_URL" in process.environ()} == {
            "projection",
            "app",
        }


async def test_a_process_that_is_killed_is_started_again(checkout: Path, given: dict[str, str]) -> None:
    async with started(Service(checkout, **given)) as service:
        await service.until_serving()
        first = service.pids()["app"]

        os.kill(first, signal.SIGKILL)

        await until(lambda: service.pids().get("app", first) != first)
        await until(lambda: service.story.count("app starts") == 2)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{service.port}/")).status_code == 200
        assert "app ended (SIGKILL); starting it again in 0.5 s" in service.said


async def test_what_a_killed_start_left_behind_is_ended_by_the_next(checkout: Path, given: dict[str, str]) -> None:
    async with started(Service(checkout, **given)) as first:
        await first.until_serving()
        left = first.pids()
        first.process.kill()
        await first.process.wait()
        assert all(lives(pid) for pid in left.values())

        second = Service(checkout, **given)
        second.port = first.port
        async with started(second):
            await second.until_serving()
            assert not [pid for pid in left.values() if lives(pid)]
            assert f"ending app (process {left['app']}), which an earlier start left behind" in second.said


async def test_a_second_start_on_the_same_data_is_told_what_to_do(checkout: Path, given: dict[str, str]) -> None:
    async with started(Service(checkout, **given)) as first:
        await first.until_serving()
        before = first.pids()
        terminal = first.said

        (checkout / "terminal").rename(checkout / "terminal of the first")
        second = Service(checkout, **given)
        await second.start()

        assert await second.process.wait() == 1
        assert "the service already runs on" in second.said
        assert "LLM_BENCH_DATA" in second.said
        assert first.pids() == before
        assert "serving at" in terminal


async def test_a_port_in_use_is_an_error_before_anything_is_started(checkout: Path) -> None:
    service = Service(checkout)
    with socket.create_server(("127.0.0.1", service.port)):
        await service.start()

        assert await service.process.wait() == 1
    assert f"LLM_BENCH_PORT is {service.port}, and another program uses that port" in service.said
    assert not (service.data / "logs").exists()
    assert not (service.data / "processes.json").exists()


@pytest.mark.parametrize(
    ("variable", "url", "place"),
    [
        ("LLM_BENCH_DATABASE_URL", "postgresql://me:secret@127.0.0.1:{port}/llmbench", "127.0.0.1:{port}"),
        ("LLM_BENCH_DATABASE_URL", "postgresql://me:secret@/llmbench?host=/nowhere", "/nowhere"),
        ("LLM_BENCH_AMQP_URL", "amqp://me:secret@127.0.0.1:{port}/", "127.0.0.1:{port}"),
        ("LLM_BENCH_AMQP_URL", "http://me:secret@127.0.0.1:{port}/", "127.0.0.1:{port}"),
        ("LLM_BENCH_AMQP_URL", "amqp://me:secret@127.0.0.1:port/", "an address that cannot be read"),
        ("LLM_BENCH_DATABASE_URL", "nonsense", "no host"),
    ],
)
async def test_a_url_that_does_not_answer_is_an_error_that_names_it_and_no_hang(
    checkout: Path, variable: str, url: str, place: str
) -> None:
    closed = free_ports([None])[0]
    service = Service(checkout, **{variable: url.format(port=closed)})
    await service.start()

    assert await asyncio.wait_for(service.process.wait(), 30) == 1
    assert service.said.startswith(f"{variable}: ")
    assert place.format(port=closed) in service.said
    assert f"correct {variable}, or unset it" in service.said
    assert "secret" not in service.said
    assert "Traceback" not in service.said


async def test_a_server_that_accepts_and_says_nothing_is_an_error_and_no_hang(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/llmbench"
        service = Service(checkout, LLM_BENCH_DATABASE_URL=url)
        await service.start()

        assert await asyncio.wait_for(service.process.wait(), 30) == 1
    assert "LLM_BENCH_DATABASE_URL: PostgreSQL at 127.0.0.1" in service.said


async def test_a_setting_that_cannot_be_meant_is_named(checkout: Path) -> None:
    service = Service(checkout, LLM_BENCH_WORKERS="many")
    await service.start()

    assert await service.process.wait() == 2
    assert service.said.startswith("LLM_BENCH_WORKERS is 'many'")


async def test_an_app_that_cannot_start_ends_it_with_the_reason(checkout: Path, given: dict[str, str]) -> None:
    (checkout / "app/__main__.py").write_text("raise SystemExit('no module named litestar')")
    async with started(Service(checkout, **given)) as service:
        assert await asyncio.wait_for(service.process.wait(), 60) == 1

        assert "no module named litestar" in service.said
        assert service.pids() == {}


async def test_a_schema_that_cannot_be_made_ends_it_with_the_reason(checkout: Path, given: dict[str, str]) -> None:
    (checkout / "consumers/projection/__main__.py").write_text("raise SystemExit('the schema is from the future')")
    async with started(Service(checkout, **given)) as service:
        assert await asyncio.wait_for(service.process.wait(), 60) == 1

        assert "the schema is from the future" in service.said

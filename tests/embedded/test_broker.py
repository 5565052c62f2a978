"""The private broker, as it really runs."""

import os
import stat
import subprocess
from pathlib import Path

import aio_pika
import psutil
import pytest
from aio_pika.exceptions import AMQPError, ProbableAuthenticationError

from embedded.packages import find_rabbitmq
from embedded.processes import Record
from tests.embedded.programs import as_nobody
from tests.servers import RunningBroker, fresh_name
from tests.waiting import until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user; modes are checked anyway")


@pytest.fixture
def home(broker: RunningBroker) -> Path:
    folder = broker.process.program.folder
    assert folder
    return folder


@pytest.fixture
async def erl_call() -> Path:
    return (await find_rabbitmq(say=print)).erlang / "erl_call"


async def test_each_test_has_a_virtual_host_of_its_own(broker: RunningBroker, broker_url: str) -> None:
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("only-here", durable=True)

    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        with pytest.raises(AMQPError, match="no queue 'only-here'"):
            await channel.declare_queue("only-here", passive=True)


def knows_on_disk(home: Path, queue: str) -> bool:
    return any(queue.encode() in log.read_bytes() for log in home.glob("data/*/*.LOG"))


async def test_a_killed_broker_comes_back_under_the_same_url_with_what_it_confirmed(
    broker: RunningBroker, home: Path
) -> None:
    name = fresh_name()  # in the first virtual host: a queue in one that was just made may not survive, on 3.10
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(name, durable=True)
        await until(lambda: knows_on_disk(home, name))
        message = aio_pika.Message(b"hello", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, name, timeout=10)

        await broker.kill()

    await broker.start()
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, passive=True)
        kept = await queue.get(no_ack=True)
        await queue.delete()
    assert kept.body == b"hello"


async def test_nobody_logs_in_with_the_password_that_everybody_knows(broker: RunningBroker) -> None:
    everybody_knows = f"amqp://guest:guest@127.0.0.1:{broker.url.rpartition(':')[2]}"

    with pytest.raises(ProbableAuthenticationError):
        await aio_pika.connect(everybody_knows)


def listening(pid: int) -> list[str]:
    return [each.laddr.ip for each in psutil.Process(pid).net_connections() if each.status == "LISTEN"]


def test_nobody_outside_this_machine_reaches_it(broker: RunningBroker, servers_folder: Path) -> None:
    pids = {entry.name: entry.identity.pid for entry in Record(servers_folder / "broker.json").read()}

    assert listening(broker.process.pid) == ["127.0.0.1", "127.0.0.1"]  # AMQP, and Erlang's distribution
    assert sorted(listening(pids["epmd"])) in (["127.0.0.1"], ["127.0.0.1", "::1"])


def test_its_folder_and_its_secrets_are_for_us_alone(home: Path) -> None:
    secrets = [home / "home/.erlang.cookie", home / "rabbitmq.conf", home / "access.json", home / "rabbitmq.log"]

    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def test_no_secret_is_in_an_argument_list(broker: RunningBroker, home: Path) -> None:
    password, cookie = broker.url.split("@")[0].rpartition(":")[2], (home / "home/.erlang.cookie").read_text()
    arguments = " ".join(psutil.Process(broker.process.pid).cmdline())

    assert "+sbwt" in arguments or "-sbwt" in arguments
    assert password not in arguments
    assert cookie not in arguments


@as_root
def test_another_local_user_cannot_enter_its_folder(home: Path) -> None:
    with as_nobody(), pytest.raises(PermissionError):
        (home / "rabbitmq.conf").read_text()


def test_a_guessed_cookie_gives_no_command_over_the_node(broker: RunningBroker, erl_call: Path) -> None:
    environment = dict(broker.process.program.environment)
    call = [str(erl_call), "-sname", environment["RABBITMQ_NODENAME"], "-a", "erlang node"]

    assert subprocess.run(call, env=environment, capture_output=True, check=False).returncode == 0
    assert subprocess.run([*call, "-c", "guessed"], env=environment, capture_output=True, check=False).returncode != 0


async def test_a_broken_name_of_a_virtual_host_is_an_error_and_no_silence(broker: RunningBroker) -> None:
    with pytest.raises(RuntimeError, match="the broker refused"):
        await broker.delete_vhost("was never made")

"""A private RabbitMQ node: on ports of its own, for this user alone, on the same data every time."""

import asyncio
import hashlib
import json
import secrets
from contextlib import suppress
from pathlib import Path

import aio_pika
import msgspec
from aio_pika.exceptions import AMQPError

from embedded.packages import RabbitMQ
from embedded.ports import free_ports, why_not
from embedded.private import private_folder, write_private
from embedded.processes import Program

USER = "llmbench"
STARTS_WITHIN_S = 90.0

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
default_user = {user}
default_pass = {password}
loopback_users.{user} = true
# a benchmark is acknowledged when it is over: a week, in milliseconds
consumer_timeout = 604800000
disk_free_limit.absolute = 256MB
log.console = true
log.console.level = info
log.console.use_colors = off
log.file = false
"""


class Access(msgspec.Struct, frozen=True):
    """How to reach the node, kept with its data, so that its URL outlives it."""

    amqp: int
    epmd: int
    distribution: int
    password: str
    cookie: str


class Broker(msgspec.Struct, frozen=True):
    """The two programs that make a node. epmd is started first and ended last."""

    url: str
    port: int
    node: str
    epmd: Program
    server: Program
    rabbitmq: RabbitMQ

    async def answers(self) -> bool:
        """True when a client can log in."""
        if not why_not(self.port):  # the library would log every refused connection
            return False
        try:
            connection = await aio_pika.connect(self.url, timeout=5)
        except (AMQPError, OSError, TimeoutError):
            return False
        await connection.close()
        return True

    async def create_vhost(self, name: str) -> str:
        """A world of its own on the same node; returns its URL. Takes milliseconds."""
        everything = ", ".join(['<<".*">>'] * 3)
        await self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"{USER}">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, <<"{name}">>, {everything}, <<"{USER}">>).'
        )
        return self.url + name

    async def delete_vhost(self, name: str) -> None:
        await self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"{USER}">>).')

    async def evaluate(self, expression: str) -> None:
        """Erlang in the node itself: there is no management plugin, and rabbitmqctl takes seconds."""
        call = await asyncio.create_subprocess_exec(
            str(self.rabbitmq.erlang / "erl_call"), "-sname", self.node, "-e",
            env=self.server.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await call.communicate(f"{expression}\n".encode())
        if call.returncode or not said.startswith(b"{ok,"):
            raise RuntimeError(f"the broker refused {expression!r}: {said.decode(errors='replace')}")


def prepare_broker(folder: Path, rabbitmq: RabbitMQ, logs: Path) -> Broker:
    """Everything on disk that a node needs to start; what was there before stays as it was."""
    home = private_folder(private_folder(folder) / "home")
    access = _access(folder / "access.json")
    write_private(home / ".erlang.cookie", access.cookie)
    configuration = _CONFIGURATION.format(user=USER, amqp=access.amqp, password=access.password)
    write_private(folder / "rabbitmq.conf", configuration)
    write_private(folder / "enabled_plugins", "[].\n")
    node = f"llmbench-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}@localhost"
    environment = _environment(folder.resolve(), rabbitmq, access, node)
    return Broker(
        url=f"amqp://{USER}:{access.password}@127.0.0.1:{access.amqp}/",
        port=access.amqp,
        node=node,
        epmd=Program(
            name="epmd",
            command=(str(rabbitmq.erlang / "epmd"),),
            environment=environment,
            folder=folder,
            log=logs / "epmd.log",
        ),
        server=Program(
            name="rabbitmq",
            command=(str(rabbitmq.server),),
            environment=environment,
            folder=folder,
            log=logs / "rabbitmq.log",
            grace_s=30,
        ),
        rabbitmq=rabbitmq,
    )


def _environment(folder: Path, rabbitmq: RabbitMQ, access: Access, node: str) -> dict[str, str]:
    """Nothing of ours is passed on, and nothing of the system's own RabbitMQ is read."""
    environment = {
        "HOME": str(folder / "home"),
        "PATH": f"{rabbitmq.erlang}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(access.epmd),
        "ERL_CRASH_DUMP": str(folder / "erl_crash.dump"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_NODENAME": node,
        "RABBITMQ_DIST_PORT": str(access.distribution),
        # an idle broker neither spins nor ties itself to cores that a benchmark is measured on
        "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
        # the script becomes the node, instead of staying beside it to pass signals on
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    if rabbitmq.libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(map(str, rabbitmq.libraries))
    return environment


def _access(path: Path) -> Access:
    """The same as last time; ports that somebody took since are chosen anew."""
    known: dict[str, int | str] = {}
    with suppress(FileNotFoundError, json.JSONDecodeError):
        known = json.loads(path.read_text(encoding="utf-8"))
    amqp, epmd, distribution = free_ports([known.get("amqp"), known.get("epmd"), known.get("distribution")])
    access = Access(
        amqp=amqp,
        epmd=epmd,
        distribution=distribution,
        password=str(known.get("password") or secrets.token_hex(24)),
        cookie=str(known.get("cookie") or secrets.token_hex(24)),
    )
    write_private(path, msgspec.json.encode(access).decode())
    return access

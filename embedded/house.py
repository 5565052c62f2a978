"""What is started, in which order, and where it all is. It ends in the opposite order."""

from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from embedded import outside, programs
from embedded.broker import Broker, prepare_broker
from embedded.packages import find_rabbitmq
from embedded.postgres import Postgres, data_folder, prepared_postgres
from embedded.private import private_folder
from embedded.processes import Program, Record, Say, keep_previous, run
from embedded.programs import Urls
from embedded.settings import Settings
from embedded.supervisor import Supervised, supervised

SERVER_STARTS_WITHIN_S = 90.0
APP_STARTS_WITHIN_S = 60.0


class House:
    """Everything that runs for one data folder."""

    def __init__(self, settings: Settings, stack: AsyncExitStack, record: Record, say: Say) -> None:
        self.settings = settings
        self.stack = stack
        self.say = say
        self.folder = settings.folder
        self.logs = private_folder(self.folder / "logs")
        self._record = record

    async def keep(self, program: Program) -> Supervised:
        """Started now, started again whenever it dies, ended with the house."""
        keep_previous(program.log)
        return await self.stack.enter_async_context(supervised(program, self._record, self.say))


async def start_service(house: House) -> Urls:
    """Servers first, the app last: it is there when all that it needs is."""
    settings = house.settings
    urls = await _start_servers(house)
    await house.keep(programs.projection(settings, urls, house.logs))
    for worker in programs.workers(settings, urls, house.logs):
        await house.keep(worker)
    app = await house.keep(programs.app(settings, urls, house.logs))
    await app.until_ready(lambda: runs_benchmarks(settings), APP_STARTS_WITHIN_S)
    return urls


async def check_given(settings: Settings) -> None:
    """Raises NoAnswer for a server that the environment names and that cannot be used."""
    if settings.amqp_url:
        await outside.check_broker(settings.amqp_url)
    if settings.database_url:
        await outside.check_database(settings.database_url)


async def runs_benchmarks(settings: Settings) -> bool:
    """True when one is accepted, and the app knows a worker for it: before, it could only guess whose it is."""
    async with httpx.AsyncClient(base_url=f"{settings.url}/api/v1", trust_env=False, timeout=5) as client:
        try:
            if (await client.get("/health")).status_code != httpx.codes.OK:
                return False
            workers = (await client.get("/workers")).json().get("items", [])
        except httpx.TransportError:
            return False
    return settings.workers == 0 or any(worker["alive"] for worker in workers)


async def _start_servers(house: House) -> Urls:
    """The two URLs win where they are set. epmd is first, as it ends last; the schema is made while RabbitMQ boots."""
    settings = house.settings
    broker = None if settings.amqp_url else await _start_epmd(house)
    postgres = None if settings.database_url else await _start_postgres(house)
    node = await house.keep(broker.server) if broker else None
    urls = Urls(
        database=postgres.url if postgres else str(settings.database_url),
        broker=broker.url if broker else str(settings.amqp_url),
    )
    await run(*programs.migration(), environment=programs.environment(settings, urls))
    if node and broker:
        await node.until_ready(broker.answers, SERVER_STARTS_WITHIN_S)
        house.say(f"RabbitMQ answers on 127.0.0.1:{broker.port}, its data is in {house.folder / 'broker'}")
    return urls


async def _start_epmd(house: House) -> Broker:
    """Erlang's name server, which a node registers with: private as well."""
    broker = prepare_broker(house.folder / "broker", await find_rabbitmq(house.say), house.logs)
    await house.keep(broker.epmd)
    return broker


async def _start_postgres(house: House) -> Postgres:
    folder = house.folder / "postgres"
    postgres = await house.stack.enter_async_context(prepared_postgres(folder, house.logs, house.say))
    server = await house.keep(postgres.server)
    await server.until_ready(postgres.answers, SERVER_STARTS_WITHIN_S)
    house.say(f"PostgreSQL answers on a private socket, its data is in {_where(folder)}")
    return postgres


def _where(folder: Path) -> str:
    place = data_folder(folder)
    return str(place) if place == folder else f"{place}: it refuses root, so it runs as a user of its own"

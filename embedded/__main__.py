"""`python -m embedded`: the whole service on this machine, until Ctrl-C or SIGTERM."""

import asyncio
import errno
import logging
import os
import resource
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

import httpx
from rich.console import Console

from embedded.house import House, check_given, start_service
from embedded.outside import NoAnswer
from embedded.packages import NoBroker
from embedded.ports import why_not
from embedded.postgres import NoPostgres
from embedded.private import NotPrivate, try_lock, write_private
from embedded.processes import CommandFailed, DidNotStart, Record, Say, end_leftovers
from embedded.programs import Urls
from embedded.settings import Settings
from embedded.showcase import show
from events.settings import InvalidSetting, read_settings

FILES = 65_536


class CannotStart(Exception):
    """Something on this machine is in the way; says what, and what to do about it."""


EXPECTED = (CannotStart, CommandFailed, DidNotStart, NoAnswer, NoBroker, NoPostgres, NotPrivate)


def main() -> int:
    logging.getLogger("aiormq").addHandler(logging.NullHandler())  # what it has to say comes as an exception too
    try:
        settings = read_settings(Settings, os.environ)
        asyncio.run(until_stopped(settings))
    except InvalidSetting as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except EXPECTED as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


async def until_stopped(settings: Settings) -> None:
    """The first signal ends everything in order; each further one ends at once what is being waited for."""
    allow_many_connections()
    work = asyncio.create_task(serve(settings, Console(highlight=False, soft_wrap=True)))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup: stay
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


async def serve(settings: Settings, console: Console) -> None:
    say = speaker(console)
    with locked(settings):
        record = Record(settings.folder / "processes.json")
        await end_leftovers(record, say)
        check_port(settings)
        await check_given(settings)
        async with AsyncExitStack() as stack:
            stack.callback(say, "everything is stopped")
            with announced_stop(say):
                house = House(settings, stack, record, say)
                stack.enter_context(written_urls(house, await start_service(house)))
                say(f"ready: {settings.url}/docs; the logs are in {house.logs}")
                if settings.showcase:
                    async with httpx.AsyncClient(base_url=settings.url, trust_env=False, timeout=30) as client:
                        await show(client, console)
                say(f"serving at {settings.url} until Ctrl-C")
                await asyncio.Event().wait()


def allow_many_connections() -> None:
    """A broker and an app need more than the 1024 open files that a shell often allows, and inherit what we have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def speaker(console: Console) -> Say:
    """Lines for people. A terminal that is gone is no reason to leave processes behind."""

    def say(text: str) -> None:
        with suppress(OSError):
            console.print(text, markup=False)

    return say


@contextmanager
def announced_stop(say: Say) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        say("stopping: a benchmark that runs may take a while to end; Ctrl-C again cuts it short")
        raise


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """One service a data folder."""
    try:
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(settings.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise CannotStart(f"LLM_BENCH_DATA is {settings.data!r}, which cannot be used: {error}") from error
    with os.fdopen(descriptor, "w") as lock:
        if not try_lock(lock.fileno()):
            raise CannotStart(
                f"the service already runs on {settings.folder}: stop it, or start a second one "
                "with other folders and ports (LLM_BENCH_DATA, LLM_BENCH_PORT)"
            )
        yield


def check_port(settings: Settings) -> None:
    """Before anything slow is started."""
    if not (error := why_not(settings.port, settings.host)):
        return
    if error.errno == errno.EADDRINUSE:
        raise CannotStart(
            f"LLM_BENCH_PORT is {settings.port}, and another program uses that port of {settings.host}: "
            f"end it, or choose another one, for example LLM_BENCH_PORT={settings.port % 65535 + 1} make run"
        )
    raise CannotStart(f"nothing can listen on LLM_BENCH_HOST={settings.host}, LLM_BENCH_PORT={settings.port}: {error}")


@contextmanager
def written_urls(house: House, urls: Urls) -> Iterator[None]:
    """For `source` in another terminal, as long as they are good."""
    path = house.folder / "env"
    variables = {"LLM_BENCH_DATABASE_URL": urls.database, "LLM_BENCH_AMQP_URL": urls.broker}
    write_private(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    house.say(f"the URLs of both servers are in {path}, for this user alone")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

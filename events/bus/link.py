"""One connection to RabbitMQ that is always being kept.

Not aio-pika's robust connection: that one restores its consumers before anybody could declare what they read, and keeps
a closed channel to itself. Here a session is opened, served and given up as a whole, and the next one starts afresh.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, AMQPConnectionError
from yarl import URL

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
HEARTBEAT_S = 15
LONGEST_PAUSE_S = 5.0
INTERNAL_ERROR = 541

Session = Callable[[AbstractConnection], Awaitable[None]]


async def keep_connected(url: str, name: str, session: Session) -> None:
    """Connect, serve `session` until it returns or the link is lost, and again, with back-off; until cancelled."""
    pause = 0.1
    while True:
        try:
            with half_open_is_an_error():
                async with await _connect(url, name) as connection:
                    pause = 0.1
                    await session(connection)
            logger.info("broker session ended", extra={"link": name})
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            _report(error, url, name)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, keeps no secret
        pause = min(LONGEST_PAUSE_S, pause * 2)


@contextmanager
def half_open_is_an_error() -> Iterator[None]:
    """A link that went silent ends whatever waits on it with CancelledError. Here that is a ConnectionError instead.

    Unless the caller itself was cancelled: then it stays what it is.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the link went silent") from error


async def until_closed(connection: AbstractConnection, channel: AbstractChannel, ended: asyncio.Event) -> None:
    """Wait for whichever ends the session: the link, its channel, or `ended`."""
    waits = [
        asyncio.ensure_future(connection.closed()),
        asyncio.ensure_future(channel.closed()),
        asyncio.ensure_future(ended.wait()),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _connect(url: str, name: str) -> AbstractConnection:
    target = URL(url)
    if "heartbeat" not in target.query:
        target = target.update_query(heartbeat=str(HEARTBEAT_S))
    async with asyncio.timeout(CONNECT_TIMEOUT_S):  # its own timeout can swallow a cancellation on Python 3.11
        return await aio_pika.connect(target, timeout=None, client_properties={"connection_name": name})


def _report(error: BaseException, url: str, name: str) -> None:
    broker = f"{URL(url).host}:{URL(url).port}"
    if str(INTERNAL_ERROR) in str(error) or getattr(error, "code", None) == INTERNAL_ERROR:
        logger.error(
            "broker_queue_broken: the broker cannot read one of our queues; restart it, or delete the queue it names",
            extra={"link": name, "broker": broker, "error": str(error)},
        )
    elif isinstance(error, AMQPConnectionError | OSError | TimeoutError):
        logger.warning("broker is away", extra={"link": name, "broker": broker, "error": str(error) or repr(error)})
    else:
        logger.warning("broker link failed", extra={"link": name, "broker": broker, "error": repr(error)})

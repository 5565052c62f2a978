"""Servers that somebody else runs, named by a URL: do they answer, and what to do if not."""

from urllib.parse import parse_qs, urlsplit

import aio_pika
import asyncpg
from aio_pika.exceptions import AMQPError

PATIENCE_S = 5.0


class NoAnswer(Exception):
    """The server that a variable names cannot be used; says what to do."""


async def check_broker(url: str) -> None:
    try:
        connection = await aio_pika.connect(url, timeout=PATIENCE_S)
    except (AMQPError, OSError, TimeoutError, ValueError) as error:
        raise NoAnswer(_remedy("LLM_BENCH_AMQP_URL", "RabbitMQ", url, error)) from error
    await connection.close()


async def check_database(url: str) -> None:
    try:
        connection = await asyncpg.connect(url, timeout=PATIENCE_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise NoAnswer(_remedy("LLM_BENCH_DATABASE_URL", "PostgreSQL", url, error)) from error
    await connection.close()


def _remedy(variable: str, server: str, url: str, error: Exception) -> str:
    return (
        f"{variable}: {server} at {_place(url)} cannot be used: {str(error) or type(error).__name__}\n"
        f"Start that server, correct {variable}, or unset it: then a private {server} is started."
    )


def _place(url: str) -> str:
    """Host and port alone: the rest of the URL holds a password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or next(iter(parse_qs(parts.query).get("host", [])), "no host")
        return f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "an address that cannot be read"

"""A load of HTTP requests that costs little itself: fixed bytes over kept connections, status and length read back."""

import asyncio
import time
from collections.abc import Callable

CONNECTIONS = 32


async def requests_per_second(host: str, port: int, request: Callable[[], bytes], count: int, expected: bytes) -> float:
    """Send `count` requests over 32 connections. Raises if one is answered by another status than `expected`."""
    left = iter(range(count))

    async def send_all() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for _ in left:
            writer.write(request())
            await _read_response(reader, expected)
        writer.close()
        await writer.wait_closed()

    begun = time.perf_counter()
    await asyncio.gather(*(send_all() for _ in range(CONNECTIONS)))
    return count / (time.perf_counter() - begun)


async def _read_response(reader: asyncio.StreamReader, expected: bytes) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if head.split(b" ", 2)[1] != expected:
        raise RuntimeError(f"expected {expected!r}, got {head!r}")
    length = head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length))


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

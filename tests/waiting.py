"""Waiting for what must become true, without guessing how long it takes."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any


async def until(predicate: Callable[[], Any], timeout: float = 10.0, interval: float = 0.02) -> Any:
    """What `predicate` gives once that is truthy; fails with the last thing it gave when the time is over."""
    deadline = time.monotonic() + timeout
    while not (found := await _ask(predicate)):
        if time.monotonic() > deadline:
            raise AssertionError(f"{_name(predicate)} was still {found!r} after {timeout} s")
        await asyncio.sleep(interval)
    return found


async def _ask(predicate: Callable[[], Any]) -> Any:
    found = predicate()
    return await found if inspect.isawaitable(found) else found


def _name(predicate: Callable[[], object]) -> str:
    try:
        return inspect.getsource(predicate).strip()
    except (OSError, TypeError):
        return repr(predicate)

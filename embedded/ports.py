"""Ports of this machine: which are free, and why one is not."""

import random
import socket
from collections.abc import Iterable

# Below the ports that the kernel gives to outgoing connections: a client that keeps trying a closed port
# of that range on 127.0.0.1 ends up connected to itself, and the server cannot come back.
_PRIVATE_PORTS = range(20_000, 32_000)


def free_ports(wanted: Iterable[object]) -> list[int]:
    """One of 127.0.0.1 for each that is wanted, and that very one where it is free."""
    chosen: list[int] = []
    for port in wanted:
        candidates = [port] if isinstance(port, int) else []
        candidates += random.sample(_PRIVATE_PORTS, 200)
        chosen.append(next(each for each in candidates if each not in chosen and not why_not(each)))
    return chosen


def why_not(port: int, host: str = "127.0.0.1") -> OSError | None:
    """What a server would be told that tried to listen there; None where it could."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None

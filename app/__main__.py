"""`python -m app` serves until it is stopped."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from litestar import Litestar

from app.application import Settings, create_app, end_streams
from app.state.database import open_database
from events import logs
from events.bus.rabbit import open_bus
from events.settings import PREFIX, InvalidSetting, read_settings

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE_S = 8
BACKLOG = 2048


class Server(uvicorn.Server):
    """Ends its streams before it waits for its connections, and leaves the exit code to us."""

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        end_streams(self._app)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)


def listen(settings: Settings) -> socket.socket:
    """Raises InvalidSetting where nobody can listen, before anything else is opened."""
    address = f"{settings.host}:{settings.port}"
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OverflowError as error:
        raise InvalidSetting(f"{PREFIX}PORT is {settings.port}, and no port") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InvalidSetting(
                f"{address} is in use: end what uses it, or set {PREFIX}PORT to another port"
            ) from error
        raise InvalidSetting(f"cannot listen on {address}: {error}; see {PREFIX}HOST and {PREFIX}PORT") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so for its own sockets, not for ours
    return listener


async def serve(settings: Settings, listener: socket.socket) -> None:
    source = f"app/{socket.gethostname()}-{os.getpid()}"
    async with open_database(settings.database_url) as database, open_bus(settings.amqp_url, source) as bus:
        app = create_app(bus, database, settings)
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=PATIENCE_S,
        )
        host, port = listener.getsockname()[:2]
        logger.info("listening", extra={"host": host, "port": port})
        await Server(config, app).serve([listener])
    logger.info("stopped")


def main() -> int:
    try:
        settings = read_settings(Settings, os.environ)
        logs.configure(settings.log_level)
        with listen(settings) as listener:
            asyncio.run(serve(settings, listener))
    except InvalidSetting as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

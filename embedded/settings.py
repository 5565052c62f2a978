"""What `python -m embedded` can be told through the environment."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct


class Settings(Struct, frozen=True, kw_only=True):
    """The two URLs win over the embedded servers, which are then not started."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    data: str = ".local"
    database_url: str | None = None
    amqp_url: str | None = None
    workers: Annotated[int, Meta(ge=0, le=64)] = 1
    drain_s: Annotated[float, Meta(ge=0)] = 30.0
    showcase: bool = True

    @property
    def folder(self) -> Path:
        return Path(self.data).expanduser().resolve()

    @property
    def url(self) -> str:
        """Where a program on this machine reaches the app."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - read, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

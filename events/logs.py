"""One line a record: when, how grave, what happened, and the variables of it."""

import logging
import sys
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Line(logging.Formatter):
    """Puts what a record carries in `extra` behind the sentence, as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _OWN)
        record.message = record.getMessage()
        first = f"{self.formatTime(record)} {record.levelname.lower()} {record.name}: {record.message}"
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{first} {extra}".rstrip() + trace


def configure(level: Level) -> None:
    """Log to standard error from now on; the broker's library only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Line())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("aio_pika", "aiormq", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))

"""`python -m consumers.inference.child FD PARENT`: the measured process. Its worker starts it, and it ends with it."""

import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType

from consumers.inference.child.protocol import (
    HEADER,
    AnyCommand,
    AnyMessage,
    Generate,
    Load,
    Ready,
    Refused,
    Resolve,
    frame,
    read_command,
)

PR_SET_PDEATHSIG = 1
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class Channel:
    """Both directions of the talk with the worker. The end of it is the end of this process, whatever it is doing."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._sending = Lock()
        self._arrived: SimpleQueue[AnyCommand] = SimpleQueue()

    def send(self, message: AnyMessage) -> None:
        with self._sending:
            self._socket.sendall(frame(message))

    def commands(self) -> Iterator[AnyCommand]:
        Thread(target=self._read, name="reader", daemon=True).start()
        while True:
            yield self._arrived.get()

    def _read(self) -> None:
        with self._socket.makefile("rb") as stream:
            while header := stream.read(HEADER.size):
                self._arrived.put(read_command(stream.read(HEADER.unpack(header)[0])))
        os._exit(0)


def die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends; unless it ended before we asked for that."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def be_killed_first() -> None:
    """A model that is too large for the machine costs its own process, not the broker or the database beside it."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def last_words(channel: Channel) -> None:
    """An error that nobody named ends this process: its trace goes to the log, its name to the worker."""

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        channel.send(Refused(code="engine_error", reason=f"{kind.__name__}: {_first_line(error)}"))

    sys.excepthook = say


def serve(channel: Channel) -> None:
    """Import what is heavy, say so, and answer one command after the other."""
    from torch import OutOfMemoryError

    from consumers.inference.child.generate import generate
    from consumers.inference.child.load import Refusal, Shelf

    shelf = Shelf()
    channel.send(Ready())
    for command in channel.commands():
        try:
            match command:
                case Resolve():
                    channel.send(shelf.resolve(command))
                case Load():
                    channel.send(shelf.load())
                case Generate():
                    channel.send(generate(shelf.loaded, command, channel.send))
        except Refusal as refusal:
            channel.send(Refused(code=refusal.code, reason=refusal.reason, details=refusal.details))
        except (MemoryError, OutOfMemoryError) as error:
            channel.send(Refused(code="out_of_memory", reason=f"the model does not fit: {_first_line(error)}"))
        except RuntimeError as error:
            if "DefaultCPUAllocator" not in str(error):
                raise
            channel.send(Refused(code="out_of_memory", reason=f"the model does not fit: {_first_line(error)}"))


def _first_line(error: BaseException) -> str:
    """Torch puts a stack trace below it."""
    return str(error).partition("\n")[0]


def main() -> None:
    descriptor, parent = map(int, sys.argv[1:])
    be_killed_first()
    die_with(parent)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.captureWarnings(True)
    channel = Channel(descriptor)
    last_words(channel)
    serve(channel)


if __name__ == "__main__":
    main()

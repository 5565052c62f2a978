"""Small real programs to start, and to look at from outside."""

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedded.processes import Program, identify

FOREVER = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
PARENT = (
    "import subprocess, sys; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); sys.stdin = None; " + FOREVER
)


def a_program(folder: Path, code: str = FOREVER, **changes: object) -> Program:
    given = {
        "name": "example",
        "command": (sys.executable, "-c", code),
        "environment": {},
        "log": folder / "example.log",
        "grace_s": 5.0,
    }
    return Program(**(given | changes))  # type: ignore[arg-type]


def lives(pid: int) -> bool:
    return identify(pid) is not None


@contextmanager
def as_nobody() -> Iterator[None]:
    """Another local user, as far as files and sockets are concerned; only root can try that."""
    groups, nobody = os.getgroups(), pwd.getpwnam("nobody")
    os.setgroups([])
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)

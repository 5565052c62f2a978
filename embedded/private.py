"""Folders and files that only we may enter and read."""

import fcntl
import os
import stat
from pathlib import Path


class NotPrivate(Exception):
    """A folder that must be ours alone belongs to somebody else."""


def private_folder(path: Path) -> Path:
    """Make `path` with mode 0700; one that is there must be ours, and gets that mode. Its parents keep theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NotPrivate(f"{path} is not a folder of ours: move it away, or set LLM_BENCH_DATA to another folder")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Put `text` in place at once, whole or not at all, for our eyes only."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file; False while another process holds it. It ends with that process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

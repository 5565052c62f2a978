"""What this machine and this program are, for the environment of every result."""

import os
import platform
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from msgspec import to_builtins

from consumers.inference.hardware.gpus import GpuDevice

MEASURED_PROCESS = "consumers.inference.child"


def machine(gpus: Sequence[GpuDevice]) -> dict[str, Any]:
    """The hardware and what runs on it; asked once a worker."""
    return {
        "cpu": cpu_model(),
        "logical_cores": psutil.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "usable_cores": len(os.sched_getaffinity(0)),
        "ram_gb": psutil.virtual_memory().total / 1e9,
        "gpus": to_builtins(gpus),
        "os": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@cache
def version() -> str:
    try:
        return metadata.version("llm-bench-backend")
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def commit() -> str | None:
    """The git commit of the checkout that this runs from, if it is one."""
    git = Path(__file__).parents[3] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        name = head.removeprefix("ref: ")
        return head if name == head else _commit_of(git, name)
    except OSError:
        return None


def _commit_of(git: Path, name: str) -> str | None:
    if (git / name).exists():
        return (git / name).read_text(encoding="utf-8").strip()
    packed = (line.split() for line in (git / "packed-refs").read_text(encoding="utf-8").splitlines())
    return next((words[0] for words in packed if words[1:] == [name]), None)


def other_measured_processes(own: int) -> int:
    """How many other workers of this machine keep a measured process, busy or not."""
    others = psutil.process_iter(["cmdline"])
    return sum(process.pid != own and MEASURED_PROCESS in (process.info["cmdline"] or ()) for process in others)

"""RabbitMQ's program: the installed one, or Debian's packages unpacked for this user, without root."""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from embedded.private import private_folder, try_lock
from embedded.processes import CommandFailed, Say, run

INSTALLED = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
FALLBACK = Path(f"/var/tmp/llm-bench-{os.geteuid()}")  # noqa: S108 - used only when it is ours, with mode 0700

# `erl`, and the scripts around it, split their own path at spaces and read it as shell
_SAFE_PATH = re.compile(r"[\w./+-]+", re.ASCII)

_APT_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Debug::NoLocking "true";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


class NoBroker(Exception):
    """There is no RabbitMQ on this machine, and none could be had."""


class RabbitMQ(msgspec.Struct, frozen=True):
    """Where the programs are: the server's script, and the folder of erl, epmd and erl_call."""

    server: Path
    erlang: Path
    libraries: tuple[Path, ...] = ()


async def find_rabbitmq(say: Say) -> RabbitMQ:
    """Raises NoBroker, with what to do about it."""
    if installed := _installed():
        return installed
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise NoBroker(_remedy("this is no Debian, so its packages cannot be had"))
    cache = cache_folder()
    async with _locked(cache / "lock"):
        target = cache / f"rabbitmq-{_release()}"
        if not is_complete(target):
            await _fetch(cache, target, say)
    return _unpacked(target)


def _installed() -> RabbitMQ | None:
    erl = shutil.which("erl")
    return RabbitMQ(INSTALLED, Path(erl).resolve().parent) if erl and INSTALLED.exists() else None


def is_complete(target: Path) -> bool:
    """Unpacked to the end, and for this place: Erlang's start script holds it."""
    with suppress(FileNotFoundError):
        return (target / "complete").read_text(encoding="utf-8") == str(target)
    return False


def _unpacked(root: Path) -> RabbitMQ:
    libraries = tuple(sorted({path.parent for path in root.glob("usr/lib/*-linux-*/*.so*")}))
    return RabbitMQ(root / "usr/lib/rabbitmq/bin/rabbitmq-server", root / "usr/lib/erlang/bin", libraries)


async def _fetch(cache: Path, target: Path, say: Say) -> None:
    say("fetching RabbitMQ: Debian's packages (34 MB), unpacked for this user only; this happens once")
    _remove_abandoned(cache)
    with tempfile.TemporaryDirectory(dir=cache, prefix="part-") as part:
        folder = Path(part)
        try:
            await _download(folder)
            await _unpack(folder)
        except CommandFailed as error:
            raise NoBroker(_remedy(str(error))) from error
        _move_erlang(folder / "root", target)
        (folder / "root/complete").write_text(str(target), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        (folder / "root").rename(target)


def _remove_abandoned(cache: Path) -> None:
    """What a start that was killed while it fetched left; we hold the lock, so nobody fetches now."""
    for part in cache.glob("part-*"):
        shutil.rmtree(part, ignore_errors=True)


async def _unpack(folder: Path) -> None:
    for package in sorted(folder.glob("*.deb")):  # noqa: ASYNC240 - twenty names of a local folder
        await run("dpkg", "-x", str(package), str(folder / "root"))


async def _download(folder: Path) -> None:
    """With the system's lists of packages; where those are empty or too old, with fresh ones of our own."""
    try:
        await _download_with(folder, [])
    except CommandFailed:
        own = private_folder(folder / "lists")
        options = ["-o", f"Dir::State::lists={own}", "-o", f"Dir::Cache::archives={folder}"]
        with suppress(CommandFailed):  # one source that does not answer is no reason: the next step tells
            await run("apt-get", "-c", _configuration(folder), *options, "update")
        await _download_with(folder, options)


async def _download_with(folder: Path, options: Sequence[str]) -> None:
    wanted = await _wanted(folder, options)
    await run("apt-get", "-c", _configuration(folder), *options, "-q", "download", *wanted, folder=folder)


async def _wanted(folder: Path, options: Sequence[str]) -> list[str]:
    """RabbitMQ, all of Erlang that it depends on, and those libraries of theirs that this machine lacks.

    Resolved as if nothing were installed, so that neither half an Erlang nor a broken package here matters.
    """
    nothing = ["-o", "Dir::State::status=/dev/null", "-o", f"Dir::Cache::archives={folder}"]
    flags = ["-qq", "--yes", "--no-install-recommends", "--print-uris"]
    printed = await run(
        "apt-get", "-c", _configuration(folder), *options, *nothing, *flags, "install", "rabbitmq-server"
    )
    closure = {line.split()[1].partition("_")[0] for line in printed.splitlines() if line.startswith("'")}
    installed = set((await run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n")).splitlines())
    missing = {name for name in closure if name.startswith("lib") and f"{name} installed" not in installed}
    return sorted(missing | {name for name in closure if name.startswith(("erlang-", "rabbitmq-server"))})


def _configuration(folder: Path) -> str:
    path = folder / "apt.conf"
    path.write_text(_APT_CONFIGURATION, encoding="utf-8")
    return str(path)


def _move_erlang(root: Path, target: Path) -> None:
    """Erlang's start script names the place that it was built for."""
    erl = root / "usr/lib/erlang/bin/erl"
    place = f"ROOTDIR={target}/usr/lib/erlang"
    erl.write_text(erl.read_text(encoding="utf-8").replace("ROOTDIR=/usr/lib/erlang", place), encoding="utf-8")


def cache_folder() -> Path:
    """The user's cache, or a private folder under /var/tmp where that path would break Erlang's scripts."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "llm-bench"
    if _SAFE_PATH.fullmatch(str(cache)):
        with suppress(OSError):
            return private_folder(cache)
    return private_folder(FALLBACK)


def _release() -> str:
    """Packages of one Debian do not run on another: a home folder may be shared."""
    with suppress(OSError):
        if found := re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE):
            return f"{found[1]}-{os.uname().machine}"
    return os.uname().machine


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """One at a time: two first starts beside each other fetch once."""
    with path.open("w") as file:
        while not try_lock(file.fileno()):  # noqa: ASYNC110 - another process holds it, which sets no event
            await asyncio.sleep(0.1)
        yield


def _remedy(reason: str) -> str:
    return (
        f"no RabbitMQ could be had: {reason}\n"
        "Install it (as root: apt-get install rabbitmq-server), or set LLM_BENCH_AMQP_URL to a broker that runs, "
        "or use Docker (docker compose up)."
    )

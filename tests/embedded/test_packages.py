"""Where RabbitMQ's program comes from."""

from pathlib import Path

import pytest

from embedded import packages
from embedded.packages import NoBroker, cache_folder, find_rabbitmq, is_complete


def quiet(_: str) -> None:
    """What is said here is not what is tested."""


async def test_the_program_that_is_found_has_all_that_a_node_needs() -> None:
    rabbitmq = await find_rabbitmq(quiet)

    assert all(path.exists() for path in [rabbitmq.server, *(rabbitmq.erlang / each for each in ("erl", "epmd"))])
    assert " " not in str(rabbitmq.server)


async def test_without_debians_tools_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "INSTALLED", Path("/nowhere"))
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(NoBroker, match=r"apt-get install rabbitmq-server\), or set LLM_BENCH_AMQP_URL"):
        await find_rabbitmq(quiet)


async def test_packages_that_cannot_be_fetched_are_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "dpkg"):
        (tools / name).write_text("#!/bin/sh\necho 'E: no network' >&2; exit 100\n")
        (tools / name).chmod(0o755)
    monkeypatch.setattr(packages, "INSTALLED", Path("/nowhere"))
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(NoBroker, match=r"E: no network\n.*LLM_BENCH_AMQP_URL"):
        await find_rabbitmq(quiet)

    assert not list((tmp_path / "llm-bench").glob("part-*"))


def test_a_cache_whose_path_would_break_erlangs_scripts_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "FALLBACK", tmp_path / "fallback")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "llm-bench"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a space"))
    assert cache_folder() == tmp_path / "fallback"


def test_a_program_that_was_moved_is_not_taken_for_complete(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    assert not is_complete(here)

    (here / "complete").write_text(str(here))
    assert is_complete(here)

    assert not is_complete(here.rename(tmp_path / "there"))

"""What is ours alone, and that nothing else changes."""

import stat
from pathlib import Path

import pytest

from embedded.private import NotPrivate, private_folder, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_folder_is_for_us_alone_and_its_parents_keep_their_modes(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)

    private_folder(tmp_path / "open/ours")

    assert (mode(tmp_path / "open/ours"), mode(tmp_path / "open")) == (0o700, 0o755)


def test_a_link_is_never_taken_for_a_private_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    with pytest.raises(NotPrivate, match="LLM_BENCH_DATA"):
        private_folder(tmp_path / "link")


def test_a_private_file_never_has_another_mode_not_even_when_it_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)

    write_private(path, "new")

    assert (path.read_text(), mode(path)) == ("new", 0o600)

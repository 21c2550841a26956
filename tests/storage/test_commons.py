"""The file that the processes of a user share: with whatever damage, it is mended or not used."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.governor import Learned
from fastxfer.plan.sharing import Board, Claim, Member
from fastxfer.storage.commons import NAME, Commons, private_directory, read_board, write_board

counts = st.integers(0, 1 << 20)
times = st.floats(allow_nan=False)
claims = st.builds(Claim, counts, counts, counts, counts, times, st.none() | st.integers(1, 1 << 20), counts)
members = st.builds(
    Member, st.integers(0, 1 << 30), st.integers(0, 1 << 40), times, st.dictionaries(st.text(), claims)
)
learned = st.builds(Learned, st.none() | st.integers(1, 1 << 20), times, times, times, st.booleans(), times)
boards = st.builds(Board, st.dictionaries(st.text(), members), st.dictionaries(st.text(), learned))
ONE = Board({"a": Member(os.getpid(), 0, 1.0, {"h": Claim(1, 2)})}, {"h": Learned(3, 1.0)})


def swap(new: Board) -> Board:
    """Puts a board into the file; returns what was there."""
    return Commons().exchange(lambda old: (new, old))


def look() -> Board:
    """Returns the board that is in the file."""
    return Commons().exchange(lambda old: (old, old))


@given(boards)
def test_a_board_comes_back_as_it_was(board: Board) -> None:
    assert read_board(write_board(board)) == board


@given(
    st.binary()
    | boards.map(write_board).flatmap(lambda text: st.integers(0, len(text)).map(lambda n: text[:n]))
)
def test_what_is_no_board_counts_as_empty(text: bytes) -> None:
    assert isinstance(read_board(text), Board)


@pytest.mark.parametrize("value", [-1, 1.5, "x", True, None, [], 10**400, 2**21])
def test_a_number_that_makes_no_sense_is_no_board(value: object) -> None:
    raw = json.loads(write_board(ONE))
    raw["members"]["a"]["claims"]["h"]["held"] = value
    assert read_board(json.dumps(raw).encode()) == Board()


def test_one_process_finds_what_another_left(own_runtime_directory: Path) -> None:
    assert swap(ONE) == Board()
    assert look() == ONE
    assert swap(Board()) == ONE
    assert look() == Board()
    path = own_runtime_directory / "fastxfer" / NAME
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("damage", [b"", b"\0" * 500, b"{", b"[" * 100_000, b"x" * (2 << 20)])
def test_a_damaged_file_is_mended_by_the_next_who_writes(own_runtime_directory: Path, damage: bytes) -> None:
    swap(ONE)
    (own_runtime_directory / "fastxfer" / NAME).write_bytes(damage)
    assert swap(ONE) == Board()
    assert look() == ONE


def test_a_directory_that_somebody_tidied_up_is_made_again(own_runtime_directory: Path) -> None:
    commons = Commons()
    commons.exchange(lambda old: (ONE, old))
    (own_runtime_directory / "fastxfer" / NAME).unlink()
    (own_runtime_directory / "fastxfer").rmdir()
    assert commons.exchange(lambda old: (ONE, old)) == Board()
    assert look() == ONE


def test_a_file_that_is_a_link_is_not_followed(own_runtime_directory: Path, tmp_path: Path) -> None:
    swap(ONE)
    path = own_runtime_directory / "fastxfer" / NAME
    path.unlink()
    path.symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("precious")
    with pytest.raises(OSError, match="symbolic link"):
        look()
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files; there is no runtime directory."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_without_a_runtime_directory_a_private_one_is_made_for_temporary_files(temporary: Path) -> None:
    swap(ONE)
    assert (temporary / f"fastxfer-{os.geteuid()}").stat().st_mode & 0o777 == 0o700


def test_the_directory_for_temporary_files_is_that_of_python(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TEMP", str(temporary))
    for first in (str(temporary), "/nonexistent", ""):
        monkeypatch.setenv("TMPDIR", first)
        assert private_directory().path == Path(tempfile.gettempdir()) / f"fastxfer-{os.geteuid()}"


def test_a_directory_that_others_may_enter_is_not_trusted(temporary: Path) -> None:
    (temporary / f"fastxfer-{os.geteuid()}").mkdir(0o755)
    with pytest.raises(PermissionError, match="others may enter"):
        look()


def test_a_directory_that_is_a_link_is_not_trusted(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(0o700)
    (temporary / f"fastxfer-{os.geteuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|symbolic link"):
        private_directory()


def test_a_runtime_directory_that_is_not_there_is_done_without(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    assert private_directory().path == temporary / f"fastxfer-{os.geteuid()}"


def test_processes_that_are_dead_are_left_out(own_runtime_directory: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    namespace = Commons().namespace
    alive = Member(child.pid, namespace, 1.0, {"h": Claim(1, 2)})
    foreign = Member(1 << 29, namespace + 1, 1.0)
    swap(Board({"child": alive, "elsewhere": foreign}))
    assert set(look().members) == {"child", "elsewhere"}
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert set(look().members) == {"elsewhere"}
    child.wait()
    assert set(look().members) == {"elsewhere"}, "ids of another namespace say nothing"


def test_a_lock_that_is_not_to_be_had_is_not_waited_for_long(own_runtime_directory: Path) -> None:
    swap(ONE)
    with open(own_runtime_directory / "fastxfer" / NAME) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            look()
    assert look() == ONE

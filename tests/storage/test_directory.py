"""A directory that is held open: what is done in it stays in it, whatever happens to its path."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from fastxfer.errors import StorageError
from fastxfer.storage.directory import Directory
from tests.descriptors import held_open

Make = Callable[[Path], object]


@pytest.fixture
def root(tmp_path: Path) -> Directory:
    (tmp_path / "root").mkdir()
    return Directory.open(tmp_path / "root")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


# ---- going down ----


def test_missing_directories_are_made_when_asked(root: Directory) -> None:
    with pytest.raises(StorageError, match="cannot open the directory"):
        root.walk(("a", "b"))
    assert not (root.path / "a").exists()
    below = root.walk(("a", "b"), create=True)
    assert below.path == root.path / "a" / "b"
    assert os.path.samestat(os.fstat(below.fd), below.path.stat())
    assert os.path.samestat(os.fstat(root.walk(("a", "b")).fd), below.path.stat())


def test_no_step_down_is_the_directory_itself_with_a_life_of_its_own(root: Directory) -> None:
    same = root.walk(())
    root.close()
    assert os.path.samestat(os.fstat(same.fd), root.path.stat())


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("folders", [("link",), ("link", "b"), ("a", "link"), ("a", "link", "b")])
def test_a_symbolic_link_on_the_way_is_refused(
    root: Directory, outside: Path, folders: tuple[str, ...], create: bool
) -> None:
    (root.path / "a").mkdir()
    (outside / "b").mkdir()
    for link in (root.path / "link", root.path / "a" / "link"):
        link.symlink_to(outside)
    with pytest.raises(StorageError, match="link: it is there and not a directory, or a symbolic link"):
        root.walk(folders, create=create)
    assert [path.name for path in outside.iterdir()] == ["b"]


@pytest.mark.parametrize(
    "make",
    [
        Path.touch,
        os.mkfifo,
        lambda path: path.symlink_to("gone"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("."),
    ],
    ids=["file", "pipe", "dangling link", "loop", "link to the root"],
)
def test_what_is_no_directory_is_refused(root: Directory, make: Make) -> None:
    make(root.path / "a")
    with pytest.raises(StorageError, match="not a directory"):
        root.walk(("a", "b"), create=True)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../outside", "/etc"])
def test_what_is_not_one_component_is_a_mistake_of_the_caller(
    root: Directory, outside: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="not one component"):
        root.walk((name,), create=True)
    assert os.listdir(root.path) == os.listdir(outside) == []


def test_a_directory_that_is_swapped_for_a_link_while_it_is_held_leads_nowhere_else(
    root: Directory, outside: Path
) -> None:
    held = root.walk(("a",), create=True)
    (root.path / "a").rename(root.path / "moved")
    (root.path / "a").symlink_to(outside)
    held.walk(("b", "c"), create=True)
    os.close(held.open_file("file", os.O_RDWR | os.O_CREAT))
    held.sync()
    assert sorted(os.listdir(root.path / "moved")) == ["b", "file"]
    assert os.listdir(outside) == []


def test_two_may_make_the_same_directories_at_once(root: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def beaten(name: str, *, dir_fd: int) -> None:
        make(name, dir_fd=dir_fd)
        make(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", beaten)
    assert root.walk(("a", "b"), create=True).path.is_dir()


def test_a_link_that_beats_the_making_of_a_directory_is_refused(
    root: Directory, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beaten(name: str, *, dir_fd: int) -> None:
        os.symlink(outside, name, dir_fd=dir_fd)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "mkdir", beaten)
    with pytest.raises(StorageError, match="symbolic link"):
        root.walk(("a", "b"), create=True)
    assert os.listdir(outside) == []


# ---- one file ----


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


IRREGULAR = [
    pytest.param(lambda path: path.symlink_to("/etc/hostname"), "a symbolic link", id="link"),
    pytest.param(lambda path: path.symlink_to("gone"), "a symbolic link", id="dangling"),
    pytest.param(lambda path: path.symlink_to("/dev/null"), "a symbolic link", id="link-to-a-device"),
    pytest.param(os.mkfifo, "a pipe", id="pipe"),
    pytest.param(os.mkdir, "a directory", id="directory"),
    pytest.param(listen, "a socket", id="socket"),
]


@pytest.mark.parametrize(("make", "kind"), IRREGULAR)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_CREAT | os.O_TRUNC])
def test_only_a_regular_file_is_opened_and_nothing_blocks(
    root: Directory, make: Make, kind: str, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.path)
    make(root.path / "x")
    before, there = held_open(root.path), os.lstat(root.path / "x")
    with pytest.raises(StorageError, match=f"it is {kind} and not a regular file"):
        root.open_file("x", flags)
    with pytest.raises(StorageError, match=f"it is {kind} and not a regular file"):
        root.look("x")
    assert root.has("x")
    assert held_open(root.path) == before
    assert os.lstat(root.path / "x") == there
    assert os.listdir(root.path) == ["x"]


def test_a_device_is_not_opened() -> None:
    with pytest.raises(StorageError, match="it is a device and not a regular file"):
        Directory.open(Path("/dev")).open_file("null", os.O_RDWR)


def test_what_is_not_there_is_told(root: Directory) -> None:
    assert root.look("x") is None
    assert not root.has("x")
    with pytest.raises(FileNotFoundError):
        root.open_file("x", os.O_RDONLY)
    root.remove("x")


def test_a_file_is_known_by_its_descriptor(root: Directory) -> None:
    fd = root.open_file("x", os.O_RDWR | os.O_CREAT)
    assert root.holds("x", fd)
    assert not root.holds("y", fd)
    (root.path / "x").rename(root.path / "y")
    (root.path / "x").symlink_to("y")
    assert not root.holds("x", fd)
    assert root.holds("y", fd)
    os.close(fd)


def test_a_directory_without_the_right_to_read_it_is_written_in(root: Directory) -> None:
    root.path.chmod(0o300)
    try:
        again = Directory.open(root.path)
        os.close(again.open_file("x", os.O_RDWR | os.O_CREAT))
        assert again.look("x") is not None
    finally:
        root.path.chmod(0o700)


# ---- its life ----


def test_a_directory_that_is_dropped_or_closed_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    held = [Directory.open(tmp_path).walk(("a",)) for _ in range(10)]
    assert held_open(tmp_path) == 10
    held[0].close()
    held[0].close()
    assert held_open(tmp_path) == 9
    held.clear()
    assert held_open(tmp_path) == 0
    for _ in range(10):
        with pytest.raises(StorageError):
            Directory.open(tmp_path).walk(("a", "b", "c"))
    gc.collect()
    assert held_open(tmp_path) == 0


def test_a_closed_directory_does_nothing_any_more(root: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.path)
    root.close()
    for call in (
        lambda: root.open_file("x", os.O_RDWR | os.O_CREAT),
        lambda: root.walk(("x",), create=True),
        lambda: root.remove("x"),
        lambda: root.look("x"),
        root.sync,
    ):
        with pytest.raises((StorageError, OSError)):
            call()
    assert os.listdir(root.path) == []


def test_a_descriptor_is_not_inherited_by_a_new_program(root: Directory) -> None:
    assert not os.get_inheritable(root.fd)
    assert not os.get_inheritable(root.walk(()).fd)


def test_a_fork_has_a_directory_of_its_own(root: Directory) -> None:
    child = os.fork()
    if child == 0:
        os.close(root.open_file("by the child", os.O_RDWR | os.O_CREAT))
        root.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert root.look("by the child") is not None

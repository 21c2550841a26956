"""Small files written whole: what is there afterwards, and what an error leaves."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastxfer._native import whole_file
from fastxfer._native.checksum import crc64nvme
from fastxfer._native.whole_file import CREATE, RENAME, WRITE, date, has_ending, sync_file_system
from tests.servers.objects import make_bytes

DATA = make_bytes(100_000, seed=2)
Store = Callable[[list[Any]], list[tuple[int, int, int]]]


@pytest.fixture(params=[True, False], ids=["without a name", "under a working name"])
def store(request: pytest.FixtureRequest) -> Store:
    """Both ways to write."""
    return partial(whole_file.store, unnamed=request.param)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[int]:
    """A descriptor of an empty directory, without the right to read it."""
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_files_get_their_bytes_names_and_times(store: Store, at: int, tmp_path: Path) -> None:
    sizes = [0, 1, 8192, 100_000]
    jobs = [
        (at, b"working%d" % size, b"file%d" % size, DATA[:size], 1_500_000_000_123_456_789 if size else None)
        for size in sizes
    ]
    assert store(list(jobs)) == [(0, 0, crc64nvme(DATA[:size])) for size in sizes]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        f"file{size}": DATA[:size] for size in sizes
    }
    assert (tmp_path / "file1").stat().st_mtime_ns == 1_500_000_000_123_456_789
    assert (tmp_path / "file0").stat().st_mtime > 1_600_000_000


def test_a_time_before_1970_is_kept(store: Store, at: int, tmp_path: Path) -> None:
    assert store([(at, b"w", b"f", b"x", -1)])[0][1] == 0
    assert (tmp_path / "f").stat().st_mtime_ns == -1


def test_files_that_are_there_are_dated_and_links_not_followed(at: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("b")
    before = (tmp_path / "b").stat().st_mtime_ns
    done = date([(at, b"a", 1_500_000_000_123_456_789), (at, b"no", 1), (at, b"link", -1), (-1, b"a", 1)])
    assert done == [0, errno.ENOENT, 0, errno.EBADF]
    assert (tmp_path / "a").stat().st_mtime_ns == 1_500_000_000_123_456_789
    assert (tmp_path / "b").stat().st_mtime_ns == before
    assert (tmp_path / "link").lstat().st_mtime_ns == -1
    assert date([]) == []
    wrong: list[Any] = [(at, "a", 1)]
    with pytest.raises(TypeError):
        date(wrong)


def test_what_stands_under_the_name_stays(store: Store, at: int, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    assert store([(at, b"w", b"f", b"new", None)])[0][:2] == (RENAME, errno.EEXIST)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert (tmp_path / "w").read_bytes() == b"new"


def test_what_stands_under_the_working_name_is_not_touched(store: Store, at: int, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "w").symlink_to("elsewhere")
    assert store([(at, b"w", b"f", b"new", None)])[0][:2] == (CREATE, errno.EEXIST)
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
    assert not (tmp_path / "f").exists()


def test_a_working_name_that_nobody_looks_for_is_not_in_the_way(at: int, tmp_path: Path) -> None:
    """Of a file that has none; one that needs it does not touch what is there either."""
    (tmp_path / "w").write_bytes(b"theirs")
    assert whole_file.store([(at, b"w", b"f", b"new", None)], looks=False)[0][:2] == (0, 0)
    assert whole_file.store([(at, b"w", b"f", b"newer", None)], looks=False)[0][:2] == (CREATE, errno.EEXIST)
    assert (tmp_path / "f").read_bytes() == b"new" and (tmp_path / "w").read_bytes() == b"theirs"


def test_a_directory_tells_whether_a_name_in_it_has_an_ending(tmp_path: Path, at: int) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not has_ending(fd, b".new")
        for number in range(3000):
            (tmp_path / f"new.{number}").touch()
        assert not has_ending(fd, b".new")
        (tmp_path / ".new").touch()
        assert has_ending(fd, b".new") and has_ending(fd, b"w") and not has_ending(fd, b"a.new")
        (tmp_path / ".new").unlink()
        assert not has_ending(fd, b".new"), "it is read from its beginning each time"
        assert has_ending(at, b".new"), "it cannot be read: nobody knows"
    finally:
        os.close(fd)


def test_one_that_fails_does_not_stop_the_others(store: Store, at: int, tmp_path: Path) -> None:
    long = b"x" * 300
    done = store([(at, b"w", b"a", b"1", None), (at, long, b"b", b"2", None), (at, b"w", b"c", b"3", None)])
    assert [each[:2] for each in done] == [(0, 0), (CREATE, errno.ENAMETOOLONG), (0, 0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_a_name_that_cannot_be_given_leaves_nothing(store: Store, at: int, tmp_path: Path) -> None:
    step, error, _ = store([(at, b"w", b"x" * 300, b"1", None)])[0]
    assert (step, error) == (RENAME, errno.ENAMETOOLONG)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_nothing(store: Store, at: int, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        step, error, _ = store([(at, b"w", b"f", DATA, None)])[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
    assert (step, error) == (WRITE, errno.EFBIG)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_stored_of_a_list_that_is_wrong(store: Store, at: int, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        store([(at, b"w", b"f", b"1", None), (at, "w", b"g", b"2", None)])
    with pytest.raises(TypeError):
        store([(at, b"w", b"f", 5, None)])
    assert store([]) == [] and list(tmp_path.iterdir()) == []


def test_a_file_system_is_synced_by_any_descriptor_that_can_read(tmp_path: Path, at: int) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    sync_file_system(fd)
    os.close(fd)
    for wrong in (at, -1):
        with pytest.raises(OSError) as caught:
            sync_file_system(wrong)
        assert caught.value.errno == errno.EBADF


def test_a_file_has_no_name_before_it_is_whole(at: int, tmp_path: Path) -> None:
    """Where the file system has such files: a write that fails then never had a name to be seen by."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.update(path.name for path in tmp_path.iterdir())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        done = whole_file.store([(at, b"w%d" % n, b"f%d" % n, DATA, None) for n in range(300)])
    finally:
        over.set()
        watcher.join()
    assert {each[:2] for each in done} == {(0, 0)}
    assert all(name.startswith("f") for name in seen)
    assert len(list(tmp_path.iterdir())) == 300


def test_a_file_gets_its_mode_from_the_umask(store: Store, at: int, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store([(at, b"w", b"f", b"x", None)])
    finally:
        os.umask(before)
    there = (tmp_path / "f").stat()
    assert (stat.S_IMODE(there.st_mode), there.st_nlink) == (0o640, 1)

"""Names from outside, and where an object goes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import FastxferError, OptionError, StorageError
from fastxfer.storage.directory import Directory
from fastxfer.storage.paths import resolve_target, target_below
from tests.descriptors import held_open

URL = "https://example.org/some/data.bin?x=1#y"


def test_out_may_be_a_file(tmp_path: Path) -> None:
    target = resolve_target(URL, tmp_path / "here.bin")
    assert target.final == tmp_path / "here.bin"
    assert target.part == tmp_path / "here.bin.part"
    assert target.checkpoint == tmp_path / "here.bin.part.ckpt"


@pytest.mark.parametrize("end", ["", "/"])
def test_out_may_be_a_directory(tmp_path: Path, end: str) -> None:
    assert resolve_target(URL, f"{tmp_path}{end}").final == tmp_path / "data.bin"


@pytest.mark.parametrize("out", [None, "", "."])
def test_without_out_it_is_the_current_directory(
    tmp_path: Path, out: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_target(URL, out).final.resolve() == tmp_path / "data.bin"


def test_a_caller_may_choose_any_name_that_the_disk_takes(tmp_path: Path) -> None:
    for name in ("a:b", "con", "a\\b", "a.", "%2f"):
        assert resolve_target(URL, tmp_path / name).final.name == name


@pytest.mark.parametrize(
    "out",
    ["x" * 246, "x" * 300, "\u00e9" * 123, "a\0b", "\ud800"],
    ids=["246 bytes", "300 bytes", "246 bytes in 123 letters", "NUL", "surrogate"],
)
def test_an_out_that_cannot_have_working_files_is_refused(tmp_path: Path, out: str) -> None:
    with pytest.raises(OptionError):
        resolve_target(URL, os.path.join(tmp_path, out))


def test_the_longest_name_with_working_files_is_taken(tmp_path: Path) -> None:
    target = resolve_target(URL, tmp_path / ("x" * 245))
    target.checkpoint.write_bytes(b"")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    for out in (
        tmp_path / "gone" / "x",
        f"{tmp_path}/gone/",
        tmp_path / "gone" / "..",
        tmp_path / ("y" * 300) / "x",
    ):
        with pytest.raises(StorageError, match="no directory"):
            resolve_target(URL, out)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="no directory"):
        resolve_target(URL, tmp_path / "file" / "x")


@pytest.mark.parametrize("name", ["x", "x.part", "x.part.ckpt", "x.part.new"])
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("gone"),
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to("regular"),
    ],
    ids=["pipe", "directory", "loop", "dangling", "device", "link"],
)
def test_a_target_or_working_file_that_is_no_regular_file_is_refused(
    tmp_path: Path, make: Callable[[Path], object], name: str
) -> None:
    (tmp_path / "regular").write_bytes(b"precious")
    make(tmp_path / name)
    before = os.lstat(tmp_path / name)
    with pytest.raises(StorageError, match="not a regular file; remove it or name another file"):
        target_below(Directory.open(tmp_path), "x")
    if (tmp_path / "x").is_dir():
        (tmp_path / "x" / "data.bin").symlink_to("gone")  # a directory is where the object goes
    with pytest.raises(StorageError, match="not a regular file; remove it or name another file"):
        resolve_target(URL, tmp_path / "x")
    assert os.lstat(tmp_path / name).st_ino == before.st_ino
    assert (tmp_path / "regular").read_bytes() == b"precious"


def test_a_device_is_refused() -> None:
    with pytest.raises(StorageError, match="a device"):
        resolve_target(URL, "/dev/null")


def test_the_directory_may_be_reached_through_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for out in (tmp_path / "link", tmp_path / "link" / "data.bin", f"{tmp_path}/link/"):
        target = resolve_target(URL, out)
        assert target.final == tmp_path / "link" / "data.bin"
        assert os.path.samestat(os.fstat(target.directory.fd), (tmp_path / "real").stat())


def test_a_directory_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Too many levels of symbolic links"):
        (tmp_path / "loop").symlink_to("loop")
        resolve_target(URL, tmp_path / "loop" / "x")


@pytest.mark.parametrize(("name", "twin"), [("x.part", "x.part.ckpt"), ("x.part.ckpt", "x.part")])
def test_the_working_files_of_an_unfinished_transfer_are_no_target(
    tmp_path: Path, name: str, twin: str
) -> None:
    resolve_target(URL, tmp_path / name)
    (tmp_path / name).touch()
    resolve_target(URL, tmp_path / name)
    (tmp_path / twin).touch()
    with pytest.raises(StorageError, match="belongs to an unfinished transfer"):
        resolve_target(URL, tmp_path / name)


def test_a_path_below_a_root_makes_its_folders(tmp_path: Path) -> None:
    target = target_below(Directory.open(tmp_path), "a/b/data.bin")
    assert target.final == tmp_path / "a" / "b" / "data.bin"
    assert (tmp_path / "a" / "b").is_dir()
    assert target_below(Directory.open(tmp_path), "x").final == tmp_path / "x"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "link/x", "link/a/x", "a\\..\\x", "a/%2e%2e/x"])
def test_a_path_that_leads_out_of_a_root_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises((OptionError, StorageError)):
        target_below(Directory.open(tmp_path / "root"), name)
    assert os.listdir(tmp_path / "outside") == []
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]
    assert os.listdir(tmp_path / "root") == ["link"]


def test_a_target_that_is_not_used_leaves_no_descriptor(tmp_path: Path) -> None:
    resolve_target(URL, tmp_path)
    (tmp_path / "x").symlink_to("gone")
    with pytest.raises(StorageError):
        resolve_target(URL, tmp_path / "x")
    gc.collect()
    assert held_open(tmp_path) == 0


@given(st.text(max_size=40))
def test_any_url_gives_a_target_inside_the_directory_or_a_typed_error(text: str) -> None:
    try:
        target = resolve_target(f"http://h/{text}", "/tmp/")
    except FastxferError:
        return
    assert target.final.parent == Path("/tmp")

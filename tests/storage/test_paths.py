"""Names from outside, and where an object goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import FastxferError, OptionError, StorageError
from fastxfer.storage.paths import MAX_NAME_BYTES, name_of_url, resolve_target, safe_name

URL = "https://example.org/some/data.bin?x=1#y"


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "data.bin",
        ".hidden",
        "...x",
        "a b",
        "\u00e9t\u00e9.txt",
        "x" * 255,
        "console",
        "com10",
        "a.con",
        "100%",
    ],
)
def test_a_plain_name_is_kept_as_it_is(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "...",
        "/",
        "/etc/passwd",
        "../x",
        "a/b",
        "a\\b",
        "..\\x",
        "C:\\x",
        "C:x",
        "a:b",
        "%2fetc",
        "%2Fetc",
        "a%5cb",
        "a%5Cb",
        "a%00b",
        "%252f",
        "a\0b",
        "a\nb",
        "a\rb",
        "a\tb",
        "a\x1b[31mb",
        "a\x7fb",
        "a\x9bb",
        "a.",
        "a ",
        "con",
        "NUL",
        "nul.txt",
        "Com1",
        "lpt9.tar.gz",
        "x" * 256,
        "\u00e9" * 128,
        "\ud800",
    ],
    ids=ascii,
)
def test_a_name_that_could_lead_elsewhere_or_not_travel_is_refused(name: str) -> None:
    with pytest.raises(OptionError):
        safe_name(name)


@given(st.text(max_size=300))
def test_a_name_that_is_accepted_is_one_component(name: str) -> None:
    try:
        accepted = safe_name(name)
    except OptionError:
        return
    assert accepted == name
    assert os.path.basename(name) == name and name not in ("", ".", "..")
    assert len(os.fsencode(name)) <= MAX_NAME_BYTES
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (URL, "data.bin"),
        ("http://h/a%20b.txt", "a b.txt"),
        ("http://h/%C3%A9", "\u00e9"),
        ("http://h/dir/..x", "..x"),
        ("http://h/x?/../../etc/passwd", "x"),
        ("http://h/100%", "100%"),
    ],
)
def test_a_urls_last_segment_is_decoded_once(url: str, name: str) -> None:
    assert name_of_url(url) == name


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "http://h/",
        "http://h/dir/",
        "http://h/..",
        "http://h/%2e%2e",
        "http://h/%2E",
        "http://h/%2fetc%2fpasswd",
        "http://h/..%5c..%5cx",
        "http://h/%252fx",
        "http://h/a%00b",
        "http://h/a%0ab",
        "http://h/a%ff",
        "http://h/c%3ax",
        "http://h/" + "x" * 256,
    ],
)
def test_a_url_without_a_safe_name_asks_for_one(url: str) -> None:
    with pytest.raises(OptionError, match="out"):
        name_of_url(url)


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


def _device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    "make", [os.mkfifo, _device, lambda path: path.symlink_to(path)], ids=["FIFO", "device", "loop"]
)
def test_a_target_that_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    with pytest.raises(StorageError):
        resolve_target(URL, tmp_path / "x")


@given(st.text(max_size=40))
def test_any_url_gives_a_target_inside_the_directory_or_a_typed_error(text: str) -> None:
    try:
        target = resolve_target(f"http://h/{text}", "/tmp/")
    except FastxferError:
        return
    assert target.final.parent == Path("/tmp")

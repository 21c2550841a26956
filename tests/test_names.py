"""Names from outside: which are taken, which refused, and which cannot stand side by side."""

from __future__ import annotations

import itertools
import os
import re
import tracemalloc
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer import names
from fastxfer.errors import OptionError
from fastxfer.names import (
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    check_collisions,
    name_of_url,
    safe_name,
    safe_path,
)

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
        "~",
        "~$draft.doc",
        "-rf",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f469\u200d\U0001f680",
        "\uff1a\uff0f",
        "x.part",
        "x.part.ckpt",
    ],
    ids=ascii,
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
        "a\udcff",
        "%2e",
        "%2E%2e",
        ".%2e",
        "a%2500b",
        "a\u2028b",
        "a\u2029b",
        "a\u202egpj.exe",
        "a\u2066b",
        "a\u200bb",
        "\ufeffa",
        "a\u00adb",
        "a\U000e0041b",
        "\u200d",
        "\u3164\ufe0f",
        "aux ",
        "aux .txt",
        "com\u00b9",
        "CONIN$",
        "a.txt:stream",
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
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


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
        "http://h/a%25%32%66b",
        "http://h/a%e2%80%aeb",
        "http://h/%c0%ae%c0%ae",
        "http://h/%ed%a0%80",
        "http://h/" + "x" * 256,
    ],
)
def test_a_url_without_a_safe_name_asks_for_one(url: str) -> None:
    with pytest.raises(OptionError, match="out"):
        name_of_url(url)


# ---- paths ----


@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("a", ("a",)),
        ("a/b.txt", ("a", "b.txt")),
        ("~/.ssh/config", ("~", ".ssh", "config")),
        ("\u00e9/e\u0301", ("\u00e9", "e\u0301")),
        ("x" * 255 + "/" + "y" * MAX_FILE_BYTES, ("x" * 255, "y" * MAX_FILE_BYTES)),
        ("d/" * 1000 + "f", ("d",) * 1000 + ("f",)),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_path_is_split_and_nothing_else(name: str, components: tuple[str, ...]) -> None:
    assert safe_path(name) == components


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("/", "empty"),
        ("/etc/passwd", "empty"),
        ("//host/share", "empty"),
        ("a//b", "empty"),
        ("a/", "empty"),
        ("./a", "folder's own name"),
        ("a/./b", "folder's own name"),
        ("../a", "folder's own name"),
        ("a/..", "folder's own name"),
        ("a/../../b", "folder's own name"),
        ("%2e%2e/a", "folder's own name"),
        ("a/%2E./b", "folder's own name"),
        ("a\\..\\b", "slash"),
        ("C:/x", "colon"),
        ("..%2fa", "percent-encoding"),
        ("a/..%5cb", "percent-encoding"),
        ("a/%252e%252e/b", "percent-encoding"),
        ("a\0/b", "control"),
        ("a\n/b", "control"),
        ("a/b\x1b]0;x\x07", "control"),
        ("a/\u202eb", "invisible"),
        ("\u3164/b", "invisible"),
        ("a/\udc80", "invisible"),
        ("a./b", "dot or a space"),
        ("a /b", "dot or a space"),
        ("a/con", "Windows"),
        ("lpt1.d/b", "Windows"),
        ("x" * 256 + "/a", "over 255 bytes"),
        ("a/" + "x" * (MAX_FILE_BYTES + 1), "working files"),
        ("d/" * 1024 + "f", "over 2048 bytes"),
        ("\u00e9/" * 800 + "f", "over 2048 bytes"),
        ("x" * 10**6, "over 2048 bytes"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_path_that_leads_elsewhere_or_would_not_travel_is_refused(name: str, why: str) -> None:
    with pytest.raises(OptionError, match=why) as caught:
        safe_path(name)
    assert caught.value.exit_code == 28
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# Text that is likely to be dangerous: whole components, and separators of all kinds.
pieces = st.sampled_from(
    [
        "a",
        "..",
        ".",
        "/",
        "//",
        "\\",
        "%2f",
        "%2e",
        "%25",
        "%",
        "\0",
        "con",
        ":",
        " ",
        "~",
        "\u202e",
        "\u0301",
    ]
)
paths = st.one_of(st.text(max_size=60), st.lists(pieces, max_size=12).map("".join))


@given(paths)
def test_a_path_that_is_accepted_stays_below_its_root(name: str) -> None:
    try:
        components = safe_path(name)
    except OptionError:
        return
    assert all(component == safe_name(component) for component in components)
    assert not any(separator in component for component in components for separator in "/\\\0")
    joined = "/".join(components)
    assert joined == name
    assert safe_path(joined) == components
    with TemporaryDirectory() as root:
        whole = os.path.realpath(os.path.join(root, *components))
        assert os.path.relpath(whole, os.path.realpath(root)) == name
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        Path(whole).touch()
        found = [os.path.join(at, file) for at, _, files in os.walk(os.path.realpath(root)) for file in files]
        assert found == [whole]


@given(st.text(max_size=60))
def test_a_urls_name_is_a_safe_name(text: str) -> None:
    try:
        name = name_of_url(f"http://h/{text}")
    except OptionError:
        return
    assert safe_name(name) == name


# ---- many names ----


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("a", "a", "the same name"),
        ("d/a", "d/A", "case or Unicode form"),
        ("d/a", "D/a", "case or Unicode form"),
        ("\u00e9", "e\u0301", "case or Unicode form"),
        ("\u00c9", "e\u0301", "case or Unicode form"),
        ("stra\u00dfe", "STRASSE", "case or Unicode form"),
        ("\u212a", "k", "case or Unicode form"),
        ("\u03c3", "\u03c2", "case or Unicode form"),
        ("\u2764", "\u2764\ufe0f", "case or Unicode form"),
        ("a\u200cb", "ab", "case or Unicode form"),
        ("a", "a/b", "in a folder"),
        ("a", "A/b/c", "in a folder"),
        ("d/a", "d/a/b/c", "in a folder"),
        ("x", "x.part", "working file"),
        ("x", "x.part.ckpt", "working file"),
        ("x", "x.part.new", "working file"),
        ("x", "x.part.lock", "working file"),
        ("x", "x.fxsum", "working file"),
        ("X.FXSUM.new", "x", "working file"),
        ("x.part.lock", "x.part", "working files of one"),
        ("x", "X.PART", "working file"),
        ("d/x", "d/x.part/y", "working file"),
        ("x", "x.part.ckpt/y", "working file"),
        ("x.part", "x.part.part", "working file"),
        ("x.part", "x.part.ckpt", "working files of one"),
        ("x.part.new", "x.part.ckpt", "working files of one"),
    ],
    ids=ascii,
)
def test_two_names_that_cannot_stand_side_by_side_are_both_named(one: str, other: str, how: str) -> None:
    for pair in ((one, other), (other, one)):
        among = ["z", *pair[:1], "d/y", "e/f/g", *pair[1:], "q"]
        with pytest.raises(OptionError, match=how) as caught:
            check_collisions(iter(among))
        assert repr(one) in str(caught.value)
        assert repr(other) in str(caught.value)
        assert caught.value.exit_code == 28


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a", "b", "a.b", "ab", "a/b".replace("a/", "d/"), "d/a"],
        ["A/x", "a/y"],
        ["x.part", "y.part.ckpt"],
        ["x.part.part", "x"],
        ["d.part/x", "d/x"],
        ["x\u00b2", "x2"],
        ["\u0131", "i"],
        ["ae", "\u00e6"],
    ],
    ids=ascii,
)
def test_names_that_differ_enough_stand_side_by_side(names: list[str]) -> None:
    for order in itertools.permutations(names):
        check_collisions(order)


def test_one_unsafe_name_among_many_is_refused() -> None:
    with pytest.raises(OptionError, match="folder's own name"):
        check_collisions(["a", "b", "../c"])


ENDINGS = (".part", ".part.ckpt", ".part.new", ".part.lock", ".fxsum", ".fxsum.new", ".fxnew")


def clash(one: str, other: str) -> bool:
    """Returns whether two names cannot stand side by side, told by all the files and folders they need."""

    def needs(name: str) -> tuple[set[str], set[str]]:
        key = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        parts = key.split("/")
        folders = {"/".join(parts[:n]) for n in range(1, len(parts))}
        return {key, *(key + each for each in ENDINGS)}, folders

    (files, folders), (other_files, other_folders) = needs(one), needs(other)
    key, other_key = (min(each, key=len) for each in (files, other_files))
    beside = {(key, each) for each in {other_key, *other_folders}} | {(other_key, each) for each in folders}
    pair = any(
        {one, other} <= {one.removesuffix(end) + each for each in ENDINGS}
        for one, other in beside
        for end in ENDINGS
        if one.endswith(end) and one != other
    )
    return bool(pair or files & other_files or files & other_folders or folders & other_files)


words = st.sampled_from(
    ["a", "A", "b", "A.Part", "\u00e9", "E\u0301", "a.part.part", *(f"a{each}" for each in ENDINGS)]
)
trees = st.lists(st.lists(words, min_size=1, max_size=3).map("/".join), max_size=7)


@given(trees)
def test_a_collision_is_found_exactly_where_two_names_need_one_place(names: list[str]) -> None:
    expected = any(clash(one, other) for one, other in itertools.combinations(names, 2))
    try:
        check_collisions(names)
    except OptionError:
        assert expected
    else:
        assert not expected


def test_a_large_set_is_read_once_and_within_bounded_memory() -> None:
    count = 100_000
    given_out = 0

    def names() -> Iterator[str]:
        nonlocal given_out
        for number in range(count):
            given_out += 1
            yield f"train/{number % 1000:04d}/{number:08d}.JPEG"

    tracemalloc.start()
    try:
        check_collisions(names())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert given_out == count
    assert peak / count < 600, "bytes a name"


@given(st.from_regex(names._PLAIN, fullmatch=True))
def test_the_rules_have_nothing_against_what_is_plain(name: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(names, "_PLAIN", re.compile(r"(?!)"))
        assert safe_name(name) == name and safe_path(f"a/{name}") == ("a", name)


@pytest.mark.parametrize(
    "name", ["con", "CON.txt", "nul", "Com1", "lpt9.x", "a.", "a b", ".", "a%2fb", "x" * 101]
)
def test_what_the_rules_are_about_is_not_plain(name: str) -> None:
    assert names._PLAIN.fullmatch(name) is None

"""Lists of mirrors as distributions and people write them: the URLs that they name, and faults that are
typed.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastxfer
from fastxfer.errors import OptionError
from fastxfer.inputs.mirror_lists import MirrorList, parse_mirrors
from tests.mirrorbench.rows import rate, report, row

ARCH = """\
##
## Arch Linux repository mirrorlist
##
## Germany
Server = https://mirror.one.example/archlinux/$repo/os/$arch
#Server = https://commented.example/$repo/os/$arch
  Server=http://two.example/$repo/os/$arch   # a comment
"""
SOURCES = """\
# deb http://commented.example/debian stable main
deb http://deb.example/debian/ bookworm main contrib
deb-src http://deb.example/debian/ bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://two.example/debian bookworm-updates main
deb http://flat.example/packages ./
"""
DEB822 = """\
Types: deb deb-src
URIs: http://deb.example/debian
 https://two.example/debian/
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

# a stanza that is switched off
Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
"""
MASTERLIST = """\
Site: ftp.one.example
Country: DE Germany
Type: Push-Primary
Archive-architecture: amd64 arm64
Archive-http: /debian/
Archive-rsync: debian/

Site: two.example
Archive-http: /debian/
Archive-https: /pub/debian/
Includes: x.example
 y.example

Site: no-archive.example
CDImage-http: /debian-cd/

Site: ../evil
Archive-http: /debian/
"""
METALINK = """\
<?xml version="1.0"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a.iso"><size>10</size>
<url priority="2">http://second.example/a.iso</url><url priority="1">https://first.example/a.iso</url>
<url>ftp://third.example/a.iso</url></file></metalink>
"""


def read(text: str, **options: str) -> MirrorList:
    return parse_mirrors(text.encode(), **options)


def test_archs_list_has_its_databases_below() -> None:
    assert read(ARCH) == MirrorList(
        "arch",
        (
            "https://mirror.one.example/archlinux/core/os/x86_64/core.db",
            "http://two.example/core/os/x86_64/core.db",
        ),
    )
    assert read(ARCH, repo="extra", arch="aarch64", object_path="$repo.files").urls[0] == (
        "https://mirror.one.example/archlinux/extra/os/aarch64/extra.files"
    )


def test_debians_sources_have_their_release_below() -> None:
    assert read(SOURCES) == MirrorList(
        "debian",
        (
            "http://deb.example/debian/dists/bookworm/Release",
            "https://two.example/debian/dists/bookworm-updates/Release",
            "http://flat.example/packages/./Release",
        ),
    )
    assert read(SOURCES, object_path="/ls-lR.gz").urls[0] == "http://deb.example/debian/ls-lR.gz"


def test_debians_new_sources_too() -> None:
    assert read(DEB822) == MirrorList(
        "deb822",
        (
            "http://deb.example/debian/dists/trixie/Release",
            "https://two.example/debian/dists/trixie/Release",
        ),
    )


def test_debians_list_of_all_mirrors_is_taken_by_https_where_there_is_one() -> None:
    assert read(MASTERLIST) == MirrorList(
        "masterlist",
        (
            "http://ftp.one.example/debian/dists/stable/Release",
            "https://two.example/pub/debian/dists/stable/Release",
        ),
    )


def test_a_metalink_names_the_best_first_and_warns_of_what_is_not_http() -> None:
    found = read(METALINK)
    assert (found.format, found.urls) == (
        "metalink",
        ("https://first.example/a.iso", "http://second.example/a.iso"),
    )
    assert "'ftp'" in found.warnings[0]


def test_a_plain_list_is_of_objects_or_of_bases() -> None:
    text = "\ufeff# mine\r\nhttp://a.example/x\r\n\r\nhttps://b.example/x\r\nhttp://a.example/x\r\n"
    assert read(text) == MirrorList("plain", ("http://a.example/x", "https://b.example/x"))
    assert read("http://a.example/pub/\n", object_path="x/y").urls == ("http://a.example/pub/x/y",)
    with pytest.raises(OptionError, match="line 2: is a base"):
        read("# mine\nhttp://a.example/pub/\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "none that is known"),
        ("hello\nworld\n", "none that is known"),
        ("ftp://a.example/x\n", "the list: scheme 'ftp'"),
        ("Site: a.example\nCDImage-http: /cd/\n", "names no mirror"),
        ("http://[::1/x\n", "its host makes no sense"),
        (
            METALINK.replace("</metalink>", '<file name="b"><url>http://h/b</url></file></metalink>'),
            "2 objects",
        ),
        ('<!DOCTYPE x [<!ENTITY y "z">]><metalink/>', "document type"),
    ],
)
def test_what_is_no_list_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read(text)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b", "$(x)"])
def test_a_repository_is_a_name(name: str) -> None:
    with pytest.raises(OptionError, match="option repo"):
        read(ARCH, repo=name)


_PIECES = st.sampled_from(
    [ARCH, SOURCES, DEB822, MASTERLIST, METALINK, "Server = ", "deb ", "URIs: ", "Site: ", "http://h/",
     "\n", "<", "[", "]", "#", " ", "\t", "\r", ":", "//", "$repo", "Archive-http: /", "\0", "\x1b"]
)  # fmt: skip


@given(
    st.one_of(
        st.binary(max_size=300), st.lists(_PIECES, max_size=12).map(lambda each: "".join(each).encode())
    )
)
def test_whatever_stands_in_it_there_are_urls_or_a_typed_error(data: bytes) -> None:
    try:
        found = parse_mirrors(data)
    except OptionError:
        return
    assert found.urls and len(set(found.urls)) == len(found.urls)
    assert all(urlsplit(url).scheme.lower() in ("http", "https") for url in found.urls)


def test_a_file_is_read_by_what_stands_in_it(tmp_path: Path) -> None:
    path = tmp_path / "mirrorlist"
    path.write_text(ARCH)
    assert fastxfer.read_mirrors(path, repo="extra")[0].endswith("/archlinux/extra/os/x86_64/extra.db")
    saved = tmp_path / "runs"
    runs = [
        report(row("http://a/x", rate(1, 1))),
        report(row("http://b/x", rate(1, 2)), row("http://a/x", rate(1, 1))),
    ]
    saved.write_text("".join(each.to_json() + "\n" for each in runs))
    assert fastxfer.read_mirrors(saved) == ["http://b/x", "http://a/x"]
    with pytest.raises(fastxfer.StorageError):
        fastxfer.read_mirrors(tmp_path / "missing")

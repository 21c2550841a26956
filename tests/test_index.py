"""Indexes of folders: what real servers write is read to the letter, what hostile ones write leads nowhere
else.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import BadResponseError
from fastxfer.inputs.entry import Fault
from fastxfer.inputs.index import MAX_PENDING, Child, Found, IndexReader
from fastxfer.names import safe_name
from tests.servers.apache import Apache
from tests.servers.caddy import Caddy
from tests.servers.lighttpd import Lighttpd
from tests.servers.nginx import Nginx
from tests.servers.python_http import PythonHttp

PAGE = "http://h:8/base/dir/"
WHEN = 1600000000  # 2020-09-13 12:26:40 UTC
LONG = "a name so long that those who lay it out in columns have to cut it off somewhere.bin"
SIZES = {"a.txt": 5, LONG: 123456, 'ü+%41&"<x>#.csv': 2048, "it's [1];v=2~.tsv": 0, " lead": 1, "10% ?": 3}
HOSTILE = {"a:b", "x%2fy", "back\\slash"}


def read(page: str, url: str = PAGE, piece: int = 1 << 20) -> list[Found]:
    reader = IndexReader(url)
    found: list[Found] = []
    for at in range(0, len(page), piece):
        found += reader.feed(page[at : at + piece])
    return found + list(reader.close())


def names(page: str) -> list[str]:
    return [each.name for each in read(page) if isinstance(each, Child)]


# ---- real servers ----


@pytest.fixture(scope="session")
def folder(document_root: Path) -> Path:
    """A folder with all that a folder may have."""
    folder = document_root / "an index" / "of it"
    folder.mkdir(parents=True)
    for name, size in {**SIZES, **dict.fromkeys(HOSTILE, 1)}.items():
        (folder / name).write_bytes(b"x" * size)
        os.utime(folder / name, (WHEN, WHEN))
    (folder / "sub dir").mkdir()
    return folder


def fetched(url: str) -> str:
    with urllib.request.urlopen(url.rstrip("/") + "/", timeout=30) as answer:
        return str(answer.read(), "utf-8")


def is_whole(url: str, *, sizes: set[str], exact: bool | None) -> None:
    """Asserts that the index there has it all; the sizes of these; and times that are exact, or to the minute
    of some clock, or (None) not there.
    """
    page, url = fetched(url), url.rstrip("/") + "/"
    for piece in (1, 7, 1 << 20):
        found = read(page, url, piece)
        faults = {unquote(each.name) for each in found if isinstance(each, Fault)}
        children = {each.name: each for each in found if isinstance(each, Child)}
        assert faults == HOSTILE
        assert children.keys() == SIZES.keys() | {"sub dir"}
        assert [child.name for child in children.values() if child.folder] == ["sub dir"]
        assert {name: child.size for name, child in children.items() if child.size is not None} == {
            name: SIZES[name] for name in sizes
        }
        for name in SIZES:
            child = children[name]
            assert child.mtime_exact is bool(exact)
            assert child.mtime is None if exact is None else child.mtime is not None
            if exact:
                assert child.mtime == WHEN
            elif child.mtime is not None:
                assert abs(child.mtime - WHEN) < 14 * 3600 + 60
    with urllib.request.urlopen(children["it's [1];v=2~.tsv"].url, timeout=30) as answer:
        assert answer.read() == b""
    with urllib.request.urlopen(children['ü+%41&"<x>#.csv'].url, timeout=30) as answer:
        assert len(answer.read()) == 2048


SMALL = SIZES.keys() - {LONG, 'ü+%41&"<x>#.csv'}


def test_nginx(folder: Path, nginx: Nginx) -> None:
    is_whole(nginx.url("an index/of it", prefix="index"), sizes=set(SIZES), exact=False)
    rounded = set(SIZES) - {LONG}
    is_whole(nginx.url("an index/of it", prefix="index-sizes"), sizes=rounded, exact=False)
    is_whole(nginx.url("an index/of it", prefix="index-json"), sizes=set(SIZES), exact=True)


def test_apache(folder: Path, apache: Apache) -> None:
    is_whole(apache.url("an index/of it"), sizes=set(SMALL), exact=False)
    is_whole(apache.url("table/an index/of it"), sizes=set(SMALL), exact=False)
    is_whole(apache.url("plain/an index/of it"), sizes=set(), exact=None)


def test_lighttpd(folder: Path, lighttpd: Lighttpd) -> None:
    is_whole(lighttpd.url("an index/of it"), sizes=set(), exact=False)
    found = {
        each.name: each
        for each in read(fetched(lighttpd.url("an index/of it")), lighttpd.url("an index/of it/"))
    }
    assert isinstance(told := found[LONG], Child) and told.shown == "120.5K"


def test_caddy(folder: Path, caddy: Caddy) -> None:
    is_whole(caddy.url("an index/of it", tls=False), sizes=set(SIZES), exact=True)


def test_caddy_in_json(folder: Path, caddy: Caddy) -> None:
    url = caddy.url("an index/of it/", tls=False)
    asked = urllib.request.Request(url, headers={"Accept": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found = read(str(answer.read(), "utf-8"), url)
    assert {each.name: each.size for each in found if isinstance(each, Child) and not each.folder} == SIZES
    assert {each.name for each in found if isinstance(each, Child) and each.folder} == {"sub dir"}


def test_pythons_own(folder: Path, python_http: PythonHttp) -> None:
    is_whole(python_http.url("an index/of it"), sizes=set(), exact=None)


# ---- hostile links ----


@pytest.mark.parametrize(
    "href",
    [
        "..", "../", "../../etc/passwd", "/", "/etc/passwd", "/base/", "/base/dir", "/base/dir/", ".", "./",
        "http://evil/base/dir/x", "//evil/base/dir/x", "https://h:8/base/dir/x", "http://h/base/dir/x",
        "http://u:p@h:8/base/dir/x", "javascript:alert(1)", "data:text/plain,x", "mailto:a@b", "file:///etc/x",
        "ftp://h:8/base/dir/x", "", "#top", "?C=N;O=D", "./?sort=name", "x?download=1", "deep/link", "http://[",
        "/base/directory/x", "/base/dirx", "a:b%3A", "a//b",
    ],
)  # fmt: skip
def test_a_link_that_is_no_child_is_passed_over(href: str) -> None:
    assert read(f'<pre><a href="{href}">x</a> <a href="good">x</a>') == [Child("good", PAGE + "good", False)]


@pytest.mark.parametrize(
    "href",
    [
        "%2e%2e", "%2E%2E/", ".%2e/x", "..%2f..%2fetc%2fpasswd", "a%2fb", "a%5cb", "..\\..\\x", "x%00",
        "x%252fy", "%252e%252e%252fx%255c", "con", "./a:b", "x%0Ay", "x%ff", "x.", "%E2%80%AEtxt.exe",
        "n" * 300, "/base/dir/%2e%2e/x", "http://h:8/base/dir/a%2f..%2fb", "x/%2e%2e/%2e%2e/y",
    ],
)  # fmt: skip
def test_a_child_whose_name_is_not_safe_is_named_and_the_rest_is_read(href: str) -> None:
    found = read(f'<li><a href="{href}">x</a></li><li><a href="good">x</a></li>')
    assert [type(each) for each in found] == [Fault, Child]
    assert found[1].name == "good"


@pytest.mark.parametrize(
    "href", ["a%20b", "/base/dir/a%20b", "http://h:8/base/dir/a b", "./a%20b", "/base/%64ir/a%20b"]
)
def test_a_child_has_one_url_however_its_link_is_written(href: str) -> None:
    assert read(f'<a href="{href}">') == [Child("a b", PAGE + "a%20b", False)]


def test_a_link_of_an_icon_and_one_of_the_name_are_one_child() -> None:
    row = '<a href="x"><img></a> <a href="x">x</a>  2020-09-13 12:26  5 '
    assert read(f"<pre>{row}</pre>") == [Child("x", PAGE + "x", False, 5, WHEN - 40)]


@pytest.mark.parametrize(
    ("text", "size", "mtime", "shown"),
    [
        ("13-Sep-2020 12:26   5", 5, WHEN - 40, ""),
        ("2020-09-13 12:26:40 5", 5, WHEN, ""),
        ("2020-Sep-13 12:26 1.2K", None, WHEN - 40, "1.2K"),
        ("2020-09-13 12:26  12 MiB", None, WHEN - 40, "12 MiB"),
        ("2020-09-13 12:26   -", None, WHEN - 40, ""),
        ("2020-09-13 12:26  99999999999999999999", None, WHEN - 40, ""),
        ("2020-09-13 12:26  9223372036854775808", None, WHEN - 40, ""),
        ("2020-13-13 12:26  5", 5, None, ""),
        ("13-Foo-2020 99:99  5", 5, None, ""),
        ("0000-01-01 00:00 5", 5, None, ""),
        ("version 5", None, None, ""),
    ],
)
def test_what_stands_beside_a_link(text: str, size: int | None, mtime: float | None, shown: str) -> None:
    assert read(f'<pre><a href="x">1999-01-01 00:00 7</a> {text}\n</pre>') == [
        Child("x", PAGE + "x", False, size, mtime, False, shown)
    ]


@pytest.mark.parametrize(
    "page",
    ["[{]", "[1]", '[{"name": 5}]', '[{"name":"a"}', "[" * 100_000, '[{"name":"' + "x" * (MAX_PENDING + 9)],
)
def test_json_that_is_no_index_is_an_error(page: str) -> None:
    with pytest.raises(BadResponseError):
        read(page)


def test_json_in_pieces() -> None:
    page = """[{"name":"d","type":"directory"},
        {"name":"f","type":"file","size":5,"mtime":"Sun, 13 Sep 2020 12:26:40 GMT"}, {"name":"../x"},
        {"name":"s","type":"other"}, {"name":"g","size":-1,"mtime":7}]
    """
    for piece in (1, 3, 1000):
        assert [(each.name, isinstance(each, Fault)) for each in read(page, piece=piece)] == [
            ("d", False), ("f", False), ("../x", True), ("g", False),
        ]  # fmt: skip


@pytest.mark.parametrize("beginning", ["<a href='", "<!--", "<a ", "<!DOCTYPE ", "<a href=x>&"])
def test_what_never_ends_is_refused_or_passed_over_in_bounded_memory(beginning: str) -> None:
    reader = IndexReader(PAGE)
    gc.collect()
    tracemalloc.start()
    try:
        list(reader.feed(beginning))
        for _ in range(200):
            list(reader.feed("x" * 16384))
        peak = tracemalloc.get_traced_memory()[1]
    except BadResponseError:
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


# In a process of its own: what earlier tests have left to do in the background needs memory too.
LONG_PAGE = """
import tracemalloc
from fastxfer.inputs.index import IndexReader
row = '<a href="file-{0:07}.bin">file-{0:07}.bin</a>' + " " * 40 + "13-Sep-2020 12:26   12345\\n"
reader, count, size = IndexReader("PAGE"), 0, 0
piece = "".join(map(row.format, range(500)))
tracemalloc.start()
while size < 2 << 20:  # traced, it is slow; the rest without
    count += sum(1 for _ in reader.feed(piece))
    size += len(piece)
assert tracemalloc.get_traced_memory()[1] < 1 << 20
tracemalloc.stop()
while size < 16 << 20:
    count += sum(1 for _ in reader.feed(piece))
    size += len(piece)
assert count + sum(1 for _ in reader.close()) == size // len(piece) * 500
print("all of it")
"""


def test_a_long_page_is_read_in_bounded_memory() -> None:
    program = LONG_PAGE.replace("PAGE", PAGE)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("all of it\n", "")


# ---- anything at all ----

HREFS = st.lists(
    st.sampled_from(
        [
            *("..", "/", "%2f", "%2e", "\\", "a", "b.txt", "http:", "//h:8", "//evil", "base/", "dir/", "?"),
            *("#", ";", " ", "%", "%c3%a9", "é", "\0", "&amp;", "%ff", ":", "@", "[", "data:", "\u202e"),
        ]
    ),
    max_size=8,
).map("".join)
MARKS = [
    *("</a>", "<tr>", "</tr>", "<hr>", "2020-01-01 00:00 ", "5", "1K", "<!--", "-->", "<script>"),
    *(
        "</script>",
        '<td data-size="7">',
        '<time datetime="2020-01-01T00:00:00Z">',
        "<",
        "&#",
        "<![CDATA[",
        "\0",
    ),
]
PIECES = st.one_of(HREFS.map('<a href="{}">'.format), st.sampled_from(MARKS), st.text(max_size=5))


@given(st.lists(PIECES, max_size=20).map("".join), st.integers(1, 50))
def test_no_page_leads_out_of_its_folder(page: str, piece: int) -> None:
    try:
        found = read(page, piece=piece)
    except BadResponseError:
        return
    for child in (each for each in found if isinstance(each, Child)):
        assert safe_name(child.name) == child.name
        parts = urlsplit(child.url)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("http", "h:8", "", "")
        assert child.url.startswith(PAGE)
        assert unquote(child.url[len(PAGE) :].removesuffix("/")) == child.name


@given(st.text(max_size=100), st.integers(1, 50))
def test_json_of_anything_is_read_or_refused(text: str, piece: int) -> None:
    try:
        found = read('[{"name":"a"},' + text, piece=piece)
    except BadResponseError:
        return
    assert all(safe_name(each.name) for each in found if isinstance(each, Child))

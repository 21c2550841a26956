"""Input files: what stands in them is what is fetched, under safe names, and faults name their line."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import OptionError
from fastxfer.inputs import MAX_INPUT_BYTES, Entry, Inputs, parse
from fastxfer.inputs.entry import SHOWN_WARNINGS

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
BASE = ["https://h/base"]


def read(text: str, format: str | None = None, base_urls: list[str] | None = None) -> Inputs:
    return parse(text.encode(), format=format, base_urls=BASE if base_urls is None else base_urls)


def one(text: str, format: str | None = None) -> Entry:
    (entry,) = read(text, format).entries
    return entry


def names(found: Inputs) -> list[str]:
    return [entry.name for entry in found.entries]


# ---- which format it is ----


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("http://h/a\n", "list"),
        ("\ufeff# c\n\nhttp://h/a\n", "list"),
        ("http://h/a\thttp://i/a\n", "aria2"),
        ("http://h/a\n  out=b\n", "aria2"),
        ("http://h/a\r\n\tout=b\r\n", "aria2"),
        (f"{MD5}  a\n", "checksums"),
        (f"\\{MD5} *a\\\\b\n", "checksums"),
        (f"MD5 (a) = {MD5}\n", "checksums"),
        (' \n<metalink xmlns="urn:ietf:params:xml:ns:metalink"/>', "metalink"),
    ],
)
def test_the_format_is_recognised_by_content(text: str, format: str) -> None:
    try:
        assert read(text).format == format
    except OptionError as error:
        assert (format, str(error)) in {
            ("metalink", "the input file names nothing to fetch"),
            ("checksums", "line 1: 'a\\\\b' is not safe as a path: 'a\\\\b' holds a slash"),
        }


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_file_that_names_nothing_is_an_error(text: str) -> None:
    with pytest.raises(OptionError, match="names nothing to fetch"):
        read(text)


def test_a_file_of_no_known_format_is_an_error_that_lists_them() -> None:
    with pytest.raises(OptionError, match="list, aria2, checksums, metalink"):
        read("hello\n")


def test_a_format_can_be_forced_and_must_be_one() -> None:
    with pytest.raises(OptionError, match="line 1: a URL without a scheme"):
        read(f"{MD5}\n", "list")
    with pytest.raises(OptionError, match="must be one of"):
        read("http://h/a", "yaml")


def test_what_is_not_utf8_names_its_line() -> None:
    with pytest.raises(OptionError, match="line 3: not UTF-8"):
        parse(b"http://h/a\n\nhttp://h/\xff\n")


def test_a_file_that_is_too_long_is_refused() -> None:
    with pytest.raises(OptionError, match="over 64 MiB"):
        parse(b"#" * (MAX_INPUT_BYTES + 1))


# ---- lists ----


def test_a_list_is_a_url_a_line() -> None:
    found = read("# mine\nhttp://h/a\n\n  https://i/b?x=1  \r\n")
    assert [(entry.urls, entry.name, entry.where) for entry in found.entries] == [
        (("http://h/a",), "a", "line 2"),
        (("https://i/b?x=1",), "b", "line 4"),
    ]


def test_what_is_said_twice_is_fetched_once() -> None:
    found = read("http://h/a\nhttp://h/a\n")
    assert names(found) == ["a"]
    assert found.warnings == ("line 2: repeats line 1",)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("http://h/a\nhttp://i/a\n", "line 2: 'a' and 'a' are the same name"),
        ("http://h/a\nhttp://h/b\nhttp://h/A\nhttp://h/c\n", "line 3: 'a' and 'A' differ only by case"),
        ("http://h/a\nhttp://h/a.part\n", "line 2: 'a' and 'a.part'"),
        ("http://h/a\nhttp://h/\n", "line 2: the URL has no file name"),
        ("http://h/%2e%2e\n", "line 1: '..' is not safe"),
        ("http://h/a%2fb\n", "line 1: 'a%2fb' is not safe"),
        ("ftp://h/a\n", "line 1: scheme 'ftp': an object needs a URL"),
        ("http://h/a b\n", "line 1: the URL has a space"),
        ("http://[h/a\n", "line 1: a URL cannot be read"),
    ],
)
def test_a_bad_line_of_a_list_is_named(text: str, fault: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(text, "list")
    assert str(caught.value).startswith(fault)


def test_secrets_are_in_no_fault() -> None:
    for text in ("http://u:hush@[h/a", "ftp://u:hush@h/a", "http://u:hush@h/a b", "http://u:hush@h/"):
        with pytest.raises(OptionError) as caught:
            read(text + "\n", "list")
        assert "hush" not in str(caught.value)


# ---- aria2 ----


def test_an_aria2_file_has_mirrors_and_options() -> None:
    entry = one(
        "# aria2\nhttp://h/a\thttp://i/a\n  out=b\n  dir=./c/\n  header=A: b\n  header=C: d\n"
        "  user-agent=me\n"
        f"  referer=*\n  checksum=sha-256={SHA256}\n  split=8\n  max-connection-per-server=3\n  pause=true\n"
        "  max-download-limit=1M\n  http-user=u\n  http-passwd=p\n  all-proxy=http://p:1\n  continue=true\n"
        "  gid=0123456789abcdef\n  connect-timeout=5\n  timeout=6\n  max-tries=3\n  check-certificate=false\n"
        "  # a comment\n"
    )
    assert entry.urls == ("http://h/a", "http://i/a")
    assert (entry.name, entry.where, entry.paused) == ("c/b", "line 2", True)
    assert entry.options == {
        "headers": ["A: b", "C: d", "User-Agent: me", "Referer: http://h/a"],
        "checksum": f"sha-256={SHA256}",
        "connections": 3,
        "max_rate": "1M",
        "auth": ("u", "p"),
        "proxy": "http://p:1",
        "connect_timeout": "5",
        "stall_timeout": "6",
        "retries": 2,
        "verify_tls": "false",
    }


@pytest.mark.parametrize(("text", "retries"), [("0", 999), ("1", 0), ("5", 4), ("999999", 1000)])
def test_tries_become_retries(text: str, retries: int) -> None:
    assert one(f"http://h/a\n max-tries={text}\n").options["retries"] == retries


def test_unknown_options_and_other_schemes_are_warnings_said_once() -> None:
    found = read("http://h/a\tftp://h/a\n x=1\nhttp://h/b\n x=2\n y=3\n")
    assert names(found) == ["a", "b"]
    assert found.warnings == (
        "line 1: scheme 'ftp' is not supported; the object is fetched from its other URLs",
        "line 2: the option 'x' has no meaning here and no effect",
        "line 5: the option 'y' has no meaning here and no effect",
    )


def test_many_warnings_do_not_flood() -> None:
    found = read("http://h/a\n" + "".join(f" x{i}=1\n" for i in range(1000)))
    assert len(found.warnings) == SHOWN_WARNINGS + 1
    assert found.warnings[-1] == f"and {1000 - SHOWN_WARNINGS} more of such"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("out=../b", "line 1: '../b' is not safe as a path"),
        ("out=/etc/passwd", "line 1: '/etc/passwd' is not safe as a path"),
        ("out=a\\b", "line 1: 'a\\\\b' is not safe"),
        ("dir=..", "line 1: '../a' is not safe"),
        ("dir=/etc", "line 2: dir: is an absolute path"),
        ("out", "line 2: an option is written name=value"),
        ("http://h/b?x=1", "line 2: an option is written name=value"),
        ("checksum=sha-256=00", "line 2: checksum: option checksum: a sha256 digest has 64 hex digits"),
        ("checksum=sha-384=00", "line 2: checksum: option checksum: algorithm 'sha-384' is not one of"),
        ("header=A", "line 2: header: option headers: a header is written 'Name: value'"),
        ("header=Range: bytes=0-1", "line 2: header: option headers: header Range is set by the transfer"),
        ("split=0", "line 2: split: must be a whole number from 1"),
        ("split=-1", "line 2: split: must be"),
        ("max-download-limit=fast", "line 2: max-download-limit: option max_rate: 'fast' is not a size"),
        ("all-proxy=gopher://h", "line 2: all-proxy: option proxy: must be a proxy's URL"),
        ("pause=maybe", "line 2: pause: must be true or false"),
        ("max-tries=x", "line 2: max-tries: must be a whole number"),
    ],
)
def test_a_bad_option_of_an_aria2_file_is_named(line: str, fault: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(f"http://h/a\n  {line}\n", "aria2")
    assert str(caught.value).startswith(fault)


def test_an_option_before_any_url_is_named() -> None:
    with pytest.raises(OptionError, match="line 2: an option without a URL before it"):
        read("# c\n out=a\nhttp://h/a\n", "aria2")


def test_absolute_directories_are_allowed_on_demand() -> None:
    (entry,) = parse(b"http://h/a\n dir=/data/x\n out=b/c\n", any_dir=True).entries
    assert (entry.directory, entry.name) == ("/data/x", "b/c")


# ---- checksums ----


def test_checksums_of_all_forms() -> None:
    found = read(
        f"{MD5}  a b\n{SHA256} *./c/d\n\n# c\nSHA256 (e (f) g) = {SHA256}\nMD5(h)= {MD5}\n{MD5}  *star\n"
    )
    assert [(entry.name, entry.urls[0], entry.options["checksum"]) for entry in found.entries] == [
        ("a b", "https://h/base/a%20b", {"md5": MD5}),
        ("c/d", "https://h/base/c/d", {"sha256": SHA256}),
        ("e (f) g", "https://h/base/e%20%28f%29%20g", {"sha256": SHA256}),
        ("h", "https://h/base/h", {"md5": MD5}),
        ("*star", "https://h/base/%2Astar", {"md5": MD5}),
    ]


def test_names_are_escaped_in_the_url_and_mirrors_are_more_bases() -> None:
    (entry,) = read(f"{MD5}  a#b?c%d\n", "checksums", ["http://h/x/", "http://i"]).entries
    assert entry.urls == ("http://h/x/a%23b%3Fc%25d", "http://i/a%23b%3Fc%25d")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("nonsense", "line 2: is not a checksum and a name"),
        (f"{MD5[:-1]}  a", "line 2: is not a checksum"),
        (f"{'0' * 96}  a", "line 2: a digest of 96 hex digits is none of md5, sha1, sha256, sha512"),
        (f"SHA384 (a) = {'0' * 96}", "line 2: algorithm 'SHA384' is not one of"),
        (f"{MD5}  ../a", "line 2: '../a' is not safe"),
        (f"{MD5}  /a", "line 2: '/a' is not safe"),
        (f"\\{MD5}  a\\nb", "line 2: 'a\\nb' is not safe"),
        (f"\\{MD5}  a\\x", "line 2: the name has an escape that is none"),
        (f"{MD5}  FIRST", "line 2: 'first' and 'FIRST' differ only by case"),
        (f"{MD5}  first/x", "line 2: 'first' and 'first/x' are a file and something in a folder"),
    ],
)
def test_a_bad_line_of_checksums_is_named(line: str, fault: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(f"{MD5}  first\n{line}\n", "checksums")
    assert str(caught.value).startswith(fault)


def test_checksums_without_a_base_url_say_what_is_missing() -> None:
    with pytest.raises(OptionError, match="--base-url"):
        read(f"{MD5}  a\n", base_urls=[])


@pytest.mark.parametrize("options", [[], ["--tag"], ["--binary"]])
@pytest.mark.parametrize("program", ["md5sum", "sha1sum", "sha256sum", "sha512sum"])
def test_what_the_system_writes_is_read(tmp_path: Path, program: str, options: list[str]) -> None:
    told = {}
    for name in ("plain", "with space", "sub/é", "(a) = b", "*c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        told[name] = hashlib.new(program[:-3], name.encode()).hexdigest()
    sums = subprocess.run(
        [program, *options, "--", *told], cwd=tmp_path, capture_output=True, check=True, timeout=60
    ).stdout
    found = parse(sums, base_urls=BASE)
    assert {entry.name: entry.options["checksum"] for entry in found.entries} == {
        name: {program[:-3]: digest} for name, digest in told.items()
    }


# ---- Metalink ----

V4 = '<metalink xmlns="urn:ietf:params:xml:ns:metalink">{}</metalink>'
V3 = '<metalink version="3.0" xmlns="http://www.metalinker.org/"><files>{}</files></metalink>'


def test_metalink_4() -> None:
    # Of the shape of RFC 5854 section 1.1.
    entry = one(
        '<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n'
        '<published>2009-05-15T12:23:23Z</published>\n<file name="dir/example.ext">\n<size>14</size>'
        f"<identity>Example</identity><hash type=\"md5\">{MD5}</hash><hash type='sha-256'>\n{SHA256}\n</hash>"
        f'<hash type="x-new">zz</hash><pieces length="10" type="md5"><hash>{MD5}</hash><hash>{MD5}</hash>'
        "</pieces>"
        '<url>http://last/x</url><url location="de" priority="2">http://second/x</url>'
        '<url priority="1">https://first/x</url><url priority="3">ftp://f/x</url>'
        '<metaurl mediatype="torrent" priority="1">http://h/t.torrent</metaurl></file></metalink>'
    )
    assert entry.urls == ("https://first/x", "http://second/x", "http://last/x")
    assert (entry.name, entry.size, entry.options) == (
        "dir/example.ext",
        14,
        {"checksum": {"sha256": SHA256}},
    )
    assert entry.pieces is not None
    assert (entry.pieces.algorithm, entry.pieces.length, entry.pieces.digests) == ("md5", 10, (MD5, MD5))


def test_metalink_3() -> None:
    entry = one(
        V3.format(
            '<file name="a"><size>20</size><version>1</version><verification>'
            f'<hash type="md5">{MD5}</hash><pieces length="20" type="md5"><hash piece="0">{MD5}</hash>'
            "</pieces>"
            '</verification><resources><url type="http" preference="10">http://second/a</url>'
            '<url type="https" location="us" preference="90">https://first/a</url>'
            '<url type="bittorrent" preference="100">http://h/t</url></resources></file>'
        )
    )
    assert entry.urls == ("https://first/a", "http://second/a")
    assert (entry.size, entry.options) == (20, {"checksum": {"md5": MD5}})
    assert entry.pieces is not None and entry.pieces.digests == (MD5,)


def test_elements_of_others_mean_nothing() -> None:
    entry = one(
        V4.format(
            '<file name="a"><url>http://h/a</url><size xmlns="urn:x">9</size>'
            '<x:url xmlns:x="urn:x">http://evil/a</x:url></file>'
        )
    )
    assert (entry.urls, entry.size) == (("http://h/a",), None)


URL = "<url>http://h/a</url>"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (V4.format(f'\n<file name="../a">{URL}</file>'), "line 2: '../a' is not safe"),
        (V4.format(f'<file name="/etc/a">{URL}</file>'), "line 1: '/etc/a' is not safe"),
        (V4.format(f'<file name="a&#10;b">{URL}</file>'), "line 1: 'a\\nb' is not safe"),
        (V4.format(f"<file>{URL}</file>"), "line 1: a file without a name"),
        (V4.format('<file name="a"></file>'), "line 1: no URL"),
        (V4.format('<file name="a"><url>file:///etc/a</url></file>'), "line 1: scheme 'file'"),
        (
            V4.format(f'<file name="a">\n<size>-1</size>{URL}</file>'),
            "line 2: the size must be a whole number",
        ),
        (V4.format(f'<file name="a"><size>{2**63}</size>{URL}</file>'), "line 1: the size must be"),
        (V4.format(f'<file name="a"><hash type="md5">00</hash>{URL}</file>'), "line 1: a md5 digest has 32"),
        (
            V4.format('<file name="a"><url priority="x">http://h/a</url></file>'),
            "line 1: the priority must be",
        ),
        (
            V4.format(f'<file name="a"><pieces length="0" type="md5"/>{URL}</file>'),
            "line 1: pieces of no length",
        ),
        (
            V4.format(
                f'<file name="a"><size>9</size><pieces length="3" type="md5"><hash>{MD5}</hash></pieces>'
                f"{URL}</file>"
            ),
            "line 1: 1 pieces do not make the file's size",
        ),
        (
            V4.format(f'<file name="a">{URL}</file><file name="A">{URL}</file>'),
            "line 1: 'a' and 'A' differ only",
        ),
        (V4.format('<file name="a">')[:-5], "line 1: not XML"),
        ("<metalink/>", "not a Metalink"),
        ("<html></html>", "not a Metalink"),
        (V4.format("<a>" * 100), "line 1: elements within elements, more than 64 deep"),
        ("<!DOCTYPE metalink>" + V4, "the Metalink has a document type"),
    ],
)
def test_a_bad_metalink_is_named(text: str, fault: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(text, "metalink")
    assert str(caught.value).startswith(fault)


def test_a_metalink_that_would_grow_is_refused() -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 30))
    with pytest.raises(OptionError, match="document type"):
        read(f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]>' + V4.format("&e29;"))


def test_an_encoding_that_is_claimed_changes_nothing() -> None:
    entry = one('<?xml version="1.0" encoding="utf-7"?>' + V4.format(f'<file name="é">{URL}</file>'))
    assert entry.name == "é"


# ---- properties ----

NAMES = st.lists(
    st.text(st.sampled_from("abcdefgh 0123-_()*%"), min_size=1, max_size=12).filter(
        lambda n: n[-1] not in " "
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda name: name.lower(),
)


@given(NAMES, st.booleans())
def test_what_is_written_as_checksums_reads_back(found: list[str], tagged: bool) -> None:
    safe = [f"x{name}" for name in found if "%2" not in name and "%5" not in name and "%0" not in name]
    lines = [f"MD5 ({name}) = {MD5}" if tagged else f"{MD5}  {name}" for name in safe]
    if safe:
        assert names(read("\n".join(lines), "checksums")) == safe


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True), st.sampled_from(["\n", "\r\n"]))
def test_every_line_of_a_list_is_an_entry_in_its_order(numbers: list[int], end: str) -> None:
    found = read(end.join(f"http://h/d/f{number}?token=x" for number in numbers))
    assert names(found) == [f"f{number}" for number in numbers]
    assert [entry.where for entry in found.entries] == [f"line {i}" for i in range(1, len(numbers) + 1)]


@given(st.permutations(range(1, 7)))
def test_urls_come_by_priority(order: list[int]) -> None:
    urls = "".join(f'<url priority="{rank}">http://h{rank}/a</url>' for rank in order)
    assert one(V4.format(f'<file name="a">{urls}</file>')).urls == tuple(
        f"http://h{n}/a" for n in range(1, 7)
    )

"""Manifests: each record is an entry or a named fault, however the bytes come, and reading goes on behind any
of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import OptionError
from fastxfer.inputs.entry import Entry, Fault
from fastxfer.inputs.manifest import MAX_LINE, STREAMED, Position, Row, format_of, rows
from fastxfer.names import safe_path

SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
BASE = ["https://h/base"]
META4 = '<metalink xmlns="urn:ietf:params:xml:ns:metalink">{}</metalink>'


def read(
    text: str | bytes, format: str, *, piece: int = 1 << 20, base: bool = True, start: Position | None = None
) -> list[Row]:
    data = text if isinstance(text, bytes) else text.encode()
    offset = start.offset if start else 0
    chunks = (data[at : at + piece] for at in range(offset, len(data), piece))
    return list(rows(chunks, format, base_urls=BASE if base else (), head=data[:65536], start=start))


def one(text: str, format: str) -> Entry:
    (row,) = read(text, format)
    assert isinstance(row.told, Entry), row
    return row.told


def faults(text: str | bytes, format: str) -> list[tuple[int, str, str]]:
    return [
        (row.told.line, row.told.name, row.told.reason)
        for row in read(text, format)
        if isinstance(row.told, Fault)
    ]


def names(text: str | bytes, format: str) -> list[str]:
    return [row.told.name for row in read(text, format) if isinstance(row.told, Entry)]


# ---- what format it is ----


@pytest.mark.parametrize(
    ("name", "head", "format"),
    [
        ("a.csv", "", "csv"), ("a.TSV", "", "tsv"), ("a.jsonl", "", "jsonl"), ("a.ndjson", "", "jsonl"),
        ("a.parquet", "", "parquet"), ("a.meta4", "", "metalink"), ("a", "PAR1\x15", "parquet"),
        ("a.txt", "url,path\n", "csv"),
        ("a", '\ufeff# c\n"Path","URL"\r\n', "csv"), ("a", "size\turl\n", "tsv"),
        ("a", ' {"url": "x"}', "jsonl"), ("a", "\n<?xml", "metalink"),
        ("SHA256SUMS", f"{SHA256}  a\n", "checksums"),
        ("a", "http://h/a\n", "list"), ("a", "# nothing\n", "list"), ("-", "", "list"),
    ],
)  # fmt: skip
def test_the_format_is_recognised(name: str, head: str, format: str) -> None:
    assert format_of(name, head.encode()) == format


def test_what_is_no_manifest_is_an_error() -> None:
    with pytest.raises(OptionError, match="none that is known"):
        format_of("a", b"hello\nworld")
    with pytest.raises(OptionError, match="must be one of"):
        rows([], "yaml")


# ---- tables ----

FULL = Entry(
    ("http://h/a%20b", "http://m/1", "http://m/2"), "d/a b", None, {"checksum": {"sha256": SHA256}}, 7,
    where="line 2", mtime=1600000000.0, etag='"v"',
)  # fmt: skip


def test_a_record_has_everything_in_any_order() -> None:
    said = {
        "path": "d/a b", "url": "http://h/a%20b", "mirrors": "http://m/1 http://m/2", "size": "7",
        "unknown": "x",
        "checksum": f"sha256:{SHA256}", "mtime": "2020-09-13T12:26:40Z", "etag": '"v"',
    }  # fmt: skip
    quoted = {name: '"' + value.replace('"', '""') + '"' for name, value in said.items()}
    assert one(",".join(quoted) + "\n" + ",".join(quoted.values()), "csv") == FULL
    assert one("\t".join(quoted).upper() + "\r\n" + "\t".join(quoted.values()) + "\r\n", "tsv") == FULL
    assert one("\n" + json.dumps(said), "jsonl") == FULL
    typed = {
        **said,
        "mirrors": ["http://m/1", "http://m/2"],
        "size": 7,
        "mtime": 1600000000,
        "checksum": {"sha256": SHA256},
    }
    assert one("\n" + json.dumps(typed), "jsonl") == FULL


def test_what_is_missing_is_taken_from_the_rest() -> None:
    assert one("url\nhttp://h/d/a%C3%A9\n", "csv").name == "aé"
    below = one("path,size\nd/a b+%41,\n", "csv")
    assert (below.urls, below.name, below.size) == (("https://h/base/d/a%20b%2B%2541",), "d/a b+%41", None)
    assert one(f'{{"url":"http://h/a","checksum":"{SHA256}","mtime":null}}', "jsonl").options == {
        "checksum": {"sha256": SHA256}
    }


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"url": "http://h/x", "path": "../x"}, "not safe as a path"),
        ({"url": "http://h/x", "path": "/etc/passwd"}, "not safe"),
        ({"url": "http://h/x", "path": "a\x00b"}, "control character"),
        ({"url": "http://h/x", "path": "a\ud800"}, "control character"),
        ({"url": "http://h/%2e%2e"}, "not safe"),
        ({"url": "file:///etc/passwd", "path": "x"}, "http"),
        ({"url": "http://h/a b"}, "space"),
        ({"url": "http://h/a\u202e"}, "space or a control"),
        ({"url": "http://[/x", "path": "x"}, "no sense"),
        ({"url": 5}, "must be a text"),
        ({"size": 1}, "no url, and no path"),
        ({"url": "http://h/a", "size": -1}, "size"),
        ({"url": "http://h/a", "size": True}, "size"),
        ({"url": "http://h/a", "size": 1.5}, "size"),
        ({"url": "http://h/a", "size": "9" * 25}, "size"),
        ({"url": "http://h/a", "size": 2**63}, "size"),
        ({"url": "http://h/a", "mtime": "yesterday"}, "mtime"),
        ({"url": "http://h/a", "mtime": 1e300}, "mtime"),
        ({"url": "http://h/a", "mtime": "nan"}, "mtime"),
        ({"url": "http://h/a", "mirrors": [1]}, "mirrors"),
        ({"url": "http://h/a", "checksum": "sha256:zz"}, "sha256"),
        ({"url": "http://h/a", "checksum": "ab" * 24}, "no algorithm"),
        ({"url": "http://h/a", "checksum": [1]}, "checksum"),
    ],
)
def test_a_faulty_record_is_named_and_the_rest_is_read(record: dict[str, object], fault: str) -> None:
    good = '{"url": "http://h/good"}'
    found = read("\n".join((good, json.dumps(record), good)), "jsonl")
    assert [type(row.told) for row in found] == [Entry, Fault, Entry]
    told = found[1].told
    assert isinstance(told, Fault) and told.line == 2 and fault in told.reason, told
    assert told.name.isprintable() and not told.reason.startswith("line")


def test_a_fault_has_no_secret_in_it() -> None:
    text = '{"url": "ftp://user:canary@h/a?canary"}\n{"url": "http://u:canary@h/a%2fb?token=canary"}\n'
    assert [name for _, name, _ in faults(text, "jsonl")] == ["ftp://h/a", "http://h/a%2fb"]
    assert "canary" not in repr(read(text, "jsonl"))
    assert "canary" not in repr(
        faults("http://u:canary@h/a b?canary\nhttp://u:canary@h/b\n  split=0\n", "list")
    )


@pytest.mark.parametrize("line", ["[]", "nothing", "{", "5", '"x"', "[" * 5000])
def test_a_line_that_is_no_object_is_named(line: str) -> None:
    assert [number for number, _, _ in faults(line + '\n{"url":"http://h/a"}', "jsonl")] == [1]


def test_a_table_without_its_columns_is_an_error() -> None:
    for text in ("", "name,size\nx,1\n", "http://h/a,b\n"):
        with pytest.raises(OptionError, match="names no column url"):
            read(text, "csv")
    with pytest.raises(OptionError, match="names no column url"):
        read("path\na\n", "csv", base=False)
    with pytest.raises(OptionError, match="base URL"):
        read(f"{SHA256}  a\n", "checksums", base=False)


def test_a_quote_that_is_never_closed_costs_its_line_only() -> None:
    text = 'url\nhttp://h/a\n"http://h/b\n' + "".join(f"http://h/c{n}\n" for n in range(500)) + '"http://h/d'
    assert [line for line, _, _ in faults(text, "csv")] == [3, 504]
    assert names(text, "csv") == ["a", *(f"c{n}" for n in range(500))]


def test_a_quoted_line_end_is_of_the_record() -> None:
    found = read('url,path\nhttp://h/a,"x\ny"\nhttp://h/b,"z"\n', "csv")
    assert [row.line for row in found] == [2, 4]
    assert isinstance(found[0].told, Fault) and "control" in found[0].told.reason


def test_a_line_that_is_too_long_or_not_utf8_is_named_and_not_kept() -> None:
    long = b'{"url": "http://h/' + b"x" * (3 * MAX_LINE) + b'"}\n'
    data = long + b'{"url": "http://h/a"}\n{"url": "http://h/\xff"}\n{"url": "http://h/b"}\n' + long.strip()
    for piece in (MAX_LINE // 3, 1 << 24):
        found = read(data, "jsonl", piece=piece)
        assert [(row.line, type(row.told)) for row in found] == [
            (1, Fault), (2, Entry), (3, Fault), (4, Entry), (5, Fault),
        ]  # fmt: skip
        assert found[1].after.offset == len(long) + 22


# ---- lists, checksums, Metalink ----


def test_a_list_has_urls_and_perhaps_options() -> None:
    text = "# c\nhttp://h/a\nhttp://h/b\thttp://m/b\n  out=c\n\n  # d\nftp://h/x\n  out=y\n"
    text += "http://h/d\n  out=../e\n"
    assert names(text, "list") == ["a", "c"]
    assert [(line, name) for line, name, _ in faults(text, "list")] == [(7, "ftp://h/x"), (9, "http://h/d")]
    lonely = faults(" out=x\nhttp://h/a\n  dir=/etc\n", "list")
    assert [(line, reason.split(":")[0]) for line, _, reason in lonely] == [
        (1, "an option without a URL before it"),
        (3, "dir"),
    ]


def test_a_list_of_checksums_is_below_the_base() -> None:
    text = f"# c\n{SHA256}  ./d/a b\n{SHA256} *../x\nnothing\nSHA256 (e) = {SHA256}\n"
    assert names(text, "checksums") == ["d/a b", "e"]
    assert [line for line, _, _ in faults(text, "checksums")] == [3, 4]


def test_a_relative_url_is_of_the_base() -> None:
    def urls(url: str) -> tuple[str, ...]:
        return one(json.dumps({"url": url, "path": "p"}), "jsonl").urls

    assert urls("d/a%20b?x=1") == ("https://h/base/d/a%20b?x=1",)
    assert urls("../a") == ("https://h/a",)
    assert urls("/a") == ("https://h/a",)
    assert one('{"url": "d/a%20b"}', "jsonl").name == "a b"
    (row,) = read('{"url": "d/a"}', "jsonl", base=False)
    assert isinstance(row.told, Fault) and "without a scheme" in row.told.reason


def test_a_base_in_a_store_has_keys_as_they_are_called_and_lets_no_record_name_another() -> None:
    def told(text: str, format: str) -> list[Entry | Fault]:
        return [row.told for row in rows([text.encode()], format, base_urls=["s3://b/d"], head=text.encode())]

    (entry,) = told(f"{SHA256}  a b+%41\n", "checksums")
    assert isinstance(entry, Entry) and entry.urls == ("s3://b/d/a b+%41",)
    below, mirrored, elsewhere = told(
        "url,path,mirrors\n,a b,\n,c,http://h/c s3://other/c\ns3://other/x,x,\n", "csv"
    )
    assert isinstance(below, Entry) and below.urls == ("s3://b/d/a b",)
    assert isinstance(mirrored, Entry) and mirrored.urls == ("s3://b/d/c", "http://h/c")
    assert isinstance(elsewhere, Fault) and "scheme 's3'" in elsewhere.reason


def test_a_metalink_is_read_file_by_file() -> None:
    def file(name: str, more: str = "") -> str:
        return f'<file name="{name}"><size>5</size>{more}<url>http://h/{name}</url></file>\n'

    bad = '<hash type="sha-256">zz</hash>'
    text = META4.format(file("a") + file("../b") + file("c", bad) + file("d", "<size>-1</size>") + file("e"))
    for piece in (1, 10, 1 << 20):
        found = read(text, "metalink", piece=piece)
        assert [row.told.name for row in found] == ["a", "../b", "c", "d", "e"]
        assert [isinstance(row.told, Entry) for row in found] == [True, False, False, False, True]
    assert [row.told.name for row in read(text, "metalink", start=found[2].after)] == ["d", "e"]


@pytest.mark.parametrize(
    "text",
    ["<!DOCTYPE x>" + META4.format(""), META4.format("<file name='a'>"), META4.format("</x>"), "<x/>",
     "hello",
     META4.format("<file name='a'><url>" + "x" * 100_000)],
)  # fmt: skip
def test_what_is_no_metalink_is_an_error(text: str) -> None:
    with pytest.raises(OptionError):
        read(text, "metalink")


# ---- going on, and anything at all ----


def a_manifest(format: str, count: int) -> Iterator[str]:
    if format in ("csv", "tsv"):
        yield ("," if format == "csv" else "\t").join(("path", "url")) + "\r\n"
    if format == "metalink":
        yield '<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n'
    for n in range(count):
        url, path = f"http://h/é{n}", f"d{n}/é"
        yield {
            "csv": f'"{path}",{url}\n', "tsv": f"{path}\t{url}\r\n", "checksums": f"{SHA256}  {path}\n\n",
            "jsonl": json.dumps({"url": url, "path": path}) + "\n", "list": f"{url}\n  out={path}\n",
            "metalink": f"<file name='{path}'><url>{url}</url></file>",
        }[format]  # fmt: skip
        if n % 5 == 3:
            yield {"metalink": "<!-- c -->", "csv": '"broken\n', "tsv": '"broken\n'}.get(
                format, "\n# broken\n"
            )
    if format == "metalink":
        yield "</metalink>"


@pytest.mark.parametrize("format", STREAMED)
def test_reading_goes_on_behind_any_record(format: str) -> None:
    text = "\ufeff" + "".join(a_manifest(format, 20))
    whole = read(text, format)
    assert sum(isinstance(row.told, Entry) for row in whole) == 20
    for piece in (1, 13):
        assert read(text, format, piece=piece) == whole
    for at, row in enumerate(whole):
        assert read(text, format, start=row.after) == whole[at + 1 :]


@pytest.mark.parametrize(
    ("text", "mtime"),
    [("1600000000", 1.6e9), ("2020-09-13 12:26:40", 1.6e9), ("2020-09-13T14:26:40+02:00", 1.6e9), ("", None)],
)
def test_times(text: str, mtime: float | None) -> None:
    assert one(f"url,mtime\nhttp://h/a,{text}\n", "csv").mtime == mtime
    assert datetime.fromtimestamp(1.6e9, timezone.utc).hour == 12


MARKS = [
    "url",
    "path",
    ",",
    '"',
    "\n",
    "\r\n",
    "http://h/",
    "../",
    "a",
    "{",
    "}",
    '{"url":"http://h/a"}',
    "\t",
    SHA256 + "  a",
    " out=",
    "\ufeff",
    "%2f",
    "<",
    "\0",
    "é",
    "://[",
]


@given(
    st.sampled_from(STREAMED),
    st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=3)), max_size=20),
    st.integers(1, 20),
)
def test_anything_is_entries_and_faults_of_safe_names_or_an_error(
    format: str, pieces: list[str], piece: int
) -> None:
    text = "".join(pieces).encode("utf-8", "surrogatepass")
    if format in ("csv", "tsv"):
        text = (b"url,path\n" if format == "csv" else b"url\tpath\n") + text
    try:
        found = read(text, format, piece=piece)
    except OptionError:
        assert format == "metalink"
        return
    for row in found:
        if isinstance(row.told, Entry):
            assert safe_path(row.told.name) and row.told.urls[0].startswith("http")
        else:
            assert row.told.name.isprintable() and row.told.reason
    assert read(text, format) == found

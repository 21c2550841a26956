"""For each target: inputs that have its structure, with something wrong in it now and then."""

from __future__ import annotations

import json
import struct
from dataclasses import fields

from hypothesis import strategies as st

from fastxfer._native.checksum import crc64nvme
from fastxfer.options import TransferOptions
from tests.fuzz.storage_targets import PART, PART_BYTES, slot

Bytes = st.SearchStrategy[bytes]

NUMBERS = st.one_of(
    st.integers(0, 1100),
    st.sampled_from([2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**19, 10**30]),
).map(lambda number: b"%d" % number)
SPACES = st.sampled_from([b"", b"", b"", b" ", b"  ", b"\t", b"\x0b", b"\xa0", b"\x85"])
ODD = st.one_of(st.binary(max_size=6), st.sampled_from([b"-", b"*", b"/", b",", b";", b"\0", b"\x1b[2J"]))


def joined(*parts: Bytes) -> Bytes:
    """Returns the parts one after the other, rarely with something odd between two of them."""
    between = st.one_of(st.just(b""), st.just(b""), st.just(b""), st.just(b""), st.just(b""), ODD)
    pieces = [piece for part in parts for piece in (part, between)]
    return st.tuples(*pieces).map(b"".join)


def words(*choices: bytes) -> Bytes:
    """Returns one of these words, or anything short."""
    return st.one_of(st.sampled_from(choices), st.sampled_from(choices), st.sampled_from(choices), ODD)


STAR_OR_NUMBER = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.just(b"*"))
CONTENT_RANGE = joined(
    SPACES, words(b"bytes", b"Bytes", b"items"), words(b" ", b"="),
    st.one_of(st.just(b"*"), joined(NUMBERS, SPACES, st.just(b"-"), SPACES, NUMBERS)),
    SPACES, st.just(b"/"), STAR_OR_NUMBER, SPACES,
)  # fmt: skip
SPEC = st.tuples(st.one_of(NUMBERS, st.just(b"")), st.one_of(NUMBERS, st.just(b""))).map(b"-".join)
RANGE = joined(words(b"bytes", b"items"), st.just(b"="), st.lists(SPEC, max_size=5).map(b",".join))
DATE = st.one_of(
    joined(
        words(b"Sun, ", b"Sunday, ", b""), words(b"06", b"31", b"0"), words(b" ", b"-"),
        words(b"Nov", b"Feb", b"nov"), words(b" ", b"-"), words(b"1994", b"94", b"9999", b"0001", b"10000"),
        words(b" "), words(b"08:49:37", b"24:00:00", b"08:49:60", b"8.49.37"),
        words(b" "), words(b"GMT", b"", b"+9999", b"-2359", b"EST", b"+99999999999"),
    ),
    st.just(b"Sun Nov  6 08:49:37 1994"),
)  # fmt: skip
RETRY_AFTER = st.one_of(joined(words(b"", b"-", b"+"), NUMBERS), DATE)

ETAG = words(b'"v1"', b'W/"v1"', b'"v2"', b'""', b"bare", b'"\xe9\x80"', b'"' + b"e" * 5000 + b'"')
URL = joined(
    words(b"http://", b"https://", b"HTTP://", b"//", b"file://", b""),
    words(b"", b"user:pa%20ss@", b"user@", b"a@b@", b":@", b"u:%ED%A0%80@"),
    words(
        *(b"example.org", b"127.0.0.1", b"[::1]", b"[::1%25lo]", b"[v1.x]", b"b\xc3\xbccher.example"),
        *(b"xn--", b"a" * 70, b"%65xample.org", b"", b"[", b"0x7f.1"),
    ),
    words(b"", b":80", b":0", b":65536", b":", b":-1", b":\xd9\xa1"),
    words(b"/", b"/dir/data.bin", b"/../x", b"/%2e%2e", b"\\x", b"/%00", b"/\xc3\xa9", b""),
    words(b"", b"?q=1", b"?", b"#f", b"?\xff"),
)
NAME = st.one_of(
    st.lists(
        words(
            *(b"data.bin", b"..", b".", b"/", b"\\", b"%2f", b"%5C", b"%00", b"%25", b"%252f", b"CON", b"."),
            *(b"nul.txt", b" ", b":", b"\xc3\xa9", b"\xff", b"a" * 250, b"\xe2\x80\xae", b"%c3%a9", b"%ff"),
        ),
        max_size=5,
    ).map(b"".join),
    st.binary(max_size=300),
)
PATHS = st.lists(
    st.lists(
        words(
            *(
                b"a",
                b"A",
                b"\xc3\xa9",
                b"e\xcc\x81",
                b"\xc3\x89",
                b"a.part",
                b"a.part.ckpt",
                b"..",
                b"",
                b"~",
            ),
            *(b"\xe2\x80\x8d", b"\xef\xac\x81", b"fi", b"%2e%2e", b"b" * 250),
        ),
        max_size=4,
    ).map(b"/".join),
    max_size=5,
).map(b"\n".join)
CHECKSUM = joined(
    words(b"sha256", b"sha-256", b"SHA_1", b"md5", b"crc32c", b"crc64nvme", b"blake3", b"sha3"),
    words(b":", b"=", b" : "),
    st.one_of(
        st.sampled_from([8, 16, 32, 40, 64, 128]).map(lambda length: b"aF" * (length // 2)),
        st.sampled_from([b":1B2M2Y8AsgTpgAmY7PhCfg==:", b"rO0A", b"=" * 44, b"\xd9\xa1" * 64]),
    ),
)
SIZE = joined(
    SPACES, st.one_of(NUMBERS, st.just(b"1.5"), st.just(b"0.9999999999999999999")), SPACES,
    words(b"", b"K", b"m", b"G", b"T", b"P", b"\xe2\x84\xaa"), words(b"", b"B", b"iB", b"\xc4\xb1B"), SPACES,
)  # fmt: skip
OPTIONS = [field.name.encode() for field in fields(TransferOptions)]
TYPED = st.one_of(SIZE, CHECKSUM, URL, joined(words(b"X-A", b"Cookie"), words(b": ", b":"), ETAG))


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """An answer's head, line by line: most of it a 206's as it should be."""
    value = {
        b"Content-Range": CONTENT_RANGE, b"Content-Length": STAR_OR_NUMBER, b"ETag": ETAG,
        b"Last-Modified": DATE, b"Retry-After": RETRY_AFTER, b"Location": URL,
        b"Content-Encoding": words(b"identity", b"gzip", b""), b"Transfer-Encoding": words(b"chunked", b"x"),
        b"Content-Type": words(b"multipart/byteranges; boundary=x", b"text/html"),
    }  # fmt: skip
    status = draw(words(b"206", b"200", b"416", b"302", b"503", b"412", b"404", b"100", b"1e3", b"999"))
    lines = [draw(words(b"HTTP/1.1", b"HTTP/2", b"HTTP/")) + b" " + status + draw(words(b"", b" OK"))]
    good = {
        b"Content-Range": b"bytes 100-199/1000",
        b"Content-Length": b"100",
        b"ETag": b'"v1"',
        b"Last-Modified": b"Wed, 01 Jan 2025 00:00:00 GMT",
    }
    for name in draw(st.lists(st.sampled_from(sorted(value)), max_size=6)):
        text = draw(st.one_of(st.just(good.get(name, b"")), value[name]))
        lines.append(name + draw(words(b": ", b":", b" : ", b"")) + text)
    early = [b"HTTP/1.1 103 Early Hints", b"Link: <x>", b""] if draw(st.booleans()) else []
    end = draw(words(b"\r\n", b"\n"))
    return b"".join(line + end for line in [*early, *lines, b""])


@st.composite
def descriptions(draw: st.DrawFn) -> bytes:
    """A checkpoint's description, a NUL, and its bitmaps; most of it as the format page has it."""
    chunk_size = draw(st.sampled_from([1, 7, 100, PART_BYTES, 2**40, 2**62]))
    large = st.sampled_from([2**41, 2**63 - 1]) if chunk_size >= 2**40 else st.just(PART_BYTES)
    size = draw(st.one_of(st.integers(0, PART_BYTES), st.just(PART_BYTES), large))
    chunks = -(-size // chunk_size) if size // chunk_size <= PART_BYTES else 0
    bits = draw(st.integers(0, 2**chunks - 1))
    durable = bits & draw(st.integers(0, 2**chunks - 1))
    crcs = [crc64nvme(PART[at * chunk_size : (at + 1) * chunk_size]) for at in range(chunks)]
    if draw(st.booleans()):
        crcs = [0] * chunks
    positions = draw(st.lists(st.integers(1, max(1, min(size, PART_BYTES))), max_size=4))
    good = {
        "url": "https://example.org/x", "url_sha256": "ab" * 32, "size": size, "etag": '"v1"',
        "last_modified": None, "chunk_size": chunk_size, "boot_id": "", "inode": 12, "device": 2049,
        "partials": [[at, f"{crc64nvme(PART[at - at % chunk_size : at]):016x}"] for at in positions],
        "paused": False,
    }  # fmt: skip
    wrong = st.one_of(
        st.none(), st.booleans(), st.integers(-1, 2**65), st.floats(), st.text(max_size=5),
        st.sampled_from(["\ud800", "\x1b[2J", [[1]], [[1, "0" * 16, 2]], {}, "x" * 4000, 1e300, "0" * 16]),
    )  # fmt: skip
    for field in draw(st.lists(st.sampled_from(sorted(good)), max_size=2)):
        good[field] = draw(wrong)
    width = -(-chunks // 8)
    bitmaps = durable.to_bytes(width, "little") + bits.to_bytes(width, "little")
    rest = draw(st.sampled_from([b"", b"", b"", b"\0"]))
    return json.dumps(good).encode() + b"\0" + bitmaps + struct.pack(f"<{chunks}Q", *crcs) + rest


def damaged(whole: Bytes) -> Bytes:
    """Returns a file with a few bytes of it overwritten, or cut off."""
    edit = st.tuples(st.integers(0, 10_000), st.binary(max_size=9))
    return st.tuples(whole, st.lists(edit, max_size=3), st.sampled_from([None, None, 4096, 100])).map(
        lambda drawn: _edited(*drawn)
    )


def _edited(whole: bytes, edits: list[tuple[int, bytes]], cut: int | None) -> bytes:
    for at, new in edits:
        whole = whole[:at] + new + whole[at + len(new) :]
    return whole[:cut]


RECORD = st.one_of(
    ETAG.map(lambda etag: b'{"etag": ' + json.dumps(etag.decode("latin-1")).encode() + b', "mtime": 0.0}'),
    st.sampled_from([b"[" * 2000, b"NaN", b'{"etag": 1}', b'{"etag": "", "mtime": NaN}', b"\xff\xfe"]),
    st.binary(max_size=40),
)
NAME_IN_A_LIST = st.one_of(
    st.sampled_from(
        [b"a", b"b/c", b"A", b"./d", b"x.part", b"..", b"../e", b"/etc/f", b"a\\\\b", b"a\\n", b"%2e"]
    ),
    NAME.map(lambda name: name.replace(b"\n", b"")),
)
HEX = st.sampled_from([32, 40, 64, 128, 33]).flatmap(lambda n: st.sampled_from([b"0" * n, b"aF" * (n // 2)]))
LIST_LINE = st.one_of(joined(URL, st.just(b"/"), NAME_IN_A_LIST), st.sampled_from([b"", b"# c", b" "]))
ARIA2_OPTION = joined(
    words(b" ", b"  ", b"\t"),
    st.sampled_from(
        b"out dir checksum header split max-connection-per-server max-download-limit user-agent referer "
        b"http-user http-passwd all-proxy pause continue gid max-tries timeout check-certificate x".split()
    ),
    st.just(b"="),
    st.one_of(
        NAME_IN_A_LIST, NUMBERS, SIZE, CHECKSUM, URL, HEX.map(b"sha-256=".__add__),
        st.sampled_from([b"true", b"*", b"A: b", b"0", b""]),
    ),
)  # fmt: skip
ARIA2_LINE = st.one_of(LIST_LINE, st.tuples(URL, URL).map(b"\t".join), ARIA2_OPTION, ARIA2_OPTION)
SUMS_LINE = st.one_of(
    joined(st.sampled_from([b"", b"\\"]), HEX, st.sampled_from([b"  ", b" *"]), NAME_IN_A_LIST),
    joined(words(b"SHA256", b"MD5", b"CRC"), st.just(b" ("), NAME_IN_A_LIST, st.just(b") = "), HEX),
)
NEW_LINE = st.sampled_from([b"\n", b"\n", b"\r\n"])


def lines(line: Bytes) -> Bytes:
    """Returns a few such lines."""
    return st.tuples(NEW_LINE, st.lists(line, max_size=8)).map(lambda drawn: drawn[0].join(drawn[1]))


XML_TEXT = st.one_of(NUMBERS, URL, HEX, st.sampled_from([b"", b" ", b"&amp;", b"&x;", b"<![CDATA[1]]>"])).map(
    lambda text: text.replace(b"\0", b"")
)
XML_TAG = st.sampled_from(
    b"file size hash url pieces files verification resources metaurl identity metalink".split()
)
XML_GIVEN = st.lists(
    st.one_of(
        NAME_IN_A_LIST.map(lambda name: b'name="%s"' % name.replace(b'"', b"")),
        st.sampled_from([b'type="sha-256"', b'type="md5"', b'type="http"', b'length="5"', b'length="0"']),
        NUMBERS.map(lambda number: b'priority="%s" preference="%s"' % (number, number)),
    ),
    max_size=2,
).map(b" ".join)
XML = st.recursive(
    XML_TEXT,
    lambda inner: st.tuples(XML_TAG, XML_GIVEN, st.lists(inner, max_size=4).map(b"".join)).map(
        lambda drawn: b"<%s %s>%s</%s>" % (*drawn, drawn[0])
    ),
    max_leaves=12,
)
GOOD_FILE = st.tuples(NAME_IN_A_LIST, NUMBERS, HEX, XML).map(
    lambda drawn: (
        b'<file name="%s"><size>%s</size><hash type="sha-256">%s</hash><url>http://h/a</url>%s</file>' % drawn
    )
)
METALINK = st.tuples(
    st.sampled_from([b"", b"<?xml version='1.0' encoding='utf-16'?>", b"<!DOCTYPE metalink>"]),
    st.sampled_from([b"urn:ietf:params:xml:ns:metalink", b"http://www.metalinker.org/", b"x"]),
    st.lists(st.one_of(GOOD_FILE, GOOD_FILE, XML), max_size=3).map(b"".join),
    st.sampled_from([b"</metalink>", b"</metalink>", b"", b"</x>"]),
).map(lambda drawn: b'%s<metalink xmlns="%s">%s%s' % drawn)
STRATEGIES: dict[str, Bytes] = {
    "content_range": CONTENT_RANGE,
    "range_field": RANGE,
    "retry_after": RETRY_AFTER,
    "http_date": DATE,
    "answer": heads(),
    "url": URL,
    "location": URL,
    "name": NAME,
    "paths": PATHS,
    "checksum": CHECKSUM,
    "size": SIZE,
    "option": st.tuples(st.sampled_from(OPTIONS), TYPED).map(b"\n".join),
    "environment": st.lists(TYPED, max_size=30).map(b"\0".join),
    "checkpoint": damaged(descriptions().map(lambda text: slot(b"\0\0\0\0" + text))),
    "checkpoint_payload": descriptions(),
    "part_file": descriptions(),
    "oversized_checkpoint": st.binary(max_size=100),
    "record": RECORD,
    "input_file": st.one_of(lines(LIST_LINE), lines(ARIA2_LINE), lines(SUMS_LINE), METALINK),
    "input_list": lines(LIST_LINE),
    "input_aria2": lines(ARIA2_LINE),
    "input_checksums": lines(SUMS_LINE),
    "input_metalink": METALINK,
}

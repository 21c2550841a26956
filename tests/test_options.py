"""Options: what callers, command lines and environments write, checked once."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import FastxferError, OptionError
from fastxfer.options import DIGEST_HEX_LENGTHS, TransferOptions, parse_checksum
from fastxfer.sources.credentials import Credentials

SHA256 = hashlib.sha256(b"").hexdigest()
GOOD: dict[str, list[tuple[Any, Any]]] = {
    "connections": [(1, 1), (1024, 1024), ("8", 8), (4.0, 4)],
    "mirrors": [
        ((), ()),
        (["http://a/x", "http://b/x"], ("http://a/x", "http://b/x")),
        ("http://a/x http://b/x", ("http://a/x", "http://b/x")),
        (None, ()),
    ],
    "connections_per_host": [(None, None), (1, 1), ("64", 64)],
    "refresh": [(None, None), (dict, dict), ("sign x", "sign x")],
    "checksum": [(None, ()), (f"sha256:{SHA256.upper()}", (("sha256", SHA256),))],
    "chunk_size": [(None, None), (1, 1), ("8M", 8 * 1024**2), ("5G", 5 * 1024**3)],
    "resume": [(True, True), ("no", False), ("Yes", True), ("0", False), ("on", True), ("Force", "force")],
    "checkpoint_dir": [(None, None), ("/a b", "/a b"), (Path("c"), "c")],
    "unpause": [(True, True), ("no", False)],
    "exists": [("skip", "skip"), ("error", "error")],
    "headers": [
        (None, ()),
        ({"X-A": "1"}, (("X-A", "1"),)),
        (["X-A: 1", "X-A:2", "X-B:"], (("X-A", "1"), ("X-A", "2"), ("X-B", ""))),
        ([("X-A", "\xe9")], (("X-A", "\xe9"),)),
        ({"X-N": 5}, (("X-N", "5"),)),
    ],
    "secret_headers": [((), ()), ("X-A, x-b-", ("x-a", "x-b-")), (["X-A"], ("x-a",)), (None, ())],
    "allow_http_redirects": [("yes", True)],
    "allow_private_redirects": [(True, True)],
    "auth": [(None, None), ("u:p:q", ("u", "p:q")), (("u", ""), ("u", "")), (["u", "p"], ("u", "p"))],
    "netrc": [("true", True)],
    "endpoint": [
        (None, None),
        ("https://s3.example/", "https://s3.example"),
        ("127.0.0.1:9000", "https://127.0.0.1:9000"),
    ],
    "region": [(None, None), ("eu-central-1", "eu-central-1")],
    "profile": [(None, None), ("of work", "of work")],
    "credentials": [
        (None, None),
        ("AK:SK", Credentials("AK", "SK")),
        ("AK:SK:T:T", Credentials("AK", "SK", "T:T")),
        ({"key": "AK", "secret": "SK", "expires": 5.0}, Credentials("AK", "SK", None, 5.0)),
        (dict, dict),
    ],
    "anonymous": [(True, True), ("no", False)],
    "addressing": [("path", "path"), ("cname", "cname")],
    "proxy": [(None, None), ("http://p:3128", "http://p:3128"), ("", "")],
    "ca_bundle": [(None, None), ("ca.pem", "ca.pem")],
    "client_cert": [(None, None), ("c.pem", ("c.pem", None)), (("c.pem", "k.pem"), ("c.pem", "k.pem"))],
    "verify_tls": [("off", False)],
    "http_version": [(None, None), ("1.1", "1.1"), (1.1, "1.1"), (2, "2"), ("3", "3")],
    "connect_timeout": [(0.5, 0.5), ("10", 10.0)],
    "stall_timeout": [(86400 * 365, 86400.0 * 365)],
    "retries": [(0, 0), ("1000", 1000)],
    "wait_for_network": [(0, 0.0), ("600", 600.0)],
    "max_rate": [(None, None), ("5M", 5 * 1024**2), (0, None)],
    "max_rate_per_host": [(None, None), ("5M", 5 * 1024**2), (0, None)],
    "max_rate_total": [(None, None), ("1.5G", 3 * 512 * 1024**2), (0, None)],
    "on_change": [("fail", "fail")],
    "ignore_etag": [(True, True)],
    "durability": [("chunk", "chunk"), ("none", "none")],
    "keep_ledger": [(True, True), ("no", False)],
    "sink": [("direct", "direct"), ("mmap", "mmap"), ("pwrite", "pwrite")],
}
BAD: dict[str, list[Any]] = {
    "connections": [0, -1, 1025, 1.5, "x", "", None, True, math.inf, math.nan, "1e400", [], 10**400],
    "mirrors": [5, [5], ["http://a/x"] * 65],
    "refresh": ["", "  ", 5],
    "checksum": [
        7,
        b"x",
        ("sha256", SHA256),
        ["x"],
        "",
        "sha256",
        "sha256:",
        "sha256:00",
        "rot13:00",
        f"md5:{SHA256}",
    ],
    "chunk_size": [0, -1, "0", "5.1G", "x", True, 1.5, [], "9" * 400 + ".5"],
    "resume": ["maybe", 2, None, "truee", "", "forced"],
    "checkpoint_dir": ["a\0", "\ud800x"],
    "unpause": ["later", None],
    "exists": ["", "Update", None, 1, []],
    "headers": [
        5,
        "X-A: 1",
        ["no colon"],
        [": empty"],
        {"": "x"},
        {"X A": "1"},
        {"X-A\n": "1"},
        {"X-A\r\nEvil": "1"},
        {"X-A": "1\r\nEvil: 2"},
        {"X-A": "1\0"},
        {"X-A": "\u20ac"},
        {"X-\xe9": "1"},
        [("a", "b", "c")],
        {"Range": "bytes=0-1"},
        {"HOST": "x"},
        {"accept-encoding": "gzip"},
        {"Content-Length": "5"},
        {"Transfer-Encoding": "chunked"},
        {"If-Range": "x"},
    ],
    "secret_headers": ["X A", "X-A:", ",", ["\n"], 5],
    "allow_http_redirects": ["maybe"],
    "allow_private_redirects": [None],
    "auth": ["nocolon", ("a",), ("a", "b", "c"), ("a:b", "c"), ("a", "b\n"), ("a\0", "b"), 5, "a:\ud800"],
    "netrc": ["?", None],
    "endpoint": ["", "ftp://x", "https://u:p@x", "https://x?q", "https://x/../y", 5, "https://\u00fc"],
    "region": ["", "a b", "a/b", "-x", "x" * 64, 5.5],
    "profile": ["", " ", "a\nb"],
    "credentials": ["", "AK", ":SK", "AK:", "A K:SK", {"key": "AK"}, {"secret": "S", "x": 1}, 5, b"AK:SK"],
    "anonymous": ["?", None],
    "addressing": ["host", None, ""],
    "proxy": ["http://p\r\nX: y", "p\0", "http://\ud800:1"],
    "ca_bundle": ["a\nb", "\ud800"],
    "client_cert": [("a",), ("a", "b", "c"), 5, "a\0b", ("a", "\ud800")],
    "verify_tls": ["never"],
    "http_version": ["1.0", "4", 2.0, ""],
    "connect_timeout": [0, -1, "x", math.nan, math.inf, None, 86400 * 366, 10**400],
    "stall_timeout": [0, "1 s", []],
    "retries": [-1, 1001, "x", None, 2.5, math.inf, math.nan],
    "wait_for_network": [-1, math.nan, math.inf, "x"],
    "max_rate": ["fast", -1, 2**63, True],
    "max_rate_per_host": ["fast", -1, 2**63, True],
    "max_rate_total": ["fast", -1, 2**63, True],
    "connections_per_host": [0, -1, 1025, 1.5, "x", "", True],
    "on_change": ["ignore", None],
    "ignore_etag": ["etag"],
    "durability": ["always", True],
    "keep_ledger": ["always", None],
    "sink": ["file", None, ""],
}


def test_every_option_has_its_cases() -> None:
    names = {f.name for f in fields(TransferOptions)}
    assert set(GOOD) == set(BAD) == names


@pytest.mark.parametrize(
    ("name", "given_", "kept"), [(n, *case) for n, cases in GOOD.items() for case in cases]
)
def test_a_value_is_read(name: str, given_: Any, kept: Any) -> None:
    value = getattr(TransferOptions.build(**{name: given_}), name)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD.items() for value in values],
    ids=lambda value: ascii(value)[:30],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"^option {name}: ") as caught:
        TransferOptions.build(**{name: value})
    assert caught.value.exit_code == 28
    assert isinstance(caught.value, ValueError)


def test_the_defaults_are_what_building_from_nothing_gives() -> None:
    assert TransferOptions.build() == TransferOptions()


def test_every_option_has_a_help_line_and_a_metavar() -> None:
    for each in fields(TransferOptions):
        assert each.metadata["help"] and each.metadata["metavar"], each.name


def test_short_flags_are_not_shared() -> None:
    flags = [flag for each in fields(TransferOptions) for flag in each.metadata["flags"]]
    assert len(flags) == len(set(flags))


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="conections"):
        TransferOptions.build(conections=4)


def test_options_print_no_secret_of_a_store() -> None:
    assert "hunter2" not in repr(TransferOptions.build(credentials="AK:hunter2:hunter2"))


def test_options_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TransferOptions.build().connections = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", ["auth", "headers", "proxy", "endpoint", "credentials"])
def test_a_refusal_tells_no_secret(name: str) -> None:
    secret = "hunter2"
    values = {
        "auth": ("a:b", secret),
        "headers": {"X-Token": secret + "\n"},
        "proxy": f"http://u:{secret}@p\n",
        "endpoint": f"https://u:{secret}@p",
        "credentials": f"AK:{secret} {secret}",
    }
    with pytest.raises(OptionError) as caught:
        TransferOptions.build(**{name: values[name]})
    assert secret not in str(caught.value)


# ---- checksums ----


@pytest.mark.parametrize("algorithm", sorted(DIGEST_HEX_LENGTHS))
def test_a_checksum_is_read_in_every_spelling(algorithm: str) -> None:
    raw = bytes(range(DIGEST_HEX_LENGTHS[algorithm] // 2))
    kept = ((algorithm, raw.hex()),)
    spelling = algorithm.replace("sha", "SHA-").replace("crc64", "crc64-")
    for text in (
        f"{algorithm}:{raw.hex()}",
        f" {spelling} = {raw.hex().upper()} ",
        f"{algorithm}={base64.b64encode(raw).decode()}",
        f"{algorithm}=:{base64.b64encode(raw).decode()}:",
    ):
        assert parse_checksum(text) == kept
    assert parse_checksum({spelling: raw.hex()}) == kept


def test_several_checksums_are_kept_in_order() -> None:
    pairs = parse_checksum({"md5": "0" * 32, "sha-1": "F" * 40})
    assert pairs == (("md5", "0" * 32), ("sha1", "f" * 40))


@pytest.mark.parametrize(
    "digest", ["", "0" * 31, "0" * 33, "g" * 32, "\u0660" * 32, "AAAA", "=" * 24, "0" * 32 + "\n0"]
)
def test_a_digest_of_the_wrong_form_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match=r"digits|written"):
        parse_checksum(f"md5:{digest}")
    with pytest.raises(ValueError, match="digits"):
        parse_checksum({"md5": digest})


@given(
    st.sampled_from(sorted(GOOD)),
    st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.none(), st.binary()),
)
def test_any_value_is_taken_or_refused_with_a_typed_error(name: str, value: Any) -> None:
    try:
        TransferOptions.build(**{name: value})
    except FastxferError as error:
        assert name in str(error)

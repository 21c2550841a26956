"""What tells that a target is the remote object already; the rest of publishing is in test_part_file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastxfer.plan.response import Identity
from fastxfer.storage import publish
from fastxfer.storage.paths import resolve_target
from fastxfer.storage.publish import MAX_RECORD, XATTR, is_unchanged, make_record

DATE = "Wed, 01 Jan 2025 00:00:00 GMT"
STAMP = 1735689600.0
LATER = "Wed, 01 Jan 2025 00:00:01 GMT"


@dataclass(frozen=True)
class Case:
    """A file of 5 bytes with an mtime and perhaps a record, against a remote object."""

    name: str
    remote: Identity
    unchanged: bool
    mtime: float = STAMP
    record: dict[str, Any] | None = None
    ignore_etag: bool = False


def record(etag: Any = '"v1"', mtime: Any = STAMP) -> dict[str, Any]:
    return {"etag": etag, "size": 5, "mtime": mtime}


V1 = '"v1"'
CASES = [
    Case("same size and date", Identity(5, None, DATE), True),
    Case("same size and date, an ETag that was never kept", Identity(5, V1, DATE), True),
    Case("fractions of a second do not count", Identity(5, None, DATE), True, mtime=STAMP + 0.75),
    Case("another size", Identity(6, None, DATE), False),
    Case("another date", Identity(5, None, LATER), False),
    Case("unknown size", Identity(None, V1, DATE), False, record=record()),
    Case("size alone", Identity(5), False),
    Case("size and an ETag that was never kept", Identity(5, V1), False),
    Case("kept ETag and no date", Identity(5, V1), True, record=record()),
    Case("kept ETag and date", Identity(5, V1, DATE), True, record=record()),
    Case("kept ETag, another date", Identity(5, V1, LATER), False, record=record()),
    Case("another ETag than the kept one", Identity(5, '"v2"', DATE), False, record=record()),
    Case("another ETag and no date", Identity(5, '"v2"'), False, record=record()),
    Case(
        "another ETag, ignored, same date", Identity(5, '"v2"', DATE), True, record=record(), ignore_etag=True
    ),
    Case("another ETag, ignored, no date", Identity(5, '"v2"'), False, record=record(), ignore_etag=True),
    Case(
        "kept ETag of a file that was touched since", Identity(5, V1), False, mtime=STAMP + 5, record=record()
    ),
    Case("an unreadable date and no ETag", Identity(5, None, "yesterday"), False),
    Case("an unreadable date and the kept ETag", Identity(5, V1, "yesterday"), True, record=record()),
    Case("a record without an ETag", Identity(5, V1), False, record={"mtime": STAMP}),
    Case("a record with another kind of ETag", Identity(5, V1), False, record=record(etag=7)),
    Case("a record without a time", Identity(5, V1), False, record={"etag": V1}),
    Case("a record with a text as its time", Identity(5, V1), False, record=record(mtime="1735689600")),
    Case("a record with a huge time", Identity(5, V1), False, record=record(mtime=10**400)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_is_the_remote_object(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"12345")
    os.utime(path, (case.mtime, case.mtime))
    kept = json.dumps(case.record).encode() if case.record is not None else None
    monkeypatch.setattr(os, "getxattr", lambda _path, name: attribute(kept, name))
    assert is_unchanged(resolve_target("", path), case.remote, ignore_etag=case.ignore_etag) is case.unchanged


def attribute(kept: bytes | None, name: str) -> bytes:
    assert name == XATTR
    if kept is None:
        raise OSError(61, "No data available")
    return kept


@pytest.mark.parametrize("kept", [b"", b"\xff", b"{", b"[]", b"7", b"null", b'"x"', b"[" * 60_000, b"NaN"])
def test_a_record_of_nonsense_is_no_record(
    kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"12345")
    monkeypatch.setattr(os, "getxattr", lambda *_: kept)
    assert not is_unchanged(resolve_target("", path), Identity(5, V1))


def test_what_is_not_there_is_not_unchanged(tmp_path: Path) -> None:
    assert not is_unchanged(resolve_target("", tmp_path / "gone"), Identity(5, V1, DATE))


@pytest.mark.parametrize("mtime", [STAMP, STAMP + 0.123456789, int(STAMP)])
def test_a_record_is_known_again(mtime: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"12345")
    os.utime(path, (mtime, mtime))
    kept = make_record(Identity(5, V1), mtime)
    assert kept is not None
    monkeypatch.setattr(os, "getxattr", lambda *_: kept)
    assert is_unchanged(resolve_target("", path), Identity(5, V1))
    assert not is_unchanged(resolve_target("", path), Identity(5, '"v2"'))


@pytest.mark.parametrize(
    ("identity", "mtime"),
    [(Identity(5, None, DATE), STAMP), (Identity(5, V1), None), (Identity(5, "x" * MAX_RECORD), STAMP)],
    ids=["no ETag", "no time", "an endless ETag"],
)
def test_some_things_are_not_worth_a_record(identity: Identity, mtime: float | None) -> None:
    assert make_record(identity, mtime) is None


def test_a_file_system_without_attributes_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    with (tmp_path / "file").open("wb") as file:
        publish.keep_record(file.fileno(), b"record")

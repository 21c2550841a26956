"""Whether an object of the source is what stands at the destination: pure, by what is told of both.

What is told: by the source's listing (`Entry`), by the ledger of what was fetched (`Known`), by the file
system of what is there (`Local`). The ledger's word counts only while the file has the size and the time that
the ledger wrote down.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from fastxfer.dataset.entries import Entry

TIME_STEP_S = 1.0
"""Times of HTTP are in whole seconds."""
TOLD = "told-"
"""Before the name of a checksum that the listing told, and that was not held against the bytes."""


class By(enum.Enum):
    """What decides whether an object is the same.

    AUTO: the best that is known of both sides: a checksum, else the ETag, else size and time, else the size.
    A size that differs is a difference in every way but ALWAYS, which takes every object for changed.
    """

    AUTO = "auto"
    SIZE = "size"
    TIME = "time"
    ETAG = "etag"
    CHECKSUM = "checksum"
    ALWAYS = "always"


class Verdict(enum.Enum):
    """NEW: nothing of it is here. CHANGED: another object is here. SAME: it is here. UNSURE: what is told
    does not say: the server is to be asked, or the file to be read.
    """

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    UNSURE = "unsure"


class Finding(NamedTuple):
    """A verdict, and why."""

    verdict: Verdict
    why: str


class Local(NamedTuple):
    """A file as it stands at the destination."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger has of an object that was fetched.

    Attributes:
        size, mtime_ns: of the file, when it was done.
        etag, modified: the validators of the answer that it came with; `modified` in seconds since 1970.
        checksums: (algorithm, hex digest) pairs, computed or verified here; with TOLD before the name of one
            that the listing told only.
        listed_size, listed_mtime, listed_etag, listed_shown: what the listing said then.
        doubted: whether the machine began anew before the file's bytes were surely on its disk, or they were
            found to be others.
    """

    size: int
    mtime_ns: int
    etag: str | None = None
    modified: float | None = None
    checksums: tuple[tuple[str, str], ...] = ()
    listed_size: int | None = None
    listed_mtime: float | None = None
    listed_etag: str | None = None
    listed_shown: str = ""
    doubted: bool = False


def compare(entry: Entry, known: Known | None, local: Local | None, by: By = By.AUTO) -> Finding:
    """Returns whether what stands at the destination is the object. `known` is what the ledger has of it, if
    anything, `local` the file, None where there is none.
    """
    if local is None:
        return Finding(Verdict.NEW, "it is not here" if known is None else "its file is gone")
    if by is By.ALWAYS:
        return Finding(Verdict.CHANGED, "everything was asked for")
    if entry.size is not None and entry.size != local.size:
        return Finding(Verdict.CHANGED, f"{entry.size} bytes there, {local.size} here")
    if known is not None and known.doubted:
        return Finding(Verdict.CHANGED, "its bytes here are not to be trusted")
    if known is None or (known.size, known.mtime_ns) != (local.size, local.mtime_ns):
        return _by_the_file(entry, local, by)
    return _by_the_ledger(entry, known, by)


def _by_the_file(entry: Entry, local: Local, by: By) -> Finding:
    """Compares with a file of which only its size and its time are known."""
    if by is By.SIZE and entry.size is not None:
        return Finding(Verdict.SAME, "same size")
    if by is By.TIME or (by is By.AUTO and not entry.checksums):
        if entry.mtime is None or not entry.mtime_exact or entry.size is None:
            return Finding(Verdict.UNSURE, "the ledger does not have it, and the listing tells too little")
        if abs(local.mtime_ns / 1e9 - entry.mtime) < TIME_STEP_S:
            return Finding(Verdict.SAME, "same size and time")
        if by is By.TIME:
            return Finding(Verdict.CHANGED, "another time")
    return Finding(Verdict.UNSURE, "the ledger does not have it as it is here")


def _by_the_ledger(entry: Entry, known: Known, by: By) -> Finding:
    checks = {By.CHECKSUM: _checksum, By.ETAG: _etag, By.TIME: _time, By.SIZE: _size}
    for way, check in checks.items():
        if by in (way, By.AUTO):
            same = check(entry, known)
            if same is not None:
                return Finding(Verdict.SAME if same else Verdict.CHANGED, _SAID[way][not same])
    return Finding(Verdict.UNSURE, "the listing tells too little")


_SAID = {
    By.CHECKSUM: ("same checksum", "another checksum"),
    By.ETAG: ("same ETag", "another ETag"),
    By.TIME: ("same size and time", "another time"),
    By.SIZE: ("same size", "another size"),
}


def _checksum(entry: Entry, known: Known) -> bool | None:
    told = {name.removeprefix(TOLD): digest for name, digest in known.checksums if name.startswith(TOLD)}
    here = {**told, **dict(known.checksums)}
    both = [digest == here[name] for name, digest in entry.checksums if name in here]
    return all(both) if both else None


def _etag(entry: Entry, known: Known) -> bool | None:
    """A listing's ETag is compared with the answer's, or with the same listing's from then."""
    if entry.etag is None or (known.etag is None and known.listed_etag is None):
        return None
    return _opaque(entry.etag) in {_opaque(known.etag), _opaque(known.listed_etag)}


def _opaque(etag: str | None) -> str | None:
    """Returns an ETag without its mark of weakness and its quotes, which listings leave out or not."""
    return None if etag is None else etag.removeprefix("W/").strip('"')


def _time(entry: Entry, known: Known) -> bool | None:
    """The same words in the same listing are the same object; an exact time may be the answer's."""
    if entry.mtime is None:
        return None
    if entry.mtime == known.listed_mtime:
        return (entry.size, entry.shown) == (known.listed_size, known.listed_shown)
    if entry.mtime_exact and known.modified is not None:
        return abs(entry.mtime - known.modified) < TIME_STEP_S
    return False if known.listed_mtime is not None else None


def _size(entry: Entry, known: Known) -> bool | None:
    return None if entry.size is None else entry.size == known.size

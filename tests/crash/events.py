"""What can happen to a directory, as a trace tells it. Each file has a number that is never used twice."""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Data:
    """A page of a file has this content now (the last page may be short)."""

    file: int
    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Size:
    """A file was cut, extended or reserved to this size."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Attribute:
    """An extended attribute of a file was set, or its modification time under the key "mtime"."""

    file: int
    key: str
    value: bytes | float


@dataclass(frozen=True, slots=True)
class Name:
    """A file got a name: it was created, linked, or, with `source`, renamed from there."""

    file: int
    name: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Unname:
    """A name was removed."""

    file: int
    name: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync of a file returned, of data and size, or `whole` with everything; or it failed."""

    file: int
    whole: bool
    failed: bool = False


@dataclass(frozen=True, slots=True)
class SyncNames:
    """A sync of the directory returned."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The pages that a failed sync left clean in the cache are gone from there."""

    file: int


@dataclass(frozen=True, slots=True)
class Promise:
    """What holds from here on, whatever happens: under the final name stands one of `final` (versions of the
    object, None for nothing at all); `chunks`, a bitmap, of version `progress` are not lost, unless it is
    complete.

    `final` is empty when nothing is promised about it. A promise that is not `readable` allows a checkpoint
    that cannot be read. With `ledger` the file under the final name has its kept ledger beside it.
    """

    final: tuple[str | None, ...]
    progress: str | None = None
    chunks: bytes = b""
    readable: bool = True
    ledger: bool = False


Change = Data | Size | Attribute | Name | Unname
Event = Change | Sync | SyncNames | Lost | Promise


@dataclass(slots=True)
class Trace:
    """A run: its events, the versions of its object by ETag, the real inode numbers of its files."""

    name: str
    objects: dict[str, bytes]
    events: list[Event] = field(default_factory=list)
    inodes: dict[int, int] = field(default_factory=dict)
    device: int = 0
    url: str = ""
    begins: int = 0
    """Where the run begins; before is what it found."""
    shared: bool = False
    """The file system is one whose locks prove nothing."""
    sites: set[str] = field(default_factory=set)
    """The places in the code that synced something."""

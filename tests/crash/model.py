"""A file system that keeps only what was synced, and of the rest what an adversary chooses.

Two adversaries. The *strict* one knows POSIX alone: a file's bytes and size are safe after fdatasync or fsync
of it, its times and attributes after fsync, its names after fsync of the directory; everything else may be
kept or lost, one by one, in any order, but for the changes of one and the same name. The *ordered* one is
ext4 or xfs: bytes may be lost one by one too, but names, sizes and attributes reach the disk in the order in
which they were changed (one journal), and a sync takes along all that came before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.crash.events import (
    SECTOR,
    Attribute,
    Change,
    Data,
    Event,
    Lost,
    Name,
    Promise,
    Size,
    Sync,
    SyncNames,
    Unname,
)

Mode = Literal["strict", "ordered"]
MODES: tuple[Mode, ...] = ("strict", "ordered")


@dataclass(slots=True)
class File:
    """A file's content and attributes."""

    data: bytearray = field(default_factory=bytearray)
    attributes: dict[str, bytes | float] = field(default_factory=dict)

    def copy(self) -> File:
        return File(bytearray(self.data), dict(self.attributes))


@dataclass(slots=True)
class Image:
    """What is in a directory."""

    names: dict[str, int] = field(default_factory=dict)
    files: dict[int, File] = field(default_factory=dict)

    def copy(self) -> Image:
        return Image(dict(self.names), {number: file.copy() for number, file in self.files.items()})

    def of(self, name: str) -> File | None:
        """Returns the file of this name, None when there is none."""
        number = self.names.get(name)
        return None if number is None else self.files.setdefault(number, File())

    def key(self) -> int:
        """Returns what tells this image from others: names, content and attributes."""
        files = (
            (name, number, bytes(file.data), *sorted(file.attributes.items()))
            for name, number in sorted(self.names.items())
            if (file := self.of(name)) is not None
        )
        return hash(tuple(files))

    def apply(self, change: Change, sectors: int | None = None) -> None:
        """Makes a change; of a page only the sectors of the mask, when one is given."""
        match change:
            case Name(number, name, source):
                if source is not None and self.names.get(source) == number:
                    del self.names[source]
                self.names[name] = number
            case Unname(number, name):
                if self.names.get(name) == number:
                    del self.names[name]
            case Size(number, size):
                data = self.files.setdefault(number, File()).data
                del data[size:]
                data.extend(bytes(size - len(data)))
            case Attribute(number, key, value):
                self.files.setdefault(number, File()).attributes[key] = value
            case Data(number, at, new):
                _put(self.files.setdefault(number, File()).data, at, new, sectors)


def _put(data: bytearray, at: int, new: bytes, sectors: int | None) -> None:
    """Writes a page, within the file's size: what makes a file longer is a change of its own."""
    new = new[: max(0, len(data) - at)]
    if sectors is None:
        data[at : at + len(new)] = new
        return
    for sector in range(-(-len(new) // SECTOR)):
        if sectors >> sector & 1:
            piece = new[sector * SECTOR : (sector + 1) * SECTOR]
            data[at + sector * SECTOR : at + sector * SECTOR + len(piece)] = piece


class Disk:
    """What is durable after the events that were played, and what is not yet. `pending` are the changes that
    a cut may take, by their place in the trace.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.durable = Image()
        self.pending: dict[int, Change] = {}
        self.promise = Promise((None,))
        self._limbo: set[int] = set()  # their sync failed: no later one will write them
        self._played = 0

    def play(self, event: Event) -> None:
        """Takes the next event of the trace."""
        match event:
            case Promise():
                self.promise = event
            case Sync(file, whole, failed):
                if failed:
                    self._limbo |= {at for at, each in self.pending.items() if _is_data(each, file)}
                else:
                    self._sync(file, whole)
            case SyncNames():
                self._settle([at for at, each in self.pending.items() if self._with_names(each)])
            case Lost(file):
                for at in [at for at in self._limbo if _is_data(self.pending[at], file)]:
                    self._forget(at)
            case _:
                self.pending[self._played] = event
        self._played += 1

    def _with_names(self, change: Change) -> bool:
        if self.mode == "ordered":
            return not isinstance(change, Data)
        return isinstance(change, Name | Unname)

    def _sync(self, file: int, whole: bool) -> None:
        last = -1  # of the changes that go along because they came before, in one journal
        if self.mode == "ordered":
            sizes = [at for at, each in self.pending.items() if isinstance(each, Size) and each.file == file]
            last = self._played if whole else max(sizes, default=-1)
        self._settle(
            [
                at
                for at, each in self.pending.items()
                if at not in self._limbo
                and (
                    (
                        each.file == file
                        and (isinstance(each, Data | Size) or (whole and isinstance(each, Attribute)))
                    )
                    or (at < last and not isinstance(each, Data))
                )
            ]
        )

    def _settle(self, places: list[int]) -> None:
        """Makes changes durable, and forgets those that are overtaken by them."""
        for at in places:
            change = self.pending.pop(at)
            self.durable.apply(change)
            if isinstance(change, Data | Size):
                self._overtake(at, change)

    def _overtake(self, at: int, change: Data | Size) -> None:
        for before in [other for other in self.pending if other < at]:
            old = self.pending[before]
            if not isinstance(old, Data) or old.file != change.file:
                continue
            if old.at >= change.size if isinstance(change, Size) else old.at == change.at:
                self._forget(before)

    def _forget(self, at: int) -> None:
        del self.pending[at]
        self._limbo.discard(at)

    @property
    def lost(self) -> dict[int, set[int]]:
        """The pages, by file, that are clean in the cache and not on the disk."""
        lost: dict[int, set[int]] = {}
        for at, change in self.pending.items():
            if isinstance(change, Data):
                pages = lost.setdefault(change.file, set())
                (pages.add if at in self._limbo else pages.discard)(change.at)
        return lost

    def possible(self, kept: Iterable[int]) -> tuple[int, ...]:
        """Returns the changes that survive when these are to: not one of a name without those before it of
        the same name, which is one entry of one directory.
        """
        broken: set[str] = set()
        survive, wanted = [], set(kept)
        for at, change in self.pending.items():
            if isinstance(change, Name | Unname):
                names = {change.name, change.source} if isinstance(change, Name) else {change.name}
                if at not in wanted or names & broken:
                    broken |= {name for name in names if name is not None}
                    continue
            if at in wanted:
                survive.append(at)
        return tuple(survive)

    def after(self, kept: Collection[int], torn: Mapping[int, int] | None = None) -> Image:
        """Returns what is there after a cut that kept these pending changes, and of `torn` ones these
        sectors.
        """
        image = self.durable.copy()
        for at, change in self.pending.items():
            if at in kept:
                image.apply(change)
            elif torn and at in torn:
                image.apply(change, torn[at])
        return image

    def cached(self) -> Image:
        """Returns what a process sees now, and what is there after a kill."""
        return self.after(self.pending)


def _is_data(change: Change, file: int) -> bool:
    return isinstance(change, Data) and change.file == file

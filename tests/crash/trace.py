"""Records what a run does to one directory: the calls that the storage makes, and the bytes that native code
stores.

The system calls are taken where `fastxfer.storage` makes them. Bytes that native code writes, by a mapping or
by pwrite, do not come past there: at each call, and at the begin and end of each sync, the files are read and
compared with what was known, page by page. A page that is found changed is told before the call, so that a
sync covers what was there when it began and nothing that came while it ran.

At its end a recorder holds what it has told against what is really in the directory, so that nothing is
missed.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest

from fastxfer._native import writer
from fastxfer.names import CHECKPOINT, LEDGER, LOCK, NEW_CHECKPOINT, NEW_LEDGER
from fastxfer.storage import part_file, reopening
from fastxfer.storage.checkpoint import Checkpoint
from fastxfer.storage.left import Left
from fastxfer.storage.part_file import PartFile
from fastxfer.storage.publish import UNFINISHED
from tests.crash.events import (
    PAGE,
    Attribute,
    Data,
    Event,
    Lost,
    Name,
    Promise,
    Size,
    Sync,
    SyncNames,
    Trace,
    Unname,
)
from tests.crash.model import Disk

NAME = "data.bin"
OLD, DAMAGED = "old", "damaged"
KINDS = {
    CHECKPOINT: "checkpoint",
    NEW_CHECKPOINT: "checkpoint",
    LEDGER: "ledger",
    NEW_LEDGER: "ledger",
    LOCK: "record",
    ".next": "record",
}
_BASE = re.compile(rf"{re.escape(NAME)}|\.fastxfer-[0-9a-f]{{16}}")
Entered = TypeVar("Entered", bound="Recorder")
_REAL = {name: getattr(os, name) for name in ("open", "pwrite", "unlink", "utime")}


def kind_of(name: str) -> str:
    """Returns what a file is, by its name."""
    return KINDS.get(_BASE.sub("", name, count=1), "data")


class Recorder:
    """A context manager; `trace` grows while it is entered. One transfer at a time.

    `without` is the end of the name of a place that syncs (see `Trace.sites`): its syncs are left out.
    `failing` is one whose sync fails, once, at its `failing_at`-th call; what it should have written is gone
    from the cache before the next run has read what was left (`evict` "early"), after it ("late") or never.
    """

    def __init__(
        self,
        directory: Path,
        trace: Trace,
        *,
        without: str = "",
        failing: str = "",
        failing_at: int = 1,
        evict: str = "never",
    ) -> None:
        self.trace = trace
        self.saves = 0
        self.failed = False
        self.reopened = threading.Event()
        self.promises_progress = True
        self._directory = directory
        self._without, self._failing, self._failing_at, self._evict = without, failing, failing_at, evict
        self._patches = pytest.MonkeyPatch()
        self._lock = threading.RLock()
        self._saved = threading.Condition(self._lock)
        there = os.stat(directory)
        self._device, self._inode = there.st_dev, there.st_ino
        trace.device = there.st_dev
        self._disk = Disk("strict")
        for event in trace.events:
            self._disk.play(event)
        self._now = self._disk.cached()
        self._files = {os.stat(directory / name).st_ino: file for name, file in self._now.names.items()}
        trace.inodes.update({file: inode for inode, file in self._files.items()})
        self._next = max((e.file for e in trace.events if isinstance(e, Name)), default=0) + 1
        self._promise = self._disk.promise

    # ---- for the runs ----

    def wait_for_saves(self, count: int = 1, deadline_s: float = 0.2) -> None:
        """Returns when the checkpoint was written so often more, or after the deadline."""
        with self._saved:
            aim = self.saves + count
            self._saved.wait_for(lambda: self.saves >= aim, deadline_s)

    def remove(self, name: str) -> None:
        """Removes a file as somebody else would: nothing is promised about progress and ledger any more."""
        with self._lock:
            self._look()
            self._promised(replace(self._promise, progress=None, chunks=b"", ledger=False))
            _REAL["unlink"](self._directory / name)
            self._tell(Unname(self._now.names[name], name))

    def damage(self, name: str, data: bytes, *, synced: bool) -> None:
        """Has a program write other bytes over the target; unless they are `synced`, the disk still has
        nothing but zeros there, and nothing is promised until the repair has begun.
        """
        with self._lock:
            old, number = self._promise, self._now.names[name]
            (self._directory / name).write_bytes(bytes(len(data)))
            self._promised(Promise((), readable=old.readable))
            self._look()
            self._tell(Sync(number, True))
            (self._directory / name).write_bytes(data)
            self._look()
            self._tell(Attribute(number, "mtime", os.stat(self._directory / name).st_mtime))
            self.trace.objects[DAMAGED] = data
            if synced:
                self._tell(Sync(number, True))
                self._promised(replace(old, final=(DAMAGED,) if old.final else ()))
            self.trace.begins = len(self.trace.events)

    def promise_ledger(self) -> None:
        """A fetch has returned that keeps a ledger: it is there from now on, if anything is promised."""
        with self._lock:
            self._promised(replace(self._promise, ledger=bool(self._promise.final)))

    def put_old(self, name: str, data: bytes) -> None:
        """Has an older object stand under the final name, durably, since before the run."""
        path = self._directory / name
        path.write_bytes(data)
        _REAL["utime"](path, (1_600_000_000, 1_600_000_000))
        with self._lock:
            number = self._number(path)
            self._tell(Name(number, name))
            self._look()
            self._tell(Attribute(number, "mtime", 1_600_000_000.0))
            self._tell(Sync(number, True))
            self._tell(SyncNames())
            self.trace.objects[OLD] = data
            self._promised(Promise((OLD,), readable=self._promise.readable))
            self.trace.begins = len(self.trace.events)

    # ---- recording ----

    def __enter__(self: Entered) -> Entered:
        for name, wrapper in (
            ("open", self._open),
            ("truncate", self._truncate),
            ("ftruncate", self._truncate),
            ("pwrite", self._pwrite),
            ("fdatasync", self._fdatasync),
            ("fsync", self._fsync),
            ("rename", self._rename),
            ("link", self._link),
            ("unlink", self._unlink),
            ("utime", self._utime),
            ("setxattr", self._setxattr),
        ):
            self._patches.setattr(os, name, _bound(wrapper, getattr(os, name)))
        self._patches.setattr(part_file, "reserve", _bound(self._reserve, writer.reserve))
        self._patches.setattr(reopening, "reopen", _bound(self._around_reopen, reopening.reopen))
        self._patches.setattr(reopening, "take_back", _bound(self._around_take_back, reopening.take_back))
        for method, around in (
            ("sync", self._around_sync),
            ("adopt", self._around_adopt),
            ("allocate", self._around_drop),
            ("discard", self._around_drop),
            ("publish", self._around_publish),
            ("read_left", self._around_read_left),
        ):
            self._patches.setattr(PartFile, method, _around(around, getattr(PartFile, method)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patches.undo()
        if error is None:
            with self._lock:
                self._look()
                self._compare()

    def _compare(self) -> None:
        assert sorted(os.listdir(self._directory)) == sorted(self._now.names)
        for name in self._now.names:
            file, path = self._now.of(name), self._directory / name
            assert file is not None and path.read_bytes() == file.data, name
            for key, value in file.attributes.items():
                is_so = os.stat(path).st_mtime if key == "mtime" else os.getxattr(path, key)
                assert is_so == value, (name, key)

    def _tell(self, event: Event) -> None:
        self.trace.events.append(event)
        self._disk.play(event)
        if isinstance(event, Name | Unname | Size | Attribute | Data):
            self._now.apply(event)

    def _number(self, path: Path) -> int:
        """Returns the number of a file that is new."""
        number, self._next = self._next, self._next + 1
        inode = os.stat(path).st_ino
        self._files[inode] = number
        self.trace.inodes[number] = inode
        return number

    def _of(self, fd: int) -> int | None:
        """Returns the number of a recorded file, 0 for the directory, None for what is not of it."""
        there = os.fstat(fd)
        if there.st_dev != self._device:
            return None
        return 0 if there.st_ino == self._inode else self._files.get(there.st_ino)

    def _look(self) -> None:
        """Tells of the pages that changed since the last look."""
        for name in list(self._now.names):
            file = self._now.of(name)
            assert file is not None
            if kind_of(name) == "data":  # the others are written by calls alone
                self._compare_pages(
                    self._now.names[name], bytes(file.data), (self._directory / name).read_bytes()
                )

    def _compare_pages(self, number: int, before: bytes, now: bytes) -> None:
        if len(now) != len(before):
            self._tell(Size(number, len(now)))
            before = before[: len(now)] + bytes(len(now) - len(before))
        if now != before:
            for at in range(0, len(now), PAGE):
                if now[at : at + PAGE] != before[at : at + PAGE]:
                    self._tell(Data(number, at, now[at : at + PAGE]))

    # ---- the calls ----

    def _open(self, real: Any, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        here = flags & os.O_CREAT and dir_fd is not None and self._of(dir_fd) == 0
        if not here:
            fd: int = real(path, flags, mode, dir_fd=dir_fd)
            return fd
        with self._lock:
            self._look()
            fd = real(path, flags, mode, dir_fd=dir_fd)
            if path not in self._now.names:
                self._tell(Name(self._number(self._directory / path), path))
            elif flags & os.O_TRUNC:
                self._tell(Size(self._now.names[path], 0))
            return fd

    def _truncate(self, real: Any, fd: int, size: int) -> None:
        self._resize(lambda: real(fd, size), fd, lambda _: size)

    def _reserve(self, real: Any, fd: int, size: int) -> bool:
        return bool(self._resize(lambda: real(fd, size), fd, lambda now: max(now, size)))

    def _resize(self, call: Callable[[], Any], fd: int, size_after: Callable[[int], int]) -> Any:
        with self._lock:
            number = self._of(fd)
            if number:
                self._look()
            result = call()
            if number:
                self._tell(
                    Size(
                        number,
                        size_after(len(self._now.files[number].data) if number in self._now.files else 0),
                    )
                )
            return result

    def _pwrite(self, real: Any, fd: int, data: bytes, at: int) -> int:
        with self._lock:
            number = self._of(fd)
            if not number:
                return int(real(fd, data, at))
            self._look()
            written: int = real(fd, data, at)
            whole = bytearray(self._now.files[number].data)
            whole[at : at + written] = data[:written]
            if len(whole) != len(self._now.files[number].data):
                self._tell(Size(number, len(whole)))
            for page in range(at // PAGE * PAGE, at + written, PAGE):
                self._tell(Data(number, page, bytes(whole[page : page + PAGE])))
            if any(kind_of(name) != "record" for name, file in self._now.names.items() if file == number):
                self.saves += 1
                self._saved.notify_all()
            return written

    def _fdatasync(self, real: Any, fd: int) -> None:
        self._sync(real, fd, whole=False)

    def _fsync(self, real: Any, fd: int) -> None:
        self._sync(real, fd, whole=True)

    def _sync(self, real: Any, fd: int, *, whole: bool) -> None:
        with self._lock:
            number = self._of(fd)
            if number is None:
                real(fd)
                return
            site = self._site(number)
            self.trace.sites.add(site)
            if self._without and site.endswith(self._without):
                return
            self._look()
            if self._failing and site.endswith(self._failing):
                self._failing_at -= 1
                if self._failing_at == 0:
                    self.failed = True
                    if number:
                        self._tell(Sync(number, whole, failed=True))
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd)
            self._tell(Sync(number, whole) if number else SyncNames())
            self._look()

    def _site(self, number: int) -> str:
        """Returns where a sync comes from, by the names of the functions, and what it is of."""
        names = [name for name, file in self._now.names.items() if file == number]
        kind = kind_of(names[0]) if number else "names"
        return f"{' > '.join(storage_calls())}: {kind}"

    def _rename(self, real: Any, source: str, name: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        with self._lock:
            self._look()
            real(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            self._tell(Name(self._now.names[source], name, source))

    def _link(self, real: Any, source: str, name: str, **options: Any) -> None:
        with self._lock:
            self._look()
            real(source, name, **options)
            self._tell(Name(self._now.names[source], name))

    def _unlink(self, real: Any, name: Any, *, dir_fd: int | None = None) -> None:
        with self._lock:
            here = dir_fd is not None and self._of(dir_fd) == 0
            if here:
                self._look()
            real(name, dir_fd=dir_fd)
            if here:
                self._tell(Unname(self._now.names[name], name))

    def _utime(self, real: Any, fd: int, times: tuple[float, float]) -> None:
        with self._lock:
            self._look()
            real(fd, times)
            number = self._of(fd)
            assert number
            self._tell(Attribute(number, "mtime", os.fstat(fd).st_mtime))

    def _setxattr(self, real: Any, fd: int, key: str, value: bytes) -> None:
        with self._lock:
            real(fd, key, value)
            if key == UNFINISHED:
                return  # a hint: nothing that is promised rests on it
            number = self._of(fd)
            assert number
            self._tell(Attribute(number, key, value))

    # ---- what is promised ----

    def _promised(self, promise: Promise) -> None:
        self._promise = promise
        self._tell(promise)

    def _promise_progress(self, version: str | None, chunks: bytes) -> None:
        self._promised(replace(self._promise, progress=version, chunks=chunks))

    def _around_sync(self, real: Any, part: PartFile, *args: Any, **options: Any) -> None:
        real(part, *args, **options)
        with self._lock:
            assert part.identity.etag is not None
            if self.promises_progress and not part.in_doubt:
                self._promise_progress(part.identity.etag, part._durable)

    def _around_adopt(self, real: Any, part: PartFile, *args: Any, **options: Any) -> None:
        in_doubt = part.in_doubt
        real(part, *args, **options)
        if in_doubt:  # from here on it is the copy that counts
            with self._lock:
                self._promise_progress(part.identity.etag, part._durable)

    def _around_drop(self, real: Any, part: PartFile, *args: Any, **options: Any) -> None:
        with self._lock:
            self._look()
            self._promise_progress(None, b"")
        real(part, *args, **options)

    def _around_publish(self, real: Any, part: PartFile, **options: Any) -> None:
        version, old = part.identity.etag, self._promise
        with self._lock:
            self._look()
            coming = (*old.final, version) if options["durable"] else ()
            self._promised(Promise(coming, old.progress, old.chunks, old.readable))
        real(part, **options)
        with self._lock:
            self._promised(Promise((version,) if options["durable"] else (), readable=old.readable))

    def _around_reopen(self, real: Any, target: Any, left: Checkpoint, seen: Any) -> None:
        """The chunks that hold are there at each moment, in the damaged file or in the part file."""
        begun, version = self._promise, left.identity.etag
        if not begun.readable:  # with durability=none nothing is promised
            real(target, left, seen)
            self.reopened.set()
            return
        good = replace(begun, progress=version, chunks=left.claimed)
        with self._lock:
            self._look()
            self._promised(replace(good, final=(DAMAGED, None)) if begun.final else begun)
        real(target, left, seen)
        with self._lock:
            self._promised(replace(good, final=(None,)))
        self.reopened.set()

    def _around_take_back(self, real: Any, *args: Any) -> None:
        with self._lock:
            if self._promise.readable:
                self._promised(replace(self._promise, final=(DAMAGED, None)))
        real(*args)

    def _around_read_left(self, real: Any, part: PartFile, **how: bool) -> Left | None:
        if self._evict == "early":
            self._lose()
        left: Left | None = real(part, **how)
        if self._evict == "late":
            self._lose()
        return left

    def _lose(self) -> None:
        """Drops from the cache, really, what a failed sync did not write."""
        with self._lock:
            self._look()
            for number, pages in self._disk.lost.items():
                names = [name for name, file in self._now.names.items() if file == number]
                on_disk = self._disk.durable.files.get(number)
                if not names or not pages:
                    continue
                fd = _REAL["open"](self._directory / names[0], os.O_WRONLY)
                for at in pages:
                    size = len(self._now.files[number].data[at : at + PAGE])
                    there = bytes(on_disk.data[at : at + size]) if on_disk is not None else b""
                    there += bytes(size - len(there))
                    _REAL["pwrite"](fd, there, at)
                    self._now.files[number].data[at : at + size] = there
                os.close(fd)
                self._tell(Lost(number))


def _bound(wrapper: Callable[..., Any], real: Any) -> Callable[..., Any]:
    return lambda *args, **options: wrapper(real, *args, **options)


def _around(wrapper: Callable[..., Any], real: Any) -> Callable[..., Any]:
    return lambda self, *args, **options: wrapper(real, self, *args, **options)


def storage_calls() -> list[str]:
    """Returns the functions of the storage that are being run here, the outermost first."""
    calls, frame = [], sys._getframe(1)
    while frame.f_back is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if (
            "/fastxfer/storage/" in path
            and not path.endswith(("/directory.py", "/disk.py"))
            and name[0] != "<"
        ):
            calls.append(name)
        frame = frame.f_back
    return calls[::-1]

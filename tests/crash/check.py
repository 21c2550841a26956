"""Opens a state as the next run does, and says what is wrong with it.

`python -m tests.crash.check TRACE STATE` does it for one state that a failed test has told.
"""

from __future__ import annotations

import errno
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastxfer
from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import CheckpointError, FastxferError
from fastxfer.names import CHECKPOINT, LEDGER, LOCK, PART
from fastxfer.plan.response import Identity
from fastxfer.storage import kept, left, owner, owner_record, part_file
from fastxfer.storage.checkpoint import Checkpoint, decode
from fastxfer.storage.directory import Directory
from fastxfer.storage.left import Left
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import resolve_target
from fastxfer.storage.publish import is_unchanged
from tests.crash.events import Name, Trace
from tests.crash.model import File, Image
from tests.crash.runs import DATE, DEADLINE_S, share
from tests.crash.states import State, replay
from tests.crash.trace import NAME
from tests.servers.raw import RangeHandler, RawServer


def working_names(image: Image) -> tuple[str, str]:
    """Returns the names of part file and checkpoint, which the owner's record tells where there is one."""
    file = image.of(NAME + LOCK)
    record = owner_record.decode(bytes(file.data)) if file is not None else None
    base = NAME
    if record is not None:
        base = (record.base if record.before is None else record.before) or NAME
    if base + PART not in image.names:
        base = NAME
    return base + PART, base + CHECKPOINT


class Checker:
    """Checks the states of one trace, in an empty directory that it fills and empties."""

    def __init__(self, trace: Trace, directory: Path) -> None:
        self.trace = trace
        self.directory = directory
        self.checkpointed = any(isinstance(e, Name) and e.name.endswith(CHECKPOINT) for e in trace.events)

    def wrong(self, state: State) -> list[str]:
        """Returns what is wrong with a state."""
        found = [*self._final(state), *self._kept_ledger(state), *self._trusted(state)]
        found += self._next_run(state, killed=False)
        if state.killed:
            found += self._next_run(state, killed=True)
        return found

    # ---- what stands under the final name ----

    def _version(self, file: File | None) -> str | None:
        """Returns which version of the object a file is, None for no file, "?" for none of them."""
        if file is None:
            return None
        return next((etag for etag, data in self.trace.objects.items() if file.data == data), "?")

    def _final(self, state: State) -> Iterator[str]:
        version, allowed = self._version(state.image.of(NAME)), state.promise.final
        if allowed and version not in allowed:
            yield f"under the final name stands {version}, allowed are {allowed}"

    def _kept_ledger(self, state: State) -> Iterator[str]:
        """What is taken for the ledger of the file under the final name is of it."""
        image, file = state.image, state.image.of(NAME)
        if state.promise.ledger and f"{NAME}{LEDGER}" not in image.names:
            yield "the kept ledger has lost its name"
        if file is None or not state.promise.final or not any(LEDGER in name for name in image.names):
            return
        self.fill(image)
        inode, real = self.trace.inodes[image.names[NAME]], kept.read
        with open(self.directory / NAME, "rb") as there, pytest.MonkeyPatch.context() as patches:

            def read(directory: Directory, name: str) -> Checkpoint | None:
                found = real(directory, name)
                ours = found is not None and found.inode == inode
                return replace(found, inode=os.fstat(there.fileno()).st_ino) if found and ours else found

            patches.setattr(kept, "read", read)
            try:
                found = kept.beside(resolve_target(self.trace.url, self.directory / NAME), there.fileno())
            except CheckpointError as error:
                yield f"the kept ledger cannot be read: {error}"
                return
        if found is not None and found.crc64 != crc64nvme(bytes(file.data)):
            yield "the kept ledger is of another file"

    # ---- what is trusted ----

    def _trusted(self, state: State) -> Iterator[str]:
        """What a checkpoint calls durable is there, even if nothing is verified."""
        part_name, checkpoint_name = working_names(state.image)
        file, part = state.image.of(checkpoint_name), state.image.of(part_name)
        if file is None or part is None:
            return
        try:
            checkpoint = decode(bytes(file.data))[0]
        except CheckpointError:
            return
        inode = self.trace.inodes[state.image.names[part_name]]
        if inode != checkpoint.inode or len(part.data) != checkpoint.identity.size:
            return
        right = self.trace.objects[checkpoint.identity.etag or ""]
        for chunk in bits(checkpoint.durable):
            start = chunk * checkpoint.chunk_size
            stop = start + checkpoint.chunk_size
            if part.data[start:stop] != right[start:stop]:
                yield f"chunk {chunk} is durable by the checkpoint and its bytes are wrong"

    def _inode(self, image: Image, checkpoint: Checkpoint) -> int:
        """Returns the part file's inode number: the one in the checkpoint too, if that is free to be given
        again.
        """
        taken = {self.trace.inodes[number] for number in image.names.values()}
        if checkpoint.inode not in taken:
            return checkpoint.inode
        part_name, _ = working_names(image)
        return self.trace.inodes[image.names[part_name]] if part_name in image.names else 0

    # ---- the next run ----

    def _next_run(self, state: State, *, killed: bool) -> Iterator[str]:
        self.fill(state.image)
        target = resolve_target(self.trace.url, self.directory / NAME)
        final = self._version(state.image.of(NAME))
        for etag in self.trace.objects if final is not None and state.promise.final else ():
            remote = Identity(len(self.trace.objects[etag]), etag, DATE)
            if is_unchanged(target, remote) and final != etag:
                yield f"the next run takes {final} for {etag} and fetches nothing"
        with pytest.MonkeyPatch.context() as patches:
            self._after(patches, killed)
            part = None
            try:
                part = PartFile.open(target, Source.of(self.trace.url, self.trace.url))
                if killed:
                    self._same_inode(state.image, part)
                left = part.read_left()
            except FastxferError as error:
                if part is not None:
                    part.close()
                if state.promise.readable or not isinstance(error, CheckpointError):
                    yield f"the next run fails: {error}"
                return
        if self.checkpointed and state.promise.readable and "orphan" in part.note:
            yield f"the next run leaves something behind: {part.note}"
        yield from self._kept(state, part, left, final)
        part.close()

    def _after(self, patches: pytest.MonkeyPatch, killed: bool) -> None:
        """Has it be after the cut, in another boot, or after a kill."""
        if self.trace.shared:
            share(patches)
        if killed:
            patches.setattr(owner, "lives", lambda record, here: False)
        else:
            for module in (left, owner_record, part_file):
                patches.setattr(module, "boot_id", lambda: "another boot")

    def _same_inode(self, image: Image, part: PartFile) -> None:
        file = image.of(working_names(image)[1])
        try:
            checkpoint = decode(bytes(file.data) if file is not None else b"")[0]
        except CheckpointError:
            return  # `read_left` will tell
        patched: Any = SimpleNamespace(
            st_ino=self._inode(image, checkpoint), st_dev=self.trace.device, st_blocks=part._stat.st_blocks
        )
        # A clock's tick is a few milliseconds: an inode that is given out again may have the same birth.
        part._stat, part._born = patched, checkpoint.born

    def _kept(self, state: State, part: PartFile, left: Left | None, final: str | None) -> Iterator[str]:
        promise, kept = state.promise, set()
        if left is not None:
            right = self.trace.objects[left.checkpoint.identity.etag or ""]
            for start, stop in left.ledger.present():
                if os.pread(part.fd, stop - start, start) != right[start:stop]:
                    yield f"the next run keeps wrong bytes in {start}-{stop}"
            for at in left.partials:
                start = at - at % left.ledger.chunk_size
                if os.pread(part.fd, at - start, start) != right[start:at]:
                    yield f"the next run keeps wrong bytes in {start}-{at}, a part of a chunk"
            if left.checkpoint.identity.etag == promise.progress:
                kept = {chunk for chunk in range(left.ledger.count) if chunk in left.ledger}
        missing = set(bits(promise.chunks)) - kept
        if missing and final != promise.progress:
            yield f"chunks {sorted(missing)} of {promise.progress} were durable and are lost"

    def resumes(self, state: State, etag: str) -> Iterator[str]:
        """Fetches version `etag` over a state, for real; yields what is wrong then."""
        self.fill(state.image)
        right = self.trace.objects[etag]
        with (
            pytest.MonkeyPatch.context() as patches,
            RawServer(RangeHandler(right, etag=etag, last_modified=DATE)) as server,
        ):
            self._after(patches, False)
            try:
                result = fastxfer.start(server.url(), self.directory / NAME, 2, unpause=True).wait(DEADLINE_S)
            except FastxferError as error:
                yield f"a fetch fails: {error}"
                return
        if (self.directory / NAME).read_bytes() != right:
            yield "a fetch leaves wrong bytes under the final name"
        found = os.listdir(self.directory)
        left = [name for name in found if name not in (NAME, f"{NAME}{LEDGER}") and ".orphan" not in name]
        if state.mode == "strict":  # the removal of files that nothing speaks of any more may be lost
            left = [name for name in left if not name.startswith(".fastxfer-")]
        if left and not result.skipped:  # progress of another version stays, beside one that is current
            yield f"a fetch leaves {left} behind"
        ledger = kept.read(Directory.open(self.directory), f"{NAME}{LEDGER}")
        if ledger is not None and ledger.crc64 != crc64nvme(right):
            yield "a fetch leaves the ledger of another file"

    def fill(self, image: Image) -> None:
        """Has the directory hold an image and nothing else."""
        for name in os.listdir(self.directory):
            os.unlink(self.directory / name)
        first: dict[int, Path] = {}
        for name, number in image.names.items():
            path, file = self.directory / name, image.of(name)
            assert file is not None
            if number in first:
                os.link(first[number], path)
                continue
            first[number] = path
            path.write_bytes(file.data)
            for key, value in file.attributes.items():
                if isinstance(value, bytes):
                    _set_attribute(path, key, value)
            if "mtime" in file.attributes:
                os.utime(path, (0, float(file.attributes["mtime"])))


def _set_attribute(path: Path, key: str, value: bytes) -> None:
    try:
        os.setxattr(path, key, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def bits(bitmap: bytes) -> Iterator[int]:
    """Yields the numbers of the bits that are set."""
    for byte, value in enumerate(bitmap):
        for bit in range(8):
            if value >> bit & 1:
                yield 8 * byte + bit


def main(trace_path: str, text: str) -> None:
    """Prints what is there in one state, and what is wrong with it."""
    trace: Trace = pickle.loads(Path(trace_path).read_bytes())
    state = replay(trace, text)
    for event in trace.events[: state.cut]:
        print(event if len(repr(event)) < 200 else f"{repr(event)[:60]}...")
    print("kept:", [repr(trace.events[at])[:60] for at in state.kept], "torn:", state.torn)
    print({name: len(state.image.files[number].data) for name, number in state.image.names.items()})
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for line in Checker(trace, Path(directory)).wrong(state):
            print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])

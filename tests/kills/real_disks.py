"""Fetches to disks that are really full, really read-only or really limited, in a process of its own.

Run as `unshare --mount python -m tests.kills.real_disks CASE PLACE SINK`; PLACE is an empty directory. It
mounts what the case needs there, has a fetch fail, looks at the error and at what is kept, mends the disk and
fetches again. The server is in the same process, and stops half way where a case asks for it.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastxfer
from fastxfer.plan.scheduler import WASTE_BYTES
from tests.cli.command import claimed, wait_until
from tests.descriptors import held_open
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, Content, Fault, RangeHandler, RawServer

MIB = 1024**2
SIZE = 3 * MIB + 12345
DATA = make_bytes(SIZE, seed=21)
DEADLINE_S = 60.0
FREE_SPACE = "free some space and run it again"


class HalfWay(RangeHandler):
    """Serves the object; `at_half` is called once, when half of a long range has gone out. With `ends_there`
    nothing more is sent then: the client is to go.
    """

    at_half: Callable[[], object] | None = None
    ends_there = False
    told_length = True
    told_size = SIZE
    sent = 0

    def head(self, content: Content, status: int, wanted: tuple[int, int]) -> dict[str, str]:
        """Leaves the length out when it is not to be told; tells another size of the whole if it is to."""
        fields = super().head(content, status, wanted)
        if "Content-Range" in fields:
            fields["Content-Range"] = fields["Content-Range"].replace(f"/{SIZE}", f"/{self.told_size}")
        if not self.told_length:
            del fields["Content-Length"]
        return fields

    def body(self, connection: Connection, content: Content, wanted: tuple[int, int], fault: Fault) -> None:
        """Ends the connection where nothing else tells the end of the body."""
        super().body(connection, content, wanted, fault)
        if not self.told_length:
            connection.close()

    def send(self, connection: Connection, content: Content, start: int, stop: int) -> None:
        """Stops half way for `at_half`."""
        half = (start + stop) // 2
        super().send(connection, content, start, half)
        if self.at_half is not None and stop - start > MIB:
            act, self.at_half, self.sent = self.at_half, None, half
            act()
            if self.ends_there:
                connection.wait_until_gone()
        super().send(connection, content, half, stop)


@dataclass(slots=True)
class Disk:
    """What a case works with."""

    place: Path
    server: RawServer
    handler: HalfWay
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """The target."""
        return self.place / "out"

    def fetch(self) -> fastxfer.FetchResult:
        """Fetches, within the deadline."""
        options: dict[str, Any] = {"connections": 1, "chunk_size": 65536, "retries": 0, **self.options}
        return fastxfer.start(self.server.url(), self.out, **options).wait(DEADLINE_S)

    def refused(self, number: int, hint: str, *, kept: bool = False) -> fastxfer.StorageError:
        """Fetches, which must fail with this error, tell what to do, and let go of everything."""
        try:
            self.fetch()
        except fastxfer.StorageError as caught:
            error = caught
        else:
            raise AssertionError("it did not fail")
        full = number in (errno.ENOSPC, errno.EDQUOT)
        assert type(error) is (fastxfer.DiskFullError if full else fastxfer.StorageError), repr(error)
        assert (error.errno, error.exit_code) == (number, 9 if full else 17), repr(error)
        assert hint in str(error), str(error)
        assert not os.path.lexists(self.out)
        assert (error.kept is not None) is kept, (str(error), error.kept)
        self.let_go()
        return error

    def let_go(self) -> None:
        """No descriptor is of the place any more, and no thread of the transfer is left."""
        for thread in threading.enumerate():
            if thread.name.startswith("fastxfer") and thread.name != "fastxfer-engine":
                thread.join(DEADLINE_S)
                assert not thread.is_alive(), thread
        assert held_open(self.place) == 0

    def arrives(self, *, resumed: bool = False) -> None:
        """Fetches again, to the end."""
        result = self.fetch()
        assert self.out.read_bytes() == DATA
        assert sorted(os.listdir(self.place)) == ["out"], os.listdir(self.place)
        assert (result.resumed > 0) is resumed, result
        assert 0 <= result.resumed + result.transferred - SIZE <= WASTE_BYTES, result
        self.let_go()

    def mount(self, options: str, *, again: bool = False) -> None:
        """Mounts a tmpfs at the place, or changes the options of the one that is there."""
        if again:
            run("mount", "-o", f"remount,{options}", str(self.place))
        else:
            run("mount", "-t", "tmpfs", "-o", options, "none", str(self.place))

    def fill(self) -> None:
        """Takes all the space that is left, but for what the file system keeps for itself."""
        with open(self.place / "filler", "wb", buffering=0) as filler:
            for block in (65536, 1024):
                try:
                    while filler.write(bytes(block)) == block:
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def free(self) -> None:
        """Gives the space back."""
        (self.place / "filler").unlink()


def run(*command: str) -> None:
    """Runs a command of the system, which must succeed."""
    subprocess.run(command, check=True, timeout=DEADLINE_S)


def full_at_allocation(disk: Disk) -> None:
    """There is not the space: told before a byte is written."""
    disk.mount("size=2m")
    disk.refused(errno.ENOSPC, FREE_SPACE)
    assert os.listdir(disk.place) == []
    disk.mount("size=20m", again=True)
    disk.arrives()


def no_inode(disk: Disk) -> None:
    """There is space, but no file can be made beside the part file."""
    disk.mount("size=20m,nr_inodes=2")
    disk.refused(errno.ENOSPC, FREE_SPACE)
    disk.mount("size=20m,nr_inodes=100", again=True)
    disk.arrives()


def full_while_it_grows(disk: Disk) -> None:
    """The object's length is not told, so nothing could be reserved, and nothing can be gone on from."""
    disk.mount("size=2m")
    disk.handler.ranges = disk.handler.told_length = False
    disk.refused(errno.ENOSPC, FREE_SPACE)
    disk.mount("size=20m", again=True)
    disk.arrives()


def full_for_the_checkpoint(disk: Disk) -> None:
    """The part file's space is reserved, but the checkpoint's second slot finds none."""
    disk.mount("size=5m")
    disk.options["durability"] = "chunk"

    disk.handler.at_half = disk.fill
    disk.handler.ends_there = True
    error = disk.refused(errno.ENOSPC, FREE_SPACE)
    assert "out.part.ckpt" in str(error)
    disk.free()
    disk.arrives()


def full_while_it_is_written(disk: Disk) -> None:
    """A file system that cannot reserve space, and is filled by someone else half way."""
    image = disk.place.with_name("image")
    with image.open("wb") as file:
        file.truncate(12 * MIB)
    run("mkfs.ext4", "-q", "-O", "^extent,^64bit,^has_journal", "-m", "0", str(image))
    run("mount", "-o", "loop", str(image), str(disk.place))
    (disk.place / "lost+found").rmdir()

    def fill_after_a_save() -> None:
        save_came(disk)
        disk.fill()

    disk.handler.at_half = fill_after_a_save
    disk.refused(errno.ENOSPC, FREE_SPACE, kept=True)
    disk.free()
    disk.arrives(resumed=True)


def limited_at_allocation(disk: Disk) -> None:
    """A limit on the size of files (SIGXFSZ is ignored by Python)."""
    with limited(2 * MIB):
        disk.refused(errno.EFBIG, "ulimit -f")
    disk.arrives()


def limited_while_it_grows(disk: Disk) -> None:
    """The same, where the length is not told."""
    disk.handler.ranges = disk.handler.told_length = False
    with limited(2 * MIB):
        disk.refused(errno.EFBIG, "ulimit -f")
    disk.arrives()


def limited_under_the_checkpoint(disk: Disk) -> None:
    """A limit that not even the checkpoint fits under."""
    with limited(8192):
        disk.refused(errno.EFBIG, "ulimit -f")
    disk.arrives()


def read_only(disk: Disk) -> None:
    """The directory is of a mount that is read-only."""
    run("mount", "--bind", str(disk.place), str(disk.place))
    run("mount", "-o", "remount,bind,ro", str(disk.place))
    disk.refused(errno.EROFS, "mounted read-only")
    run("mount", "-o", "remount,bind,rw", str(disk.place))
    disk.arrives()


def no_permission(disk: Disk) -> None:
    """The directory belongs to someone else, who lets nobody write."""
    with as_nobody():
        disk.refused(errno.EACCES, "check the permissions")
    disk.arrives()


def save_came(disk: Disk) -> None:
    """Returns when the checkpoint claims something."""
    wait_until(lambda: claimed(disk.out) > 0)


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Puts a limit on the size of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Makes this process an ordinary user's, as far as files are concerned."""
    os.chmod(sys.argv[2], 0o555)
    user = os.geteuid()
    if user == 0:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
            os.setegid(0)
        os.chmod(sys.argv[2], 0o755)


MOUNTING = {
    case.__name__: case
    for case in (full_at_allocation, no_inode, full_while_it_grows, full_for_the_checkpoint, read_only)
}
UNMOUNTED = {
    case.__name__: case
    for case in (limited_at_allocation, limited_while_it_grows, limited_under_the_checkpoint, no_permission)
}
OF_LOOP_DEVICES = {full_while_it_is_written.__name__: full_while_it_is_written}
CASES = {**MOUNTING, **UNMOUNTED, **OF_LOOP_DEVICES}


def run_case(case: Callable[[Disk], None], place: str, sink: str) -> None:
    """Runs one case."""
    handler = HalfWay(DATA)
    with RawServer(handler) as server:
        case(Disk(Path(place), server, handler, {"sink": sink}))


if __name__ == "__main__":
    run_case(CASES[sys.argv[1]], *sys.argv[2:])

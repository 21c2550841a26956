"""Disks of our own making, each in an image: with a quota, gone read-only by an error, with a limit on files.

Run as `unshare --mount python -m tests.kills.loop_disks CASE PLACE SINK`, see real_disks.py.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cli.command import claimed, wait_until
from tests.kills.real_disks import MIB, SIZE, Disk, run, run_case, save_came
from tests.servers import ServerError, find_program

GIB = 1024**3
FREE_QUOTA = "free some of the quota and run it again"


def mounted(disk: Disk, size: int, *make: str) -> Path:
    """Makes a file system in an image, and mounts it; returns the image."""
    image = disk.place.with_name("image")
    with image.open("wb") as file:
        file.truncate(size)
    run(*make, str(image))
    run("mount", "-o", "loop", str(image), str(disk.place))
    if (disk.place / "lost+found").exists():
        (disk.place / "lost+found").rmdir()
    return image


def with_quota(disk: Disk) -> Callable[[str], None]:
    """Mounts a file system that has a quota; returns what sets it. It is btrfs, whose quota holds for root
    too and needs nothing of the kernel but itself.
    """
    if "btrfs" not in Path("/proc/filesystems").read_text().split():
        tried = subprocess.run(["modprobe", "btrfs"], capture_output=True, text=True, check=False)
        if tried.returncode:
            raise ServerError(f"a real quota needs btrfs, and this kernel has none: {tried.stderr}")
    btrfs = find_program("btrfs", install="apt-get install btrfs-progs (or run .ci/install-packages)")
    mounted(disk, 128 * MIB, "mkfs.btrfs", "-q", "--mixed")
    top = disk.place.with_name("top")
    top.mkdir()
    run("mount", "--bind", str(disk.place), str(top))
    run(btrfs, "--quiet", "subvolume", "create", str(top / "limited"))
    run(btrfs, "quota", "enable", str(top))
    run("mount", "--bind", str(top / "limited"), str(disk.place))

    def limit(size: str) -> None:
        # From above: where the quota is used up, even to raise it is too much.
        run(btrfs, "qgroup", "limit", size, "0/256", str(top))

    return limit


def quota_at_allocation(disk: Disk) -> None:
    """The object is more than the quota: told before a byte is written."""
    limit = with_quota(disk)
    limit("2M")
    disk.refused(errno.EDQUOT, FREE_QUOTA)
    assert os.listdir(disk.place) == []
    limit("none")
    disk.arrives()


def quota_while_it_grows(disk: Disk) -> None:
    """The object's length is not told, so nothing could be reserved, and nothing can be gone on from."""
    limit = with_quota(disk)
    limit("2M")
    disk.handler.ranges = disk.handler.told_length = False
    disk.refused(errno.EDQUOT, FREE_QUOTA)
    limit("none")
    disk.arrives()


def quota_while_it_is_written(disk: Disk) -> None:
    """The quota becomes smaller than what is there: nothing more of the body or checkpoint is written."""
    limit = with_quota(disk)
    disk.options["durability"] = "chunk"

    def after_a_save() -> None:
        save_came(disk)
        limit("1M")

    disk.handler.at_half = after_a_save
    disk.refused(errno.EDQUOT, FREE_QUOTA, kept=True)
    limit("none")
    disk.arrives(resumed=True)


def gone_read_only(disk: Disk) -> None:
    """The file system finds an error half way, and makes itself read-only, files that are open included."""
    image = mounted(disk, 24 * MIB, "mkfs.ext4", "-q", "-m", "0", "-e", "remount-ro")
    disk.options["durability"] = "chunk"
    device = os.stat(disk.place).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name

    def refuses() -> bool:
        try:
            os.close(os.open(disk.place / "another", os.O_CREAT | os.O_WRONLY))
        except OSError as error:
            return error.errno == errno.EROFS
        return False

    def after_the_saves() -> None:
        wait_until(lambda: claimed(disk.out) >= disk.handler.sent // 65536 * 65536)
        checkpoint = disk.out.with_name("out.part.ckpt")
        then = checkpoint.stat().st_mtime_ns
        wait_until(lambda: checkpoint.stat().st_mtime_ns != then)  # a claim: no sync is running any more
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("a test")
        wait_until(refuses)

    disk.handler.at_half = after_the_saves
    disk.refused(errno.EROFS, "mounted read-only", kept=True)
    run("umount", str(disk.place))
    run("mount", "-o", "loop", str(image), str(disk.place))
    disk.arrives(resumed=True)


def larger_than_a_file_may_be(disk: Disk) -> None:
    """An object of 20 GiB, where a file may have 16."""
    old = ("-O", "^has_journal,^extent,^64bit,^resize_inode", "-b", "1024", "-N", "64", "-m", "0")
    mounted(disk, 24 * GIB, "mkfs.ext4", "-q", *old)
    disk.handler.told_size = 20 * GIB
    disk.refused(errno.EFBIG, "does not allow a file of this size")
    assert os.listdir(disk.place) == []
    disk.handler.told_size = SIZE
    disk.arrives()


CASES: dict[str, tuple[Callable[[Disk], None], tuple[str, ...]]] = {
    case.__name__: (case, sinks)
    for case, sinks in (
        (quota_at_allocation, ("pwrite", "mmap")),
        (quota_while_it_grows, ("auto",)),
        (quota_while_it_is_written, ("pwrite", "mmap", "direct")),
        (gone_read_only, ("pwrite", "mmap", "direct")),
        (larger_than_a_file_may_be, ("auto",)),
    )
}

if __name__ == "__main__":
    run_case(CASES[sys.argv[1]][0], *sys.argv[2:])

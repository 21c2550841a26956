"""What may stand where a target or a working file should: links, pipes and other things, and how to tell that
nothing else was touched.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.faults.scenarios import OTHER

Change = Callable[[Path], object]
PRECIOUS = b"precious"
WORKING_NAMES = ["out", "out.part", "out.part.ckpt"]


def tree(root: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Returns what is below a directory: mode, inode, and the bytes of a file or the end of a link."""
    found: dict[str, tuple[int, int, bytes | str]] = {}
    for path in sorted(root.rglob("*")):
        there = path.lstat()
        content: bytes | str = b""
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (there.st_mode, there.st_ino, content)
    return found


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def link_to_moved(path: Path) -> None:
    """Moves what is there, if anything is, and puts a link to it (or to nothing) in its place."""
    moved = path.parents[1] / f"moved-{path.name}"
    if path.exists():
        path.rename(moved)
    path.symlink_to(moved)


def hard_link_to_precious(path: Path) -> None:
    """Puts a file there that has another name too."""
    path.unlink(missing_ok=True)
    precious = path.parents[1] / "precious"
    precious.write_bytes(PRECIOUS)
    path.hardlink_to(precious)


def link_to_precious(path: Path) -> None:
    path.unlink(missing_ok=True)
    precious = path.parents[1] / "precious"
    precious.write_bytes(PRECIOUS)
    path.symlink_to(precious)


def instead(make: Change) -> Change:
    def change(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return change


IN_THE_WAY = {
    "link": link_to_precious,
    "link-to-its-own": link_to_moved,
    "dangling": instead(lambda path: path.symlink_to("gone")),
    "loop": instead(lambda path: path.symlink_to(path)),
    "device": instead(lambda path: path.symlink_to("/dev/null")),
    "pipe": instead(os.mkfifo),
    "socket": instead(listen),
    "directory": instead(os.mkdir),
}
"""Each puts something at a path, for what is there if anything is; the current directory must be near."""


def replaced(path: Path) -> None:
    path.unlink()
    path.write_bytes(OTHER)


SWAPS = {**IN_THE_WAY, "other-file": replaced, "nothing": Path.unlink}
"""What may happen meanwhile to a file that is there."""

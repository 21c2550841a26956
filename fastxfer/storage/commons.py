"""The file on which the processes of a user tell each other what they ask of hosts (plan/sharing.py).

It lies in a directory that nobody else may enter: `fastxfer` in $XDG_RUNTIME_DIR, else `fastxfer-UID` in the
directory for temporary files, whose owner and mode are checked and which is never reached through a link. It
is one JSON object, read, changed and written under flock(2) in one go: five system calls. Nothing in it has
to last: what cannot be read counts as empty, and each process writes its part again within half a second.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastxfer.plan.governor import Learned
from fastxfer.plan.sharing import Board, Claim, Member
from fastxfer.storage.directory import Directory

NAME = "hosts.json"
MOST_BYTES = 1 << 20
LOCK_TRIES = 50
LOCK_TRY_S = 0.002
MOST_COUNT = 1 << 20
MOST_PID = 1 << 30
_T = TypeVar("_T")


class Commons:
    """The shared file. `exchange` may block for a tenth of a second; one thread at a time."""

    def __init__(self) -> None:
        self._directory: Directory | None = None
        self.namespace = _namespace()
        """Tells ids of processes apart that are not of one namespace; 0 where nothing is known of them."""

    def exchange(self, change: Callable[[Board], tuple[Board, _T]]) -> _T:
        """Has `change` make a new board out of the old one, and returns what it says beside that.

        Raises OSError when there is no file to share, or no lock to be had in time.
        """
        if self._directory is None:
            self._directory = private_directory()
        try:
            fd = self._open(self._directory)
        except FileNotFoundError:  # somebody has tidied up
            self._directory = private_directory()
            fd = self._open(self._directory)
        try:
            _lock(fd)
            text = os.pread(fd, MOST_BYTES, 0)
            board, answer = change(self._without_dead(read_board(text)))
            # What is longer than the new text is blanked out: a shorter file would take another call.
            os.pwrite(fd, write_board(board).ljust(len(text)), 0)
        finally:
            os.close(fd)
        return answer

    def _open(self, directory: Directory) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(NAME, flags, 0o600, dir_fd=directory.fd)

    def _without_dead(self, board: Board) -> Board:
        def there(member: Member) -> bool:
            visible = self.namespace and member.namespace == self.namespace
            return not visible or member.pid == os.getpid() or _runs(member.pid)

        members = {name: each for name, each in board.members.items() if there(each)}
        return Board(members, board.hosts)


def _namespace() -> int:
    try:
        return int(os.readlink("/proc/self/ns/pid").removeprefix("pid:[").removesuffix("]"))
    except (OSError, ValueError):
        return 0


def private_directory() -> Directory:
    """Returns the user's own directory for what processes share. Raises OSError when there is none that can
    be trusted.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        try:
            return _private(Path(runtime), "fastxfer")
        except OSError:
            pass  # it is often set, and not there, for who became another user
    return _private(_temporary(), f"fastxfer-{os.geteuid()}")


def _temporary() -> Path:
    """Returns the directory for temporary files. The variables are those of `tempfile`, which takes 3 ms to
    import, and writes a file to try what they name.
    """
    named = (os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP"))
    return Path(next((each for each in named if each.startswith("/") and os.path.isdir(each)), "/tmp"))


def _private(parent: Path, name: str) -> Directory:
    above = Directory.open(parent)
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=above.fd)
        except FileExistsError:
            pass
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        found = Directory(parent / name, os.open(name, flags, dir_fd=above.fd))
    finally:
        above.close()
    seen = os.fstat(found.fd)
    if seen.st_uid != os.geteuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise PermissionError(f"{found.path} belongs to somebody else, or others may enter it")
    return found


def _lock(fd: int) -> None:
    """Locks a file; never for long, for who has the lock may have been stopped."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            threading.Event().wait(LOCK_TRY_S)
    raise BlockingIOError("the lock of the shared file is not to be had")


def _runs(pid: int) -> bool:
    """Returns whether a process is there, and not only waits to be asked how it ended."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        return False
    except OSError:
        pass  # it is out of reach
    return True


# ---- the file's text ----


def write_board(board: Board) -> bytes:
    """Returns the text of a board."""
    members = {name: asdict(each) for name, each in board.members.items()}
    hosts = {name: asdict(each) for name, each in board.hosts.items()}
    return json.dumps({"members": members, "hosts": hosts}, separators=(",", ":")).encode() + b"\n"


def read_board(text: bytes) -> Board:
    """Returns the board of a text; an empty one when the text is none."""
    try:
        raw = json.loads(text)
        members = {name: _member(each) for name, each in raw["members"].items()}
        hosts = {name: _learned(each) for name, each in raw["hosts"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return Board()
    return Board(members, hosts)


def _member(raw: Any) -> Member:
    claims = {host: _claim(each) for host, each in raw["claims"].items()}
    return Member(_whole(raw["pid"], MOST_PID), _whole(raw["namespace"], 1 << 64), _time(raw["at"]), claims)


def _claim(raw: Any) -> Claim:
    out, wants, served, held, floor = (
        _whole(raw[name]) for name in ("out", "wants", "served", "held", "floor")
    )
    cap = None if raw["cap"] is None else max(1, _whole(raw["cap"]))
    return Claim(out, wants, served, held, _time(raw["since"]), cap, floor)


def _learned(raw: Any) -> Learned:
    limit = None if raw["limit"] is None else max(1, _whole(raw["limit"]))
    times = {name: _time(raw[name]) for name in ("changed_at", "fell_at", "quiet_s", "held_until")}
    return Learned(limit, tried=bool(raw["tried"]), **times)


def _whole(value: Any, most: int = MOST_COUNT) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError("no number of this file")
    return int(value)


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError("no time of this file")
    return float(value)

"""Who runs an item: a process, told apart from every other one, also from a later one with its number."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass

from fastxfer.storage.checkpoint import boot_id

# Of a runner on another machine or in another container only its heartbeat can be seen.
HEARTBEAT_S = 2.0
SILENT_S = 60.0

_living: set[str] = set()  # the tokens of this process's runners


@dataclass(frozen=True, slots=True)
class Owner:
    """A runner. `host` is its machine, `boot` that machine's boot id, `space` its namespace of process
    numbers, `started` when the process began, in ticks since that boot; `heartbeat` in seconds since 1970.
    """

    token: str
    host: str
    boot: str
    space: str
    pid: int
    started: int
    heartbeat: float

    @classmethod
    def here(cls) -> Owner:
        """Returns a new runner of this process."""
        pid = os.getpid()
        owner = cls(secrets.token_hex(16), _host(), boot_id(), _space(), pid, _started(pid) or 0, time.time())
        _living.add(owner.token)
        return owner

    def is_gone(self, now: float) -> bool:
        """Returns whether the runner has ended, by a kill or a reboot too."""
        if self.host == _host() and self.boot and self.boot != boot_id():
            return True
        if (self.host, self.boot, self.space) != (_host(), boot_id(), _space()):
            return abs(now - self.heartbeat) > SILENT_S
        if _started(self.pid) != self.started:
            return True
        return self.pid == os.getpid() and self.token not in _living

    def retire(self) -> None:
        """Ends the runner, though its process goes on."""
        _living.discard(self.token)


def _host() -> str:
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            machine = file.read(64).strip()
    except (OSError, ValueError):
        machine = ""
    return f"{os.uname().nodename} {machine}"


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Returns when a process began (proc(5), field 22 of stat), or None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])

"""The record of who writes a target, on file systems whose locks prove nothing; and what can be told of a
process: whether it lives.

A record is 1 KiB of JSON, written in one piece. It is outside input: its length and its members are checked,
and one that cannot be read is of somebody who is not known.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import asdict, fields

from fastxfer.storage.checkpoint import boot_id
from fastxfer.values import dataclass

RECORD_BYTES = 1024
_TOKEN = re.compile(r"[0-9a-f]{16}")
_BASE = re.compile(r"\.fastxfer-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Record:
    """Who writes a target, and where its working files are.

    `machine` and `boot` tell machines and their boots apart ("" when that is not known), `pid_space` their
    containers; `started` is when the process began, in ticks since the boot. `base` is what the names of the
    working files begin with; `before` that of files which somebody else may still be writing, as long as all
    progress is there; `past` that of files which are over and to be removed; "" is the target's own name.
    `count` rises while the owner lives.
    """

    token: str
    host: str
    machine: str
    boot: str
    pid_space: int
    pid: int
    started: int
    since: float
    base: str
    before: str | None = None
    past: str | None = None
    released: bool = False
    count: int = 0

    def encode(self) -> bytes:
        """Returns its RECORD_BYTES bytes."""
        text = json.dumps(asdict(self), separators=(",", ":")).encode()
        return text.ljust(RECORD_BYTES - 1) + b"\n"

    @property
    def who(self) -> str:
        """Who that is, for people."""
        return describe(self.pid, self.host, self.since)


def decode(data: bytes) -> Record | None:
    """Returns what a record's bytes say, or None when they cannot be read."""
    try:
        value = json.loads(data)
        members = {each.name: value[each.name] for each in fields(Record)}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts, numbers = ("host", "machine", "boot"), ("pid_space", "pid", "started", "count")
    good = (
        len(value) == len(members)
        and all(type(members[name]) is str for name in texts)
        and all(type(members[name]) is int and 0 <= members[name] < 2**64 for name in numbers)
        and members["pid"] > 0
        and type(members["since"]) is float
        and 0 <= members["since"] < 2**40
        and type(members["released"]) is bool
        and isinstance(members["token"], str)
        and _TOKEN.fullmatch(members["token"])
        and is_base(members["base"])
        and all(members[name] is None or is_base(members[name]) for name in ("before", "past"))
    )
    return Record(**members) if good and len(data) == RECORD_BYTES else None


def base_of(token: str) -> str:
    """Returns what the names of an owner's working files begin with: nobody else ever makes such names."""
    return f".fastxfer-{token}"


def is_base(value: object) -> bool:
    """Returns whether the names of working files can begin with it: nothing that leads elsewhere can."""
    return isinstance(value, str) and (not value or _BASE.fullmatch(value) is not None)


def this_process() -> Record:
    """Returns a new record of this process."""
    token = os.urandom(8).hex()
    return Record(
        token=token,
        host=os.uname().nodename[:64],
        machine=_machine(),
        boot=boot_id()[:64],
        pid_space=_pid_space(),
        pid=os.getpid(),
        started=(started(os.getpid()) or (0, ""))[0],
        since=time.time(),
        base=base_of(token),
    )


def _machine() -> str:
    """Returns what tells this machine from others: a hash, since its id is to be kept from others."""
    try:
        with open("/etc/machine-id", "rb") as file:
            machine_id = file.read(64).strip()
    except OSError:
        return ""
    if not machine_id or machine_id == b"uninitialized":
        return ""
    # Copies of one virtual machine may share their id, and then have other names.
    named = b"fastxfer\0" + machine_id + b"\0" + os.fsencode(os.uname().nodename)
    return hashlib.sha256(named).hexdigest()[:32]


def _pid_space() -> int:
    """Returns the number of this process's PID namespace; 0 when /proc does not show it."""
    try:
        shown = os.readlink("/proc/self") == str(os.getpid())
        return int(os.readlink("/proc/self/ns/pid").strip("pid:[]")) if shown else 0
    except (OSError, ValueError):
        return 0


def started(pid: int) -> tuple[int, str] | None:
    """Returns when a process started, in ticks since the boot, and its state; None when that is not shown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            values = file.read(4096).rpartition(b")")[2].split()
        return int(values[19]), values[0].decode()
    except (OSError, ValueError, IndexError):
        return None


def lives(record: Record, here: Record) -> bool | None:
    """Returns whether the process of a record lives; None when that cannot be told from `here`."""
    if (record.boot, record.pid_space) != (here.boot, here.pid_space) or not (here.boot and here.pid_space):
        return None
    try:
        os.kill(record.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is somebody else's
    now = started(record.pid)
    # A zombie writes no more; another start is another process with the same number.
    return now is None or (now[0] == record.started and now[1] not in ("Z", "X"))


def describe(pid: int, host: str, since: float, what: str = "writing since") -> str:
    """Returns who a process is, and what it does since when, for people."""
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in host)
    return f"process {pid} on {shown}, {what} {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(since))} UTC"

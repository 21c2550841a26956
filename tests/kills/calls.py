"""The system calls of a command, by strace: which it makes on its files, and one of them killed or refused.

A call is known by its name, by what it is done on, and by its number among the calls of its thread. strace
counts by thread too, and only the calls on the path that is given. SIGKILL comes before the call is carried
out, an error instead of it.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cli.command import environment
from tests.servers import ServerError, find_program

DEADLINE_S = 120.0
# Every call that may change what is on disk, or what the transfer knows of it.
NAMES = (
    "creat,open,openat,ftruncate,truncate,fallocate,pwrite64,pwritev,write,mmap,madvise,msync,fdatasync,fsync,"
    "sync_file_range,flock,rename,renameat,renameat2,link,linkat,unlink,unlinkat,fsetxattr,setxattr,fremovexattr,utimensat,"
    "futimesat,fchmod,fchown,symlinkat,mkdirat"
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_FD = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>")


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One call: `on` is dir, part, checkpoint, ledger or target, "" for one that names no file (madvise)."""

    name: str
    on: str
    number: int

    def paths(self, out: Path) -> list[Path]:
        """Returns the paths that the call may be done on when a fetch writes `out`."""
        return [path for path, on in groups(out).items() if on == self.on]


def groups(out: Path) -> dict[Path, str]:
    """Returns what a fetch to `out` does its calls on, and what that is; a checkpoint is made under a name of
    its own.
    """
    name = out.name
    return {
        out.parent: "dir",
        out.with_name(f"{name}.part"): "part",
        out.with_name(f"{name}.part.ckpt"): "checkpoint",
        out.with_name(f"{name}.part.new"): "checkpoint",
        out.with_name(f"{name}.fxsum"): "ledger",
        out.with_name(f"{name}.fxsum.new"): "ledger",
        out: "target",
    }


@functools.cache
def strace() -> str:
    """Returns the path of strace. Raises ServerError when it is missing or may not trace."""
    program = find_program("strace", install="apt-get install strace (or run .ci/install-packages)")
    probe = [program, "-f", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true"]
    tried = subprocess.run(probe, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if tried.returncode:
        raise ServerError(
            "these tests watch system calls, and ptrace is not permitted here (a container needs "
            f"--cap-add=SYS_PTRACE, or a seccomp profile that allows it): {tried.stderr.strip()}"
        )
    return program


def record(command: Sequence[str], out: Path, log: Path) -> list[Call]:
    """Runs a command, which must succeed, and returns the calls it makes on `out`'s directory and files."""
    ended = _run([strace(), "-f", "-y", "-qq", "-o", str(log), "-e", f"trace={NAMES}", *command])
    if ended.returncode:
        raise ServerError(f"the command to be recorded failed: {ended.stderr}")
    return sorted(_calls(log.read_text(errors="replace"), out))


def _calls(log: str, out: Path) -> set[Call]:
    known = {str(path): on for path, on in groups(out).items()}
    numbers: Counter[tuple[str, str, str]] = Counter()
    mapping = {thread for thread, name, rest in _LINE.findall(log) if "MADV_POPULATE_WRITE" in rest}
    calls = set()
    for thread, name, arguments in _LINE.findall(log):
        on = next((known[path] for path in _FD.findall(arguments) if path in known), None)
        if name == "madvise":
            on = ""
        if on is None:
            continue
        numbers[thread, name, on] += 1
        reads = name in ("open", "openat") and "O_CREAT" not in arguments
        private = name == "mmap" and "MAP_SHARED" not in arguments
        foreign = name == "madvise" and thread not in mapping and "MADV_HUGEPAGE" not in arguments
        if not (reads or private or foreign):
            calls.add(Call(name, on, numbers[thread, name, on]))
    return calls


def run_with(
    effect: str, call: Call, command: Sequence[str], out: Path
) -> tuple[subprocess.CompletedProcess[str], bool]:
    """Runs a command with something done to one of its calls, `signal=SIGKILL` or `error=EIO`; returns how it
    ended, and whether it came to that call: how often it saves is not the same each time.
    """
    only = [word for path in call.paths(out) for word in ("-P", str(path))]
    inject = f"inject={call.name}:{effect}:when={call.number}"
    log = out.parent.with_suffix(".strace")
    watch = [strace(), "-f", "-o", str(log), *only, "-e", f"trace={call.name}", "-e", inject]
    ended = _run([*watch, *command])
    told = log.read_text(errors="replace")
    log.unlink()
    return ended, "(INJECTED)" in told or "killed by SIGKILL" in told


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command in a session of its own, all of which is ended when it is late."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        raise ServerError(f"{command!r} does not end: {stdout}{stderr}") from None
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

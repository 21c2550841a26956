"""Machines of one's own that share a directory, as over a network file system: what each believes of itself
differs (host name, machine id, boot, processes), and each sees the directory through a mount of its own.

A machine is a set of Linux namespaces, the mount is bindfs (FUSE): its locks end at the mount, and it keeps
what it knows of names and sizes for a second, so that it is as deceptive as NFS. Inside runs this module as
the first process; it starts transfers, each in a process of its own, and passes signals on.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from fastxfer.cli.main import main as command
from fastxfer.errors import InterruptedTransferError
from fastxfer.storage import locks, owner
from tests.cli.command import DEADLINE_S, environment, wait_until
from tests.servers import ServerError, find_program

NEEDS = "a container needs --device=/dev/fuse --cap-add=SYS_ADMIN and no AppArmor or seccomp against mounts"


@functools.cache
def apart() -> list[str]:
    """Returns the command that runs another in namespaces of its own. Raises ServerError where it may not."""
    program = find_program("unshare", install="apt-get install util-linux")
    spaces = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [program, *spaces, "--propagation", "private"]
    tried = subprocess.run(
        [*command, "true"], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if tried.returncode:
        raise ServerError(
            "these tests make machines of namespaces, and that is not permitted here "
            f"({NEEDS}): {tried.stderr.strip()}"
        )
    return command


def bindfs() -> str:
    """Returns the path of bindfs. Raises ServerError when it, or FUSE, is missing."""
    program = find_program("bindfs", install="apt-get install bindfs (or run .ci/install-packages)")
    if not os.path.exists("/dev/fuse"):
        raise ServerError(f"these tests mount a FUSE file system, and there is no /dev/fuse ({NEEDS})")
    return program


@contextmanager
def mounted(back: Path, at: Path) -> Iterator[None]:
    """Has `back` be at `at` too, on a file system whose locks prove nothing. Raises ServerError where nothing
    can be mounted.
    """
    null = subprocess.DEVNULL
    with subprocess.Popen([bindfs(), "-f", str(back), str(at)], stdin=null, stdout=null) as process:
        try:
            wait_until(lambda: os.path.ismount(at) or process.poll() is not None)
            if process.poll() is not None:
                raise ServerError(f"bindfs cannot mount a directory here ({NEEDS})")
            yield
        finally:
            process.terminate()  # and so it is unmounted


class Machine:
    """A machine that is up while its context is open. `shared` is the directory as it sees it."""

    def __init__(
        self, place: Path, back: Path, name: str, *, boot: str = "first", watch_s: float = 1.0
    ) -> None:
        self.name = name
        self._place = place / f"{name}-{boot}"
        self.shared = self._place / "shared"
        self.shared.mkdir(parents=True)
        (self._place / "etc").mkdir()
        (self._place / "etc" / "machine-id").write_text(f"{name}\n")
        (self._place / "boot").write_text(f"{boot} boot of {name}\n")
        self._runs = 0
        bindfs()
        self._command = [*apart(), sys.executable, "-m", __name__, name, str(self._place), str(back)]
        self._command.append(str(watch_s))

    def __enter__(self) -> Machine:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, text=True, env=environment(), bufsize=1
        )
        assert self._ask("up") is True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lose()

    def lose(self) -> None:
        """Ends the machine and all that runs on it, as a power cut does."""
        self._process.kill()
        with self._process:
            pass

    def _ask(self, what: str, *values: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(DEADLINE_S, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps([what, *values]) + "\n")
            return json.loads(self._process.stdout.readline())
        finally:
            watchdog.cancel()
            watchdog.join()

    def fetch(self, url: str, *options: str) -> Run:
        """Starts a transfer to the shared `out`."""
        self._runs += 1
        log = self._place / f"log-{self._runs}"
        arguments = ["fetch", url, "-o", str(self.shared / "out"), "--json", "--chunk-size", "64K", *options]
        return Run(self, self._ask("start", arguments, str(log)), log)

    def ask(self, what: str, *values: Any) -> Any:
        """Has a command of `_Inside` run."""
        return self._ask(what, *values)


class Run:
    """A transfer on a machine; `pid` is its number there."""

    def __init__(self, machine: Machine, pid: int, log: Path) -> None:
        self.machine = machine
        self.pid = pid
        self.code: int | None = None
        self._log = log

    def signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if not self.over:
            self.machine.ask("signal", self.pid, number)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        if self.code is None:
            self.code = self.machine.ask("poll", self.pid)
        return self.code is not None

    def wait(self) -> int:
        """Returns its exit code (minus the signal that ended it), or fails at the deadline."""
        wait_until(lambda: self.over)
        assert self.code is not None
        return self.code

    @property
    def said(self) -> dict[str, Any]:
        """The last line of its output: its result or error."""
        lines = self._log.read_text().splitlines()
        assert lines, "it said nothing"
        said: dict[str, Any] = json.loads(lines[-1])
        return said


class _Inside:
    """What a machine can do; each method answers one question."""

    def up(self) -> bool:
        return True

    def start(self, arguments: list[str], log: str) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            return pid
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            file = os.open(log, os.O_WRONLY | os.O_CREAT)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(file, 1)
            os.dup2(null, 2)
            code = command(arguments)
            sys.stdout.flush()
        except KeyboardInterrupt:  # before the command could take it
            code = InterruptedTransferError.exit_code
        finally:
            os._exit(code)

    def signal(self, pid: int, number: int) -> None:
        os.kill(pid, number)

    def lock(self, path: str) -> bool:
        with open(path, "rb") as file:
            return locks.take_lock(file.fileno()) == locks.HELD

    def poll(self, pid: int) -> int | None:
        done, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None


def main(name: str, place: str, back: str, watch_s: str) -> None:
    """Becomes the machine and answers until the input ends."""
    socket.sethostname(name)
    here = Path(place)
    with mounted(Path(back), here / "shared"):
        subprocess.run(["mount", "--bind", here / "boot", "/proc/sys/kernel/random/boot_id"], check=True)
        subprocess.run(["mount", "--bind", here / "etc", "/etc"], check=True)
        owner.RENEW_S, owner.WATCH_S, owner.LOOK_S = 0.1, float(watch_s), 0.05
        inside = _Inside()
        for line in sys.stdin:
            what, *values = json.loads(line)
            print(json.dumps(getattr(inside, what)(*values)), flush=True)
        os._exit(0)  # and with it, the first process of its namespace, everything that runs there


if __name__ == "__main__":
    main(*sys.argv[1:])

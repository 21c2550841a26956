"""What all server programs have in common: `Server`, a context manager around one process and its children.

Each has a prefix (a temporary directory with its configuration, logs and caches), listens on ports that are
kept for it from the beginning to the end, and is ended by its own process group, never by its name.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from tests.servers import (
    HOST,
    Authority,
    ServerError,
    find_program,
    port_of,
    read_log,
    reserve_port,
    wait_until_listening,
)

STOP_DEADLINE_S = 10.0
UNPRIVILEGED_USER = "nobody"

_S = TypeVar("_S", bound="Server")


class Server:
    """A context manager around one server: `root` is served, `ca` is to be trusted, `url()` makes addresses.

    Without arguments it makes its own document root and certificates, and removes them at the end. A kind of
    server says what it is by the class attributes, and how it is started by `_write_config` and `_command`.
    """

    executable: ClassVar[str]
    install: ClassVar[str]
    listeners: ClassVar[tuple[str, ...]] = ("http",)
    """Names of the ports; "http" and "tls" are those of `url()`."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    drops_root: ClassVar[bool] = False
    """Started by root it runs as nobody, since it would refuse to run as root."""

    def __init__(self, root: Path | None = None, authority: Authority | None = None) -> None:
        self.name = type(self).__name__.lower()
        self.program = find_program(self.executable, install=self.install)
        self.prefix = Path(tempfile.mkdtemp(prefix=f"fastxfer-{self.name}-"))
        self.root = root if root is not None else self.prefix / "root"
        self.root.mkdir(exist_ok=True)
        self.authority = authority if authority is not None else Authority(self.prefix)
        self._holders = {listener: self._reserve(listener) for listener in self.listeners}
        self.ports = {listener: port_of(holder) for listener, holder in self._holders.items()}
        self._log = self.prefix / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._write_config()

    @property
    def ca(self) -> Path:
        """The file of the certificate authority that a client must trust."""
        return self.authority.ca

    @property
    def pid(self) -> int:
        """The process id, the parent's where there are several; an error when it is not running."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True between a start and a stop or kill."""
        return self._process is not None

    def url(self, name: str, tls: bool = False) -> str:
        """Returns the URL of the object `name` (a path below the root, not yet percent-encoded)."""
        scheme, listener = ("https", "tls") if tls else ("http", "http")
        return f"{scheme}://{HOST}:{self.ports[listener]}/{quote(name)}"

    def start(self) -> None:
        """Starts the server and returns when all its ports accept connections."""
        if self._process is not None:
            raise ServerError(f"{self.name} is already running")
        with self._log.open("ab") as log:
            user = self._give_away()
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=self._output() or log,
                stderr=log,
                env={**os.environ, **self._environment()},
                cwd=self.prefix,
                start_new_session=True,  # a group of its own, for kill() and out of Ctrl-C's way
                **user,
            )
        try:
            self._started(self._process)
            for port in self.ports.values():
                wait_until_listening(self._process, port, self._log)
            self._until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends the server in its own way, requests under way get a second. Nothing if it is not running."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{self.name} did not stop:\n{read_log(self._log)}") from None
        self._ended()

    def kill(self) -> None:
        """Ends parent and children with SIGKILL, returns when all are gone. Nothing if it is not running."""
        if self._process is None:
            return
        group = self._process.pid
        while members := open_group(group):  # again where a child was born meanwhile
            try:
                os.killpg(group, signal.SIGKILL)
                for member in members:
                    if not select.select([member], [], [], STOP_DEADLINE_S)[0]:
                        raise ServerError(f"a process of {self.name} outlives SIGKILL")
            finally:
                for member in members:
                    os.close(member)
        self._process.wait(STOP_DEADLINE_S)
        self._ended()

    def restart(self) -> None:
        """Starts the server again on the same ports, after a stop if it is running."""
        self.stop()
        self.start()

    def __enter__(self: _S) -> _S:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._remove()

    # ---- what a kind of server says ----

    def _write_config(self) -> None:
        """Writes the configuration below the prefix; ports, root and certificates are known."""

    def _command(self) -> list[str]:
        """Returns the command line that runs the server in the foreground."""
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        """Returns what the environment has beside the tester's own."""
        return {}

    def _reserve(self, _listener: str) -> socket.socket:
        """Returns the socket that keeps a port for the listener of this name."""
        return reserve_port()

    def _output(self) -> int | None:
        """Returns what standard output is, as Popen takes it; None for the log."""
        return None

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        """Is told of the process at once, before it listens."""

    def _until_ready(self) -> None:
        """Returns when the server is ready, where that is more than a port that accepts connections."""

    # ---- ends ----

    def _ended(self) -> None:
        """Is told when no process is left."""
        self._process = None

    def _remove(self) -> None:
        for holder in self._holders.values():
            holder.close()
        shutil.rmtree(self.prefix)

    def _give_away(self) -> dict[str, Any]:
        """Gives the prefix to the user that the server is to run as; returns that user, as Popen takes it."""
        if not self.drops_root or os.geteuid() != 0:
            return {}
        user = pwd.getpwnam(UNPRIVILEGED_USER)
        for path in (self.prefix, *self.prefix.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def open_group(group: int) -> list[int]:
    """Returns a pidfd of each running process of a process group; the caller closes them."""
    members = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_text()
            # pid (command) state ppid pgrp ...; the command may hold spaces and parentheses.
            state, _, pgrp = stat.rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                members.append(os.pidfd_open(int(name)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return members

"""Addresses that do not answer, and a process with names of its own.

`BlackHole` is a port where connections are neither made nor refused: its queue is full, so the kernel drops
what asks for more. `with_names` runs a command that sees other names than this machine has, in a mount
namespace of its own; the network is the same.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.servers import ServerError

FULL_AFTER_S = 0.3
MOST_CONNECTIONS = 16


class BlackHole:
    """A context manager: `address`, with this port, answers nobody."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._at = (address, port)
        self._waiting: list[socket.socket] = []

    def __enter__(self) -> BlackHole:
        self._listener.bind(self._at)
        self._listener.listen(0)
        while self._is_open():
            if len(self._waiting) > MOST_CONNECTIONS:
                raise ServerError(f"{self._at} goes on taking connections")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (*self._waiting, self._listener):
            each.close()

    def _is_open(self) -> bool:
        """Connects once more, for good; returns whether that was answered."""
        client = socket.socket(self._listener.family)
        self._waiting.append(client)
        client.setblocking(False)
        client.connect_ex(self._at)
        return bool(select.select([], [client], [], FULL_AFTER_S)[1])


def with_names(
    names: Sequence[tuple[str, str]],
    command: Sequence[str],
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    deadline_s: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Runs a command for which only these names exist, (address, name) each; a name may have several.

    The files that say so stand in `directory`. Where a mount namespace is not permitted this is an error.
    """
    hosts, switch = directory / "hosts", directory / "nsswitch.conf"
    hosts.write_text("".join(f"{address} {name}\n" for address, name in names))
    switch.write_text("hosts: files\n")
    script = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"'
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    done = subprocess.run(
        [*unshare, "sh", "-c", script, str(hosts), str(switch), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=deadline_s,
        check=False,
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        raise ServerError(f"a mount namespace is not permitted here, and the tests need it: {done.stderr}")
    return done

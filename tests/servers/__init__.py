"""What the test servers share: how a port is kept, a program found, a start awaited; their certificates.

A port is kept by a socket that is bound but never listens. While it lives, no other program is given the
port, and nobody can connect to it; a server that sets SO_REUSEADDR (all of ours do) may bind and listen there
as often as it is restarted. So there is no moment at which a port "found free" can be lost to someone else,
and a stopped server refuses connections.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import trustme

HOST = "127.0.0.1"
START_DEADLINE_S = 20.0
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # often missing from an ordinary user's PATH


class ServerError(RuntimeError):
    """A test server could not be found, did not start, or did not do what was awaited."""


def find_program(name: str, *, install: str) -> str:
    """Returns the path of the program `name`; a missing one is an error that says what to install."""
    beside = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    places = [*beside, *os.environ.get("PATH", os.defpath).split(os.pathsep), *_SBIN]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise ServerError(f"{name} is not installed, and the tests need it: {install}")
    return found


def reserve_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Returns a bound socket that holds a free port of 127.0.0.1 until it is closed (see above)."""
    holder = socket.socket(socket.AF_INET, kind)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((HOST, 0))
    return holder


def reserve_port_for_quic() -> socket.socket:
    """Returns `reserve_port()` for a port number that is free for UDP as well, at the time of the call.

    The UDP side cannot be held, since a bound UDP socket would receive the server's packets.
    """
    refused = []
    try:
        for _ in range(64):
            holder = reserve_port()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                try:
                    udp.bind(holder.getsockname())
                except OSError:
                    refused.append(holder)
                    continue
            return holder
    finally:
        for holder in refused:
            holder.close()
    raise ServerError("no port of 127.0.0.1 is free for both TCP and UDP")


def port_of(holder: socket.socket) -> int:
    """Returns the port that `reserve_port()` has reserved."""
    port: int = holder.getsockname()[1]
    return port


def wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Returns when the port accepts connections; a ServerError with the log if it ends or is late."""
    deadline = time.monotonic() + START_DEADLINE_S
    ended = os.pidfd_open(process.pid)
    try:
        while True:
            try:
                socket.create_connection((HOST, port), timeout=START_DEADLINE_S).close()
                return
            except ConnectionRefusedError:
                # Another try is due in 5 ms, unless the process ends before.
                if select.select([ended], [], [], 0.005)[0]:
                    raise ServerError(f"{process.args!r} ended at once:\n{read_log(log)}") from None
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{process.args!r} does not listen on {port}:\n{read_log(log)}"
                    ) from None
    finally:
        os.close(ended)


def read_log(log: Path) -> str:
    """Returns the last 4 KiB of a log file, "" if there is none."""
    try:
        return log.read_bytes()[-4096:].decode(errors="replace")
    except FileNotFoundError:
        return ""


class Authority:
    """A certificate authority of its own, and one certificate of it for 127.0.0.1 and localhost.

    `ca` is what a client must trust; `chain` and `key` are the server's files. All are PEM, in `directory`.
    """

    def __init__(self, directory: Path) -> None:
        self.ca = directory / "ca.pem"
        self.chain = directory / "server.pem"
        self.key = directory / "server.key"
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST, "localhost")
        authority.cert_pem.write_to_path(str(self.ca))
        certificate.private_key_pem.write_to_path(str(self.key))
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(str(self.chain), append=True)

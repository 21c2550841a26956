"""A path that makes a server far: real TCP over a network device of ours, each packet on its way for half a
round trip. Inside a network namespace of one's own, as root of it (`unshare -n`).

    python -m tests.servers.far RTT_S [COMMAND...]

makes the device and runs the command, or waits for the end of standard input, while packets go to and fro.

What is sent to FAR comes back from there, half a round trip later, to the same port of NEAR, with both
addresses exchanged. So a server that listens at NEAR is reached at FAR, over handshakes, acknowledgements
and windows that take their time; the sums in the packets stay right.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from tests.servers import ServerError, find_program

NEAR, FAR = "10.99.0.1", "10.99.0.2"
DEVICE = "far0"
MTU = 9000  # few packets to carry
# Windows that a path of 1 MB need not grow into: what is looked at is handshakes.
WINDOW_PACKETS = "200"
BUFFERS = "4096 4194304 16777216"
QUEUE_PACKETS = 10_000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def make_device() -> int:
    """Makes the device and returns its descriptor; it lives as long as that is open."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        raise ServerError(
            f"no network device can be made here (a container needs --device=/dev/net/tun): {error}"
        ) from error
    ip = find_program("ip", install="apt-get install iproute2")
    for words in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{NEAR}/24", "dev", DEVICE],
        ["link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", str(QUEUE_PACKETS), "up"],
        [
            *("route", "change", f"{NEAR[:-1]}0/24", "dev", DEVICE, "src", NEAR),
            *("initcwnd", WINDOW_PACKETS, "initrwnd", WINDOW_PACKETS),
        ],
    ):
        subprocess.run([ip, *words], check=True)
    for name in ("tcp_rmem", "tcp_wmem"):
        Path(f"/proc/sys/net/ipv4/{name}").write_text(BUFFERS)
    return fd


def has_device() -> bool:
    """Returns whether the device is there, made by whoever runs us."""
    return any(name == DEVICE for _, name in socket.if_nameindex())


def carry(fd: int, rtt_s: float, until: int) -> None:
    """Carries packets until something can be read from the descriptor `until`, or it ends."""
    queue: deque[tuple[float, bytes]] = deque()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(until, select.POLLIN)
    while True:
        wait_s = max(0.0, queue[0][0] - time.monotonic()) if queue else 60.0
        if any(ready == until for ready, _ in poll.poll(-(-wait_s * 1000 // 1))):
            return
        take(fd, rtt_s / 2, queue)
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            os.write(fd, queue.popleft()[1])


def take(fd: int, delay_s: float, queue: deque[tuple[float, bytes]]) -> None:
    """Takes the packets that wait at the device; those that are not IPv4 are dropped."""
    while True:
        try:
            packet = os.read(fd, MTU + 100)
        except BlockingIOError:
            return
        if packet[0] >> 4 == 4:
            turned = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
            queue.append((time.monotonic() + delay_s, turned))


def main(rtt_s: str, *command: str) -> int:
    """Runs the path; returns the exit status of the command."""
    fd = make_device()
    if not command:
        print("ready", flush=True)
        carry(fd, float(rtt_s), sys.stdin.fileno())
        return 0
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        ended = os.pidfd_open(process.pid)
        carry(fd, float(rtt_s), ended)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""A proxy for TCP that makes a path slow and far: each connection a rate of its own, and all a round trip.

    python -m tests.servers.shaping UPSTREAM_PORT --rate 20e6 --slow 5 --slow-rate 1e6 --rtt 0.2
    python -m tests.servers.shaping UPSTREAM_PORT --total-rate 2e6 --reset-after 81920

`--total-rate` is what all connections have together; `--reset-after` has each one reset once it has brought
so many bytes.

It listens on a free port of 127.0.0.1, prints the port, and ends when its standard input does. It is a
process of its own, so that what it costs is not counted with whoever it serves. `Shaped` starts one.

What comes from upstream is read no faster than the connection's rate, paced every few milliseconds, so that
no burst passes; it goes on half a round trip later. So does what the client sends, but nothing before a whole
round trip after the connection was taken, which is what a handshake with the far server takes.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

from tests.servers import HOST, ServerError

PACE_S = 0.005
# What a busy machine kept us from passing on in time is made up for, up to this much.
BURST_S = 0.1
READ_BYTES = 256 * 1024
# No more than this waits for its time on one connection: enough for 80 MB/s over 200 ms.
QUEUE_BYTES = 16 * 1024**2
START_DEADLINE_S = 20.0


@dataclass(eq=False)
class Bucket:
    """What may be read of a rate, by one connection or by all of them."""

    rate: float
    tokens: float = 0.0
    filled_at: float = 0.0

    def fill(self, now: float) -> int:
        """Returns how many bytes may be read now."""
        self.tokens = min(self.tokens + self.rate * (now - self.filled_at), BURST_S * self.rate)
        self.filled_at = now
        return int(self.tokens)


@dataclass(eq=False)
class Pipe:
    """One direction of a connection: what was read waits until its time, then until the sink takes it."""

    source: socket.socket
    sink: socket.socket
    delay_s: float
    buckets: tuple[Bucket, ...] = ()
    reset_after: int | None = None
    open_at: float = 0.0  # nothing sets out before
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    queued: int = 0
    rest: memoryview = field(default_factory=lambda: memoryview(b""))
    written: int = 0
    over: bool = False

    def may_read(self, now: float) -> int:
        """Returns how many bytes may be read now."""
        if self.over or self.queued >= QUEUE_BYTES:
            return 0
        return min([READ_BYTES, *(bucket.fill(now) for bucket in self.buckets)])

    def read(self, now: float) -> None:
        """Takes what has come and may pass."""
        while (count := self.may_read(now)) > 0:
            try:
                data = self.source.recv(count)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            for bucket in self.buckets:
                bucket.tokens -= len(data)
            self.queued += len(data)
            self.queue.append((max(now, self.open_at) + self.delay_s, data))
            self.over = not data

    def write(self, now: float) -> bool:
        """Passes on what is due; returns False once the end or an error was passed on."""
        while True:
            if not self.rest:
                if not self.queue or self.queue[0][0] > now:
                    return True
                data = self.queue.popleft()[1]
                if not data:
                    return False
                self.rest = memoryview(data)
            if self.reset_after is not None and self.written >= self.reset_after:
                self.sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            try:
                sent = self.sink.send(self.rest)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self.rest = self.rest[sent:]
            self.queued -= sent
            self.written += sent


class Proxy:
    """The loop of the process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.listener = socket.create_server((options.host, 0), backlog=256)
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.selector.register(sys.stdin.buffer, selectors.EVENT_READ, "end")
        self.pipes: dict[socket.socket, Pipe] = {}
        self.accepted = 0
        self.total = () if options.total_rate is None else (Bucket(options.total_rate),)

    def run(self) -> None:
        """Serves until standard input ends."""
        print(self.listener.getsockname()[1], flush=True)
        while True:
            ready = self.selector.select(PACE_S)
            if any(key.data == "end" for key, _ in ready):
                return
            if any(key.data is None for key, _ in ready):
                self.accept()
            self.serve()

    def accept(self) -> None:
        """Takes a client in, and connects it."""
        try:
            client, _ = self.listener.accept()
        except BlockingIOError:
            return
        options, number = self.options, self.accepted
        self.accepted += 1
        upstream = socket.create_connection((HOST, options.upstream))
        rate = options.slow_rate if number in options.slow else options.rate
        for each in (client, upstream):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setblocking(False)
        now, half = time.monotonic(), options.rtt / 2
        own = () if rate is None else (Bucket(rate, filled_at=now),)
        self.pipes[upstream] = Pipe(
            upstream, client, half, (*own, *self.total), reset_after=options.reset_after
        )
        self.pipes[client] = Pipe(client, upstream, half, open_at=now + options.rtt)
        for each in (client, upstream):
            self.selector.register(each, selectors.EVENT_READ, "pipe")

    def serve(self) -> None:
        """Lets every pipe read and write what it may."""
        now = time.monotonic()
        for source, pipe in list(self.pipes.items()):
            if source not in self.pipes:
                continue
            pipe.read(now)
            if not pipe.write(now):
                self.close(pipe)
                continue
            # Paced and full pipes are looked at in the next round, not at once.
            self.watch(source, wanted=not pipe.buckets and pipe.queued < QUEUE_BYTES and not pipe.over)

    def watch(self, source: socket.socket, *, wanted: bool) -> None:
        """Has the selector wake up for a socket, or not."""
        watched = source in self.selector.get_map()
        if wanted and not watched:
            self.selector.register(source, selectors.EVENT_READ, "pipe")
        elif watched and not wanted:
            self.selector.unregister(source)

    def close(self, pipe: Pipe) -> None:
        """Ends a connection on both sides."""
        for each in (pipe.source, pipe.sink):
            self.watch(each, wanted=False)
            self.pipes.pop(each, None)
            each.close()


class Shaped:
    """A context manager: a proxy process in front of a port of 127.0.0.1; `port` is where it listens."""

    def __init__(
        self,
        upstream: int,
        *,
        rate: float | None = None,
        slow: tuple[int, ...] = (),
        slow_rate: float = 0.0,
        rtt_s: float = 0.0,
        host: str = HOST,
        total_rate: float | None = None,
        reset_after: int | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", "tests.servers.shaping", str(upstream), "--rtt", str(rtt_s)]
        self._command += ["--host", host]
        for name, value in (("rate", rate), ("total-rate", total_rate), ("reset-after", reset_after)):
            if value is not None:
                self._command += [f"--{name}", str(value)]
        for number in slow:
            self._command += ["--slow", str(number)]
        self._command += ["--slow-rate", str(slow_rate)]
        self.port = 0

    def __enter__(self) -> Shaped:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerError("the proxy did not start")
        self.port = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(START_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def url(self, path: str, host: str = HOST) -> str:
        """Returns the URL of a path through the proxy, reached at `host`."""
        return f"http://{host}:{self.port}/{path}"


def main() -> None:
    """Runs the proxy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream", type=int)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--total-rate", type=float)
    parser.add_argument("--reset-after", type=int)
    parser.add_argument("--slow", type=int, action="append", default=[])
    parser.add_argument("--slow-rate", type=float, default=0.0)
    parser.add_argument("--rtt", type=float, default=0.0)
    Proxy(parser.parse_args()).run()


if __name__ == "__main__":
    main()

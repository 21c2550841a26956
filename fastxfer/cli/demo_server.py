"""The demo's server: one generated object over HTTP/1.1 with ranges, on a free port of 127.0.0.1.

`python -m fastxfer.cli.demo_server FILE SIZE` writes the object to FILE, says one line of JSON on stdout
(port, name, SHA-256) and serves it until its stdin ends: that is when its parent closes it or is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fastxfer.plan.dates import http_date
from fastxfer.plan.ranges import parse_range

BLOCK_BYTES = 4 * 1024**2


def make_object(path: str, size: int) -> str:
    """Writes the object of this size, always the same, and returns its SHA-256 in hex."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for index, start in enumerate(range(0, size, BLOCK_BYTES)):
            block = random.Random(index).randbytes(min(BLOCK_BYTES, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves the server's one object under its name: whole, or one range of it (RFC 9110 section 14)."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Sends the object or what is asked of it."""
        self._serve(body=True)

    def do_HEAD(self) -> None:
        """Sends the head alone."""
        self._serve(body=False)

    def _serve(self, *, body: bool) -> None:
        made = self.server.made
        if self.path.partition("?")[0] != "/" + made.name:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("Range") if body else None
        if self.headers.get("If-Range", made.etag) not in (made.etag, made.last_modified):
            wanted = None
        spans = None if wanted is None else parse_range(wanted, made.size)
        if spans is None or len(spans) > 1:
            self.send_response(200)
            start, stop = 0, made.size
        elif not spans:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{made.size}")
            start, stop = 0, 0
        else:
            (start, stop) = spans[0]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{made.size}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", made.etag)
        self.send_header("Last-Modified", made.last_modified)
        self.end_headers()
        if body and stop > start:
            self.wfile.flush()
            try:
                with open(made.path, "rb") as file:
                    self.connection.sendfile(file, start, stop - start)
            except ConnectionError:
                self.close_connection = True  # the client has all it wants, or was killed

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the terminal is the demo's."""


class Made:
    """The object: its file, its name in URLs, and what tells it from others."""

    def __init__(self, path: str, sha256: str) -> None:
        there = os.stat(path)
        self.path = path
        self.name = os.path.basename(path)
        self.size = there.st_size
        self.etag = f'"{sha256[:32]}"'
        self.last_modified = http_date(there.st_mtime)


class Server(ThreadingHTTPServer):
    """Serves one object, a thread a connection."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, made: Made) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made = made

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that went away; other faults are shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    """See the module."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demo, which then closes our stdin
    path, size = sys.argv[1], int(sys.argv[2])
    sha256 = make_object(path, size)
    with Server(Made(path, sha256)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        print(json.dumps({"port": port, "name": server.made.name, "sha256": sha256}), flush=True)
        while sys.stdin.buffer.read(4096):
            pass
        server.shutdown()


if __name__ == "__main__":
    main()

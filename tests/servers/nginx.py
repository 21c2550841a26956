"""A real nginx on free ports of 127.0.0.1, with its own prefix and configuration.

Three listeners serve one document root: plain HTTP/1.1, TLS (HTTP/1.1 and, by ALPN, HTTP/2), and HTTP/2 over
plain text ("prior knowledge"). Prefixes of the path choose how the same object is served:

| prefix | what it does |
| --- | --- |
| (none) | plain: ranges, ETag, Last-Modified, sendfile |
| /noranges | ignores Range: always a 200 |
| /slow64k, /slow1m, /slowRATE | at most RATE a second on each connection; the first RATE bytes come at once |
| /etagless | no ETag |
| /novalidators | neither ETag nor Last-Modified |
| /auth | basic authentication, user `user`, password `pass` |
| /index, /index-sizes, /index-json | lists folders: as they are, with sizes as "2K", and in JSON |
| /redirect | a 302 to the same path without the prefix |
| /status/NNN | error NNN with nginx's own page; 429 and 503 carry Retry-After: 1 |
| /few, /few64k, /fewRATE | at most 4 requests at once (at RATE if given), else nginx's own 429 |
| /busy, /busy64k, /busyRATE | at most 4 requests at once (at RATE if given), else 503 with Retry-After: 1 |

A client that takes gzip gets .txt and .html files in it, and then without ranges.

The access log goes through a pipe to a thread here, so that `requests()` is awakened by each line and nothing
polls.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import quote

from tests.servers import HOST, Authority, ServerError
from tests.servers.process import STOP_DEADLINE_S, Server

LOG_DEADLINE_S = 10.0

_LOG_FIELDS = {
    "connection": "$pid-$connection",
    "method": "$request_method",
    "uri": "$uri",
    "target": "$request_uri",
    "protocol": "$server_protocol",
    "port": "$server_port",
    "status": "$status",
    "bytes_sent": "$bytes_sent",
    "body_bytes": "$body_bytes_sent",
    "range": "$http_range",
    "if_range": "$http_if_range",
    "user_agent": "$http_user_agent",
    "request_time": "$request_time",
    "finished_at": "$msec",
    "completed": "$request_completion",
}

_CONFIG = """\
{user}
daemon off;
master_process on;
worker_processes 2;
worker_shutdown_timeout 1s;
worker_rlimit_nofile 8192;
pid nginx.pid;
error_log stderr notice;
events {{ worker_connections 4000; }}
http {{
    types {{ text/plain txt; text/html html; }}
    default_type application/octet-stream;
    gzip on;
    gzip_types text/plain;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 75s;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format lines escape=json '{log_format}';
    access_log /dev/stdout lines;
    map $request_uri $beyond_redirect {{ ~^/redirect(?<beyond>/.*)$ $beyond; }}
    limit_conn_zone $server_name zone=busy:1m;
    limit_conn_status 503;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    server {{
        listen {host}:{http};
        listen {host}:{tls} ssl http2;
        listen {host}:{h2c} http2;
        server_name localhost;
        root {root}/;
        {locations}
    }}
}}
"""

_LOCATIONS = """\
location /noranges/ { alias ROOT/; max_ranges 0; }
        location ~ ^/slow(?<rate>[0-9]+[km]?)/(?<rest>.*)$ { alias ROOT/$rest; limit_rate $rate; }
        location /etagless/ { alias ROOT/; etag off; }
        location /novalidators/ {
            alias ROOT/; etag off; if_modified_since off; add_header Last-Modified "";
        }
        location /auth/ { alias ROOT/; auth_basic objects; auth_basic_user_file users; }
        location /index/ { alias ROOT/; autoindex on; }
        location /index-sizes/ {
            alias ROOT/; autoindex on; autoindex_exact_size off; autoindex_localtime on;
        }
        location /index-json/ { alias ROOT/; autoindex on; autoindex_format json; }
        location /redirect/ { return 302 $beyond_redirect; }
        location /few/ { alias ROOT/; limit_conn busy 4; limit_conn_status 429; }
        location ~ ^/few(?<rate>[0-9]+[km]?)/(?<rest>.*)$ {
            alias ROOT/$rest; limit_rate $rate; limit_conn busy 4; limit_conn_status 429;
        }
        location /busy/ { alias ROOT/; limit_conn busy 4; error_page 503 @busy; }
        location ~ ^/busy(?<rate>[0-9]+[km]?)/(?<rest>.*)$ {
            alias ROOT/$rest; limit_rate $rate; limit_conn busy 4; error_page 503 @busy;
        }
        location @busy { add_header Retry-After 1 always; return 503; }
"""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of the access log: a request that has ended, well or not.

    `connection` tells the connections apart, over restarts too. `uri` is decoded and without query, `target`
    is as sent. `completed` is false where the client went away before the whole answer was sent. `body_bytes`
    and `bytes_sent` are what nginx gave to the kernel, which can be more than the client took. `finished_at`
    is in seconds since 1970.
    """

    connection: str
    method: str
    uri: str
    target: str
    protocol: str
    port: int
    status: int
    bytes_sent: int
    body_bytes: int
    range: str
    if_range: str
    user_agent: str
    request_time: float
    finished_at: float
    completed: bool

    @classmethod
    def parse(cls, line: bytes) -> LogEntry:
        """Returns the entry of one JSON line, as `_LOG_FIELDS` makes it."""
        fields = json.loads(line)
        for name in ("port", "status", "bytes_sent", "body_bytes"):
            fields[name] = int(fields[name])
        for name in ("request_time", "finished_at"):
            fields[name] = float(fields[name])
        fields["completed"] = fields["completed"] == "OK"
        return cls(**fields)


class Nginx(Server):
    """An nginx; see `Server`. It needs no privileges; as root its workers stay root, so that they can read a
    private directory.
    """

    executable = "nginx"
    install = "apt-get install nginx-light (or run .ci/install-packages)"
    listeners = ("http", "tls", "h2c")
    stop_signal = signal.SIGQUIT

    def __init__(self, root: Path | None = None, authority: Authority | None = None) -> None:
        super().__init__(root, authority)
        self._reader: threading.Thread | None = None
        self._entries: list[LogEntry] = []
        self._logged = threading.Condition()

    def url(self, name: str, tls: bool = False, h2c: bool = False, prefix: str = "") -> str:
        """Returns the URL of the object `name` (a path below the root, not yet percent-encoded)."""
        scheme, listener = ("https", "tls") if tls else ("http", "h2c" if h2c else "http")
        path = "/".join(part.strip("/") for part in (prefix, quote(name)) if part)
        return f"{scheme}://{HOST}:{self.ports[listener]}/{path}"

    def forget(self) -> None:
        """Empties the list that `requests()` reads."""
        with self._logged:
            self._entries.clear()

    def requests(
        self,
        name: str | None = None,
        *,
        count: int = 0,
        body_bytes: int = 0,
        deadline_s: float = LOG_DEADLINE_S,
    ) -> list[LogEntry]:
        """Returns the requests that have ended since the start or `forget()`, in that order.

        With `name` only those whose path ends with it. nginx writes a line after the client has the last
        byte: ask for a `count` of requests or a sum of `body_bytes` to wait until they are logged; a
        ServerError after the deadline.
        """

        def seen() -> list[LogEntry]:
            return [entry for entry in self._entries if name is None or entry.uri.endswith("/" + name)]

        def enough() -> bool:
            return len(seen()) >= count and _body_bytes(seen()) >= body_bytes

        with self._logged:
            if not self._logged.wait_for(enough, deadline_s):
                raise ServerError(
                    f"{len(seen())} requests with {_body_bytes(seen())} bytes were logged in {deadline_s} s, "
                    f"awaited were {count} with {body_bytes}"
                )
            return seen()

    def _write_config(self) -> None:
        (self.prefix / "users").write_text("user:{PLAIN}pass\n")
        log_format = ",".join(f'"{field}":"{variable}"' for field, variable in _LOG_FIELDS.items())
        locations = _LOCATIONS.replace("ROOT", str(self.root)) + _status_locations()
        config = _CONFIG.format(
            user="user root;" if os.geteuid() == 0 else "",
            log_format="{" + log_format + "}",
            chain=self.authority.chain,
            key=self.authority.key,
            host=HOST,
            root=self.root,
            locations=locations,
            **self.ports,
        )
        (self.prefix / "nginx.conf").write_text(config)

    def _command(self) -> list[str]:
        return [self.program, "-p", str(self.prefix), "-c", "nginx.conf", "-e", "stderr"]

    def _output(self) -> int:
        return subprocess.PIPE

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._reader = threading.Thread(
            target=self._read_log, args=(process.stdout,), name="nginx-log", daemon=True
        )
        self._reader.start()

    def _read_log(self, pipe: IO[bytes]) -> None:
        """Takes the lines of the access log until all of nginx has ended (on its own thread)."""
        with pipe:
            for line in pipe:
                entry = LogEntry.parse(line)
                with self._logged:
                    self._entries.append(entry)
                    self._logged.notify_all()

    def _ended(self) -> None:
        super()._ended()
        if self._reader is not None:
            self._reader.join(STOP_DEADLINE_S)
            self._reader = None


def _status_locations() -> str:
    """Returns a location for /status/NNN and all below it, for each error status of the registry."""
    lines = []
    for status in sorted(status.value for status in HTTPStatus if status.value >= 400):
        header = "add_header Retry-After 1 always; " if status in (429, 503) else ""
        lines.append(f"        location ~ ^/status/{status}(/|$) {{ {header}return {status}; }}\n")
    return "".join(lines)


def _body_bytes(entries: Iterable[LogEntry]) -> int:
    return sum(entry.body_bytes for entry in entries)

"""A real HAProxy in front of another server: plain HTTP/1.1, and TLS with HTTP/1.1 and HTTP/2.

It puts text in gzip for who takes it, whatever the server behind does.
"""

from __future__ import annotations

from tests.servers import HOST, Authority
from tests.servers.process import Server

_CONFIG = """\
global
    maxconn 1000
    tune.ssl.default-dh-param 2048
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend objects
    bind {host}:{http}
    bind {host}:{tls} ssl crt {pem} alpn h2,http/1.1
    compression algo gzip
    compression type text/plain text/html
    compression offload
    default_backend behind
backend behind
    server behind {host}:{behind}
"""


class Haproxy(Server):
    """A HAProxy in front of `behind`, whose document root it has; see `Server`."""

    executable = "haproxy"
    install = "apt-get install haproxy (or run .ci/install-packages)"
    listeners = ("http", "tls")

    def __init__(self, behind: Server, authority: Authority | None = None) -> None:
        self._behind = behind
        super().__init__(behind.root, authority)

    def _write_config(self) -> None:
        pem = self.prefix / "server.pem+key"
        pem.write_bytes(self.authority.chain.read_bytes() + self.authority.key.read_bytes())
        config = _CONFIG.format(host=HOST, pem=pem, behind=self._behind.ports["http"], **self.ports)
        (self.prefix / "haproxy.cfg").write_text(config)

    def _command(self) -> list[str]:
        return [self.program, "-db", "-f", "haproxy.cfg"]

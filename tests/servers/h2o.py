"""A real h2o: plain HTTP/1.1, and TLS with HTTP/1.1 and HTTP/2; text goes in gzip to who takes it."""

from __future__ import annotations

import json
import os

from tests.servers import HOST
from tests.servers.process import Server

_CONFIG = """\
listen:
  host: {host}
  port: {http}
listen:
  host: {host}
  port: {tls}
  ssl:
    certificate-file: {chain}
    key-file: {key}
    neverbleed: OFF
hosts:
  default:
    paths:
      /:
        file.dir: {root}
compress: ON
num-threads: 2
{user}
"""


class H2o(Server):
    """An h2o; see `Server`. As root it stays root, so that it can read a private directory."""

    executable = "h2o"
    install = "apt-get install h2o (or run .ci/install-packages)"
    listeners = ("http", "tls")

    def stop(self) -> None:
        """Kills it: when told to end it waits 10 s for connections that rest."""
        self.kill()

    def _write_config(self) -> None:
        config = _CONFIG.format(
            host=HOST,
            chain=json.dumps(str(self.authority.chain)),
            key=json.dumps(str(self.authority.key)),
            root=json.dumps(str(self.root)),
            user="user: root" if os.geteuid() == 0 else "",
            **self.ports,
        )
        (self.prefix / "h2o.conf").write_text(config)

    def _command(self) -> list[str]:
        return [self.program, "-m", "worker", "-c", "h2o.conf"]

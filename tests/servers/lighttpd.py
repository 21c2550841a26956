"""A real lighttpd: plain HTTP/1.1; folders are listed."""

from __future__ import annotations

from tests.servers import HOST
from tests.servers.process import Server

_CONFIG = """\
server.document-root = "{root}"
server.bind = "{host}"
server.port = {http}
server.max-keep-alive-requests = 1000
dir-listing.activate = "enable"
server.upload-dirs = ( "{prefix}" )
mimetype.assign = ( ".txt" => "text/plain", ".html" => "text/html", "" => "application/octet-stream" )
"""


class Lighttpd(Server):
    """A lighttpd; see `Server`."""

    executable = "lighttpd"
    install = "apt-get install lighttpd (or run .ci/install-packages)"

    def _write_config(self) -> None:
        config = _CONFIG.format(root=self.root, host=HOST, prefix=self.prefix, **self.ports)
        (self.prefix / "lighttpd.conf").write_text(config)

    def _command(self) -> list[str]:
        return [self.program, "-D", "-f", "lighttpd.conf"]

"""A real webfs: plain HTTP/1.1, with ranges that are not quite by the book."""

from __future__ import annotations

from tests.servers import HOST
from tests.servers.process import Server


class Webfs(Server):
    """A webfs; see `Server`."""

    executable = "webfsd"
    install = "apt-get install webfs (or run .ci/install-packages)"

    def _write_config(self) -> None:
        (self.prefix / "mime.types").write_text("text/plain txt\ntext/html html\n")

    def _command(self) -> list[str]:
        place = ["-4", "-i", HOST, "-p", str(self.ports["http"]), "-r", str(self.root)]
        return [self.program, "-F", "-j", *place, "-m", str(self.prefix / "mime.types")]

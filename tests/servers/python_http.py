"""Python's own http.server: plain HTTP/1.0, and no ranges."""

from __future__ import annotations

import sys

from tests.servers import HOST
from tests.servers.process import Server


class PythonHttp(Server):
    """A `python -m http.server`; see `Server`."""

    executable = sys.executable
    install = "it is this very Python"

    def _command(self) -> list[str]:
        place = ["--bind", HOST, "--directory", str(self.root), str(self.ports["http"])]
        return [self.program, "-m", "http.server", *place]

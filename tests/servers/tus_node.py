"""The tus project's own server (Node.js) with its file store, over HTTP and HTTPS.

It offers creation, creation-with-upload, creation-defer-length, termination and expiration; neither checksums
nor concatenation (for these: tests.servers.tus_book). Its packages are named, with their digests, by
tests/servers/tus/package-lock.json, and are installed once into the user's cache (1 MB, 1 s).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.servers import HOST, Authority, ServerError, find_program
from tests.servers.process import Server

INSTALL = "apt-get install nodejs npm"
INSTALL_DEADLINE_S = 120.0
_SOURCE = Path(__file__).parent / "tus"
_FILES = ("package.json", "package-lock.json", ".npmrc")


@cache
def modules() -> Path:
    """Returns the directory whose node_modules has the server, after installing it where it is missing."""
    told = hashlib.sha256(b"".join((_SOURCE / name).read_bytes() for name in _FILES)).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastxfer-tests"
    there = caches / f"tus-{told}"
    if there.exists():
        return there
    caches.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=caches))
    for name in _FILES:
        shutil.copy(_SOURCE / name, making)
    command = [find_program("npm", install=INSTALL), "ci", "--omit=optional", "--ignore-scripts"]
    done = subprocess.run(
        [*command, "--no-audit", "--no-fund"],
        cwd=making,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_DEADLINE_S,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(making)
        raise ServerError(f"npm ci failed:\n{done.stdout}{done.stderr}")
    try:
        making.rename(there)
    except OSError:  # another run was faster
        shutil.rmtree(making)
    return there


class TusNode(Server):
    """A tus server; see `Server`.

    `max_size` is what it takes at the most, `expire_ms` how long after its beginning an upload is kept,
    `authorization` what every request has to have in that field, `relative` whether its Locations are.
    """

    executable = "node"
    install = INSTALL
    listeners = ("http", "tls")

    def __init__(
        self,
        authority: Authority | None = None,
        *,
        max_size: int = 0,
        expire_ms: int = 0,
        authorization: str = "",
        relative: bool = False,
    ) -> None:
        self._options = {
            "max_size": max_size,
            "expire_ms": expire_ms,
            "authorization": authorization,
            "relative": relative,
        }
        super().__init__(None, authority)

    @property
    def target(self) -> str:
        """Where uploads are begun."""
        return f"tus+http://{HOST}:{self.ports['http']}/files"

    @property
    def tls_target(self) -> str:
        """The same over TLS."""
        return f"tus+https://{HOST}:{self.ports['tls']}/files"

    def uploads(self) -> dict[str, bytes]:
        """Returns what there is of each upload, by its id."""
        ids = [each.stem for each in self.root.glob("*.json")]
        return {name: (self.root / name).read_bytes() for name in ids if (self.root / name).exists()}

    def name_of(self, upload: str) -> str:
        """Returns the file's name that an upload was begun with."""
        told = json.loads((self.root / f"{upload}.json").read_text())["metadata"]["filename"]
        return told if isinstance(told, str) else base64.b64decode(told).decode()

    def remove(self, upload: str) -> None:
        """Forgets an upload."""
        (self.root / upload).unlink()
        (self.root / f"{upload}.json").unlink()

    def make_old(self, upload: str) -> None:
        """Makes an upload one of long ago, that has expired."""
        about = self.root / f"{upload}.json"
        about.write_text(
            json.dumps(json.loads(about.read_text()) | {"creation_date": "2001-01-01T00:00:00Z"})
        )

    def _command(self) -> list[str]:
        config = {
            "root": str(self.root),
            "modules": str(modules()),
            "chain": str(self.authority.chain),
            "key": str(self.authority.key),
            **self.ports,
            **self._options,
        }
        return [self.program, str(_SOURCE / "server.js"), json.dumps(config)]

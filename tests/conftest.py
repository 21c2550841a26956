"""The servers and objects that tests share.

`nginx`, `caddy`, `apache`, `lighttpd`, `h2o`, `haproxy` (in front of nginx), `webfs` and `python_http` serve
the same document root for the whole session; `objects` makes files in it. A test that stops or kills its
server takes `own_nginx`, which serves the same root and is the test's alone (a start takes about 20 ms). One
that misbehaves is made in the test itself: `with RawServer(handler) as server`, from tests.servers.raw.

`rgw`, `seaweedfs` and `rclone` are object stores that speak S3, `oss` one that speaks OSS; a test that takes
`s3_store` (a new bucket of it) runs with each of the three. To count or harm the requests to one:
`with Proxy(store, harm) as proxy`, from tests.servers.proxy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from fastxfer.plan import scheduler
from tests.servers import Authority
from tests.servers.apache import Apache
from tests.servers.caddy import Caddy
from tests.servers.h2o import H2o
from tests.servers.haproxy import Haproxy
from tests.servers.lighttpd import Lighttpd
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.servers.python_http import PythonHttp
from tests.servers.rclone_s3 import Rclone
from tests.servers.rgw import Cluster, Rgw
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.servers.webfs import Webfs

if TYPE_CHECKING:
    from tests.servers.oss_facade import OssFacade


@pytest.fixture(autouse=True)
def own_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keeps what a test's processes learn of hosts from the other tests: ports are used again."""
    directory = tempfile.mkdtemp(prefix="fastxfer-run-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    yield Path(directory)
    for last in (False, False, True):  # a process that ends may write there once more
        shutil.rmtree(directory, ignore_errors=not last)
        if not os.path.exists(directory):
            break


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of all servers, with their common certificate."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def document_root() -> Iterator[Path]:
    """The directory that all servers serve, those too that run as another user than the tests."""
    with tempfile.TemporaryDirectory(prefix="fastxfer-root-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def objects(document_root: Path) -> Objects:
    """Makes objects in the document root."""
    return Objects(document_root)


@pytest.fixture(scope="session")
def nginx(document_root: Path, authority: Authority) -> Iterator[Nginx]:
    """The session's nginx; it must be left running."""
    with Nginx(document_root, authority) as server:
        yield server


@pytest.fixture(scope="session")
def caddy(document_root: Path, authority: Authority) -> Iterator[Caddy]:
    """The session's caddy (HTTP/3); it must be left running."""
    with Caddy(document_root, authority) as server:
        yield server


@pytest.fixture(scope="session")
def apache(document_root: Path, authority: Authority) -> Iterator[Apache]:
    """The session's Apache; it must be left running."""
    with Apache(document_root, authority) as server:
        yield server


@pytest.fixture(scope="session")
def lighttpd(document_root: Path, authority: Authority) -> Iterator[Lighttpd]:
    """The session's lighttpd; it must be left running."""
    with Lighttpd(document_root, authority) as server:
        yield server


@pytest.fixture(scope="session")
def h2o(document_root: Path, authority: Authority) -> Iterator[H2o]:
    """The session's h2o; it must be left running."""
    with H2o(document_root, authority) as server:
        yield server


@pytest.fixture(scope="session")
def haproxy(nginx: Nginx, authority: Authority) -> Iterator[Haproxy]:
    """The session's HAProxy in front of the session's nginx; it must be left running."""
    with Haproxy(nginx, authority) as server:
        yield server


@pytest.fixture(scope="session")
def webfs(document_root: Path, authority: Authority) -> Iterator[Webfs]:
    """The session's webfs; it must be left running."""
    with Webfs(document_root, authority) as server:
        yield server


@pytest.fixture(scope="session")
def python_http(document_root: Path, authority: Authority) -> Iterator[PythonHttp]:
    """The session's http.server; it must be left running."""
    with PythonHttp(document_root, authority) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(authority: Authority) -> Iterator[Cluster]:
    """The session's Ceph, for those that stand before it; it must be left running."""
    with Cluster(authority) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rgw(ceph: Cluster) -> Iterator[Rgw]:
    """The session's Ceph RGW (S3); it must be left running."""
    with Rgw(ceph) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(authority: Authority) -> Iterator[SeaweedFs]:
    """The session's SeaweedFS (S3); it must be left running."""
    with SeaweedFs(authority=authority) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(authority: Authority) -> Iterator[Rclone]:
    """The session's `rclone serve s3`; it must be left running."""
    with Rclone(authority=authority) as server:
        yield server


@pytest.fixture(scope="session")
def oss(ceph: Cluster) -> Iterator[OssFacade]:
    """The session's stand-in for OSS, before an RGW of its own that takes small parts."""
    # Alibaba's SDK loads libraries in a way that an address sanitizer does not bear.
    from tests.servers.oss_facade import OssFacade

    with Rgw(ceph, min_part_bytes=0) as behind, OssFacade(behind.store()) as facade:
        yield facade


@pytest.fixture(params=["rgw", "seaweedfs", "rclone"])
def s3_store(request: pytest.FixtureRequest) -> Store:
    """A new bucket of each store that speaks S3, one after the other."""
    server: Rgw | SeaweedFs | Rclone = request.getfixturevalue(request.param)
    return server.store().make_bucket()


@pytest.fixture
def oss_store(oss: OssFacade) -> Store:
    """A new bucket of the stand-in for OSS."""
    return oss.store().make_bucket()


@pytest.fixture(params=["rgw", "seaweedfs", "rclone", "oss"])
def store(request: pytest.FixtureRequest) -> Store:
    """A new bucket of each store, one after the other."""
    made: Store = request.getfixturevalue(request.param).store().make_bucket()
    return made


@pytest.fixture
def own_nginx(document_root: Path, authority: Authority) -> Iterator[Nginx]:
    """An nginx for one test, which may stop, kill and restart it."""
    with Nginx(document_root, authority) as server:
        yield server


@pytest.fixture
def no_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets races waste nothing, so that there is none: a racer would come before a time-out is noticed, and
    on a busy machine bytes would come twice by chance. Races have their tests in test_tail.py.
    """
    monkeypatch.setattr(scheduler, "WASTE_BYTES", 0)
    monkeypatch.setattr(scheduler, "WASTE_SHARE", 1 << 60)


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    """A directory on tmpfs, removed at the end."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


# A machine that is busy with other things must not fail a property by being slow.
settings.register_profile("house", deadline=None)
# The same few examples each time, for the thousand runs of `make mutate`.
settings.register_profile("mutate", deadline=None, derandomize=True, max_examples=30, database=None)
settings.load_profile("house")

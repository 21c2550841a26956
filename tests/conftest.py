"""The servers and objects that tests share.

`nginx` and `caddy` serve the same document root for the whole session; `objects` makes files in it. A test
that stops or kills its server takes `own_nginx`, which serves the same root and is the test's alone (a start
takes about 20 ms). A server that misbehaves is made in the test itself: `with RawServer(handler) as server`,
from tests.servers.raw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers import Authority
from tests.servers.caddy import Caddy
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of all servers, with their common certificate."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def document_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that all servers serve."""
    return tmp_path_factory.mktemp("root")


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


@pytest.fixture
def own_nginx(document_root: Path, authority: Authority) -> Iterator[Nginx]:
    """An nginx for one test, which may stop, kill and restart it."""
    with Nginx(document_root, authority) as server:
        yield server


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    """A directory on tmpfs, removed at the end."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


# A machine that is busy with other things must not fail a property by being slow.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

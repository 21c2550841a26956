"""What the tests of sets that go to object stores begin with."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.dataset.to_stores import Tree
from tests.servers.nginx import Nginx
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store


@pytest.fixture
def web(request: pytest.FixtureRequest, own_nginx: Nginx, document_root: Path) -> Tree:
    return Tree(document_root, f"set {quote(request.node.name, safe='')}", own_nginx)


@pytest.fixture(params=["rgw", "seaweedfs", "rclone", "oss"])
def store(request: pytest.FixtureRequest) -> Store:
    """A new bucket of each store, one after the other."""
    made: Store = request.getfixturevalue(request.param).store().make_bucket()
    return made


@pytest.fixture
def weed(seaweedfs: SeaweedFs) -> Store:
    """A new bucket of the SeaweedFS."""
    return seaweedfs.store().make_bucket()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"

"""The stores that these tests share."""

from __future__ import annotations

import pytest

from tests.servers.store import Store


@pytest.fixture(params=["rgw", "seaweedfs", "rclone", "oss"])
def store(request: pytest.FixtureRequest) -> Store:
    """A new bucket of each store, one after the other."""
    made: Store = request.getfixturevalue(request.param).store().make_bucket()
    return made

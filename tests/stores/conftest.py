"""The stores that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.oss_facade import OssFacade
from tests.servers.store import Store
from tests.stores.rig import Rig


@pytest.fixture
def small(oss: OssFacade) -> Store:
    """A new bucket of an RGW that takes small parts."""
    behind = oss.store().behind
    assert behind is not None
    return behind.make_bucket()


@pytest.fixture
def rig(small: Store) -> Iterator[Rig]:
    """That, behind a proxy."""
    with Rig(small) as made:
        yield made

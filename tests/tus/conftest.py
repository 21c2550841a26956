"""The tus server that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Authority
from tests.servers.tus_node import TusNode


@pytest.fixture(scope="session")
def tus_node(authority: Authority) -> Iterator[TusNode]:
    """The session's tus server; it must be left running."""
    with TusNode(authority) as server:
        yield server

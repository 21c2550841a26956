"""The waits between attempts are shortened, as for the scenarios of tests/faults."""

from __future__ import annotations

import pytest

from fastxfer import mirrors
from fastxfer.plan import retry
from tests.mirrors.group import CHUNK, SIZE


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the back-off begin at 20 ms."""
    monkeypatch.setattr(retry, "BASE_S", 0.02)


@pytest.fixture
def fixed_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has samples taken where `damaged` damages nothing."""
    fractions = [(chunk * CHUNK + CHUNK / 2) / SIZE for chunk in range(5, 85, 10)]
    monkeypatch.setattr(mirrors, "places", lambda: fractions)

"""Short waits between attempts, and a root to write below."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastxfer.plan import governor, retry


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the back-off begin at 20 ms, and a lowered limit of requests recover soon."""
    monkeypatch.setattr(retry, "BASE_S", 0.02)
    monkeypatch.setattr(governor, "RECOVERY_S", 0.05)
    monkeypatch.setattr(governor, "PAUSE_S", 0.02)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory that objects go below."""
    path = tmp_path / "root"
    path.mkdir()
    return path

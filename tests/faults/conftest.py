"""The waits between attempts are shortened for every scenario, and nothing is raced; everything else is as
users have it.
"""

from __future__ import annotations

import pytest

from fastxfer.plan import governor, retry


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch, no_races: None) -> None:
    """Makes the back-off begin at 20 ms, and a lowered limit of requests recover every 50 ms
    and after a pause of 20 ms."""
    monkeypatch.setattr(retry, "BASE_S", 0.02)
    monkeypatch.setattr(governor, "RECOVERY_S", 0.05)
    monkeypatch.setattr(governor, "PAUSE_S", 0.02)

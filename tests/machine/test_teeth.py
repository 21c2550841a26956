"""The breaks that the machine is tried with can still be made: each stands once in the package."""

from __future__ import annotations

import pytest

from tests.machine.teeth import BREAKS, ROOT, Break


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_it_can_be_broken(broken: Break) -> None:
    assert (ROOT / broken.path).read_text().count(broken.right) == 1

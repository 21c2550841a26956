"""Which descriptors this process holds; apart from those of the engine, which come and go."""

from __future__ import annotations

import os
from pathlib import Path


def held_open(path: Path) -> int:
    """Returns how many descriptors are of a path or of what is, or was, below it."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").startswith(str(path))
        except FileNotFoundError:
            pass  # that of the listing itself, or one of another thread
    return found

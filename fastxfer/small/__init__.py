"""Many small objects into files, each by one plain GET and one write: `SmallObjects`."""

from fastxfer.small.items import Fetched, Missed, Wanted
from fastxfer.small.run import SMALL_BYTES, SmallObjects

__all__ = ["SMALL_BYTES", "Fetched", "Missed", "SmallObjects", "Wanted"]

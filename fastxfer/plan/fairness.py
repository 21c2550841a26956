"""Fair parts of what is too little for all."""

from __future__ import annotations

from collections.abc import Sequence


def shares(most: int, wants: Sequence[int]) -> list[int]:
    """Returns a max-min fair part of `most` for each: nobody could get more but from one who has less.

    Nobody gets more than it wants; what is over after even parts goes to the first ones.
    """
    parts = [0] * len(wants)
    left = most
    hungry = [index for index, want in enumerate(wants) if want > 0]
    while hungry and left > 0:
        each = max(1, left // len(hungry))
        for index in hungry:
            more = min(each, wants[index] - parts[index], left)
            parts[index] += more
            left -= more
        hungry = [index for index in hungry if parts[index] < wants[index]]
    return parts

"""The end of a transfer, in numbers: where a run is cut so that two slots end together, when a run outlasts
all others, and when a second request for the same bytes pays. Times are in seconds, rates in bytes a second.
"""

from __future__ import annotations

import math

from fastxfer.values import dataclass

# A cut or a race that saves less than this is not worth a request.
LEAST_GAIN_S = 0.1
# A run that would end so many times later than the whole transfer loses its end before its time.
OUTLASTS = 1.5
# A piece is raced when the racer is expected to need less than half the time.
RACE_FACTOR = 2.0
RACE_BYTES = 4 * 1024**2
"""The most that a racer asks for: what it brings is kept in memory until it has won."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is left of the run of `slot`: [pos, stop), coming at `rate`."""

    slot: int
    pos: int
    stop: int
    rate: float

    @property
    def seconds(self) -> float:
        """How long it takes at this rate; infinite when nothing comes."""
        return time_for(self.stop - self.pos, self.rate)


def time_for(size: int, rate: float) -> float:
    """Returns the seconds that so many bytes take."""
    return size / rate if rate > 0 else math.inf


def grid_up(pos: float, chunk: int) -> int:
    """Returns the first boundary of the grid that is not under `pos`."""
    return -(-math.ceil(pos) // chunk) * chunk


def _cut(piece: Piece, keep: float, chunk: int, least: int) -> int | None:
    """Returns the boundary after `keep` bytes of a piece that leaves at least `least` behind it, or None.

    The chunk that the piece is in the middle of stays with it.
    """
    at = max(grid_up(piece.pos + keep, chunk), (piece.pos // chunk + 1) * chunk)
    left = piece.stop - at
    return at if left > 0 and (left >= least or chunk >= least) else None


def share(
    piece: Piece, helper_rate: float, wait_s: float, cost_s: float, chunk: int, least: int
) -> int | None:
    """Returns where a piece is to end so that another slot, which needs `wait_s` for its first byte, ends the
    rest at the same time; None when that saves no more than `cost_s`.
    """
    if helper_rate <= 0:
        return None
    left = piece.stop - piece.pos
    keep = piece.rate * (left + wait_s * helper_rate) / (piece.rate + helper_rate)
    if keep >= left:
        return None
    at = _cut(piece, keep, chunk, least)
    if at is None:
        return None
    then = max(time_for(at - piece.pos, piece.rate) if piece.rate else 0.0, wait_s)
    then = max(then, wait_s + (piece.stop - at) / helper_rate)
    return at if piece.seconds - then > max(cost_s, LEAST_GAIN_S) else None


def trim(piece: Piece, rest_s: float, cost_s: float, chunk: int, least: int) -> int | None:
    """Returns where a piece is to end that would go on long after `rest_s`, when all else is in place; None
    when it would not, or that were not worth `cost_s`.
    """
    if piece.seconds <= OUTLASTS * rest_s + max(cost_s, LEAST_GAIN_S):
        return None
    return _cut(piece, piece.rate * rest_s, chunk, least)


def races(piece: Piece, racer_rate: float, wait_s: float) -> bool:
    """Returns whether a second request for a piece is expected to end it much earlier."""
    if racer_rate <= 0:
        return False
    left = min(piece.stop - piece.pos, RACE_BYTES)
    racer_s = wait_s + left / racer_rate
    own_s = time_for(left, piece.rate)
    return own_s > RACE_FACTOR * racer_s and own_s - racer_s > LEAST_GAIN_S

"""What a document such as a Metalink says of one object, beside its checksum: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastxfer.plan.ranges import Span
from fastxfer.values import dataclass

if TYPE_CHECKING:
    from fastxfer.inputs.entry import Pieces


@dataclass(frozen=True, slots=True)
class Description:
    """The size that an object must have, and the digests of its pieces, where they are known."""

    size: int | None = None
    pieces: Pieces | None = None

    def piece_spans(self, size: int) -> list[Span]:
        """Returns the ranges of the pieces of an object of `size` bytes; none where they do not fit it."""
        if self.pieces is None:
            return []
        length = self.pieces.length
        spans = [(start, min(start + length, size)) for start in range(0, size, length)]
        return spans if len(spans) == len(self.pieces.digests) else []

"""What a copy in parts has so far: like that of an upload, with the source in place of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastxfer.copy_checks import hex_of
from fastxfer.plan.parts import Listed, PartGrid
from fastxfer.ranged_source import RangedSource
from fastxfer.storage.copy_file import CopiedPart, CopyFile, CopyState, Origin
from fastxfer.upload_job import Job, combined
from fastxfer.upload_store import UploadStore


class CopyJob(Job):
    """See the module.

    `sums` are the CRCs of each part's bytes by algorithm: the store's own, and those of `also`, by which the
    whole is held against what is told of the source. `maybe` are parts that the store lists and that no
    checkpoint tells of: their bytes are read again, and sent only if they are others.
    """

    save_s = 0.0  # what is not in the checkpoint is read again
    by = "relay"

    def __init__(
        self,
        source: RangedSource,
        origin: Origin,
        store: UploadStore,
        grid: PartGrid,
        kept: CopyFile | None,
        *,
        also: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        self.source = source
        self.origin = origin
        self.also = tuple(name for name in also if name != store.crc_name)
        self.checkpoint = kept
        super().__init__(store, grid, kept, **more)

    def go_on(self, *args: Any) -> None:
        """See `Job`."""
        super().go_on(*args)
        self.sums: dict[int, dict[str, int]] = {}
        self.maybe: Mapping[int, Listed] = {}

    def _write(self) -> None:
        if self.checkpoint is None:
            return
        parts = {number: CopiedPart(self.etags[number], self._hex(number)) for number in self.state.done}
        self.checkpoint.save(
            CopyState(
                self.upload_id,
                self.store.name,
                self.endpoint,
                self.origin,
                self.by,
                self.grid.part_size,
                parts,
            )
        )

    def _hex(self, number: int) -> dict[str, str]:
        return {name: hex_of(name, value) for name, value in self.sums.get(number, {}).items()}

    def reckoned(self, number: int, sums: dict[str, int]) -> None:
        """Notes the CRCs of a part's bytes."""
        self.sums[number] = sums
        self.crcs[number] = sums[self.store.crc_name]

    def whole_sums(self) -> dict[str, str]:
        """Returns the CRCs of all bytes in hex, by algorithm."""
        numbers = range(1, self.grid.count + 1)
        found = {}
        for name in (self.store.crc_name, *self.also):
            stretches = ((self.sums[number][name], self.grid.length(number)) for number in numbers)
            found[name] = hex_of(name, combined(name, stretches))
        return found

    def whole_md5(self) -> str:
        """Returns "": parts come in any order."""
        return ""


class StoreCopyJob(CopyJob):
    """That of a copy that the store makes by itself. `told_crc` is the source's, None for untold."""

    by = "store"
    told_crc: int | None = None

    def whole_crc(self) -> int | None:
        """See `Job`."""
        return self.told_crc

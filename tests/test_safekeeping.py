"""What a transfer that failed says it has kept."""

from __future__ import annotations

from pathlib import Path

from fastxfer._native.writer import Writer
from fastxfer.options import TransferOptions
from fastxfer.plan.response import Identity
from fastxfer.safekeeping import Safekeeping
from fastxfer.sources.http import HttpSource
from fastxfer.storage.part_file import PartFile, Source
from tests.kills.victims import opened

CHUNK = 65536
URL = "http://127.0.0.1/out"


def test_a_chunk_that_was_finished_while_it_was_saved_is_told_once(tmp_path: Path) -> None:
    options = TransferOptions.build()
    with opened(tmp_path / "out") as target:
        part = PartFile.open(target, Source.of(URL, URL))
        part.allocate(Identity(4 * CHUNK, '"v1"'), CHUNK, sink="pwrite")
        writer = Writer()
        part.attach(writer)
        writer.begin(0, CHUNK)
        writer(bytes(CHUNK))
        writer.end()
        writer.detach()
        part.claim(((1000, 1), (CHUNK + 24576, 2)))
        keeping = Safekeeping(target, HttpSource.of(URL, options), options)
        assert keeping._kept() == f"88 KiB of 256 KiB in {target.part}"
        part.close()

"""`fastxfer status`: what is there of a target, read without locking or changing anything.

A transfer may be writing meanwhile. The checkpoint's two slots make that safe: a slot that is half written
does not hold its checksum, and the other one is taken.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from fastxfer._native.bitmap import ChunkLedger
from fastxfer.cli import output
from fastxfer.cli.arguments import Parser, switch
from fastxfer.errors import CheckpointError, OptionError, StorageError
from fastxfer.progress.snapshot import chunk_cells
from fastxfer.storage.checkpoint import Checkpoint, read_checkpoint
from fastxfer.storage.owner import current
from fastxfer.storage.paths import Target, target_of
from fastxfer.units import format_duration, format_size

MAP_CELLS = 64


@dataclass(frozen=True, slots=True)
class Status:
    """What is there of a target. Sizes in bytes; None where it is not known or does not apply.

    `state` is complete, incomplete, or updating: a complete file is there and a newer one is on its way.
    `claimed` counts what survives a kill, partly filled chunks included, `durable` what survives a power cut.
    `url` is the source without secrets; `url_whole` whether that was all of it. `written` is in seconds since
    1970.
    """

    state: str
    path: str
    part: str | None
    size: int | None
    claimed: int | None = None
    durable: int | None = None
    chunk_size: int | None = None
    chunks: str = ""
    url: str | None = None
    url_whole: bool = False
    etag: str | None = None
    last_modified: str | None = None
    paused: bool = False
    written: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values, and how to go on."""
        return {**asdict(self), "go_on": how_to_go_on(self)}


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser = Parser(
        "status",
        "PATH [--json]",
        "Shows what is there of a target: complete, or how much of it, and how to go on. Changes nothing.",
    )
    parser.add_argument("paths", metavar="PATH", nargs="*", help="the target, or its .part or .part.ckpt")
    parser.add_switch("--json", help="one JSON object on stdout")
    given = parser.parse(arguments, "paths")
    if len(given.paths) != 1:
        raise OptionError("a path is missing" if not given.paths else "only one path at a time can be given")
    status = read_status(given.paths[0])
    if switch("json", given.json):
        output.event("result", status.to_dict())
    else:
        output.line(describe(status, time.time()))
    return 0


def read_status(path: str) -> Status:
    """Returns what is there of the target at `path`. Raises StorageError when nothing is, and CheckpointError
    for a checkpoint that cannot be read.
    """
    target = current(target_of(path))
    final, part = target.directory.look(target.name), target.directory.look(target.part_name)
    checkpoint, written = _read_checkpoint(target)
    if final is None and part is None and checkpoint is None:
        raise StorageError(f"nothing is there: neither {target.final} nor a part file or checkpoint of it")
    shown = str(target.final)
    if checkpoint is None:
        if final is not None:
            return Status("complete", shown, None, final.st_size, written=final.st_mtime)
        return Status("incomplete", shown, str(target.part), None, claimed=0, durable=0)
    ledger = _ledger(checkpoint, checkpoint.claimed)
    identity = checkpoint.identity
    return Status(
        state="incomplete" if final is None else "updating",
        path=shown,
        part=str(target.directory.path / target.part_name) if part is not None else None,
        size=identity.size,
        claimed=(_bytes_of(ledger) + _prefix_bytes(checkpoint, ledger)) if part is not None else 0,
        durable=_bytes_of(_ledger(checkpoint, checkpoint.durable)) if part is not None else 0,
        chunk_size=checkpoint.chunk_size,
        chunks=chunk_cells(*ledger.cells(MAP_CELLS)) if ledger is not None else "",
        url=checkpoint.url,
        url_whole=hashlib.sha256(checkpoint.url.encode()).hexdigest() == checkpoint.url_sha256,
        etag=identity.etag,
        last_modified=identity.last_modified,
        paused=checkpoint.paused,
        written=written,
    )


def _read_checkpoint(target: Target) -> tuple[Checkpoint | None, float | None]:
    """Returns what the checkpoint says and when it was written. Reading it asks for no right to write."""
    try:
        return read_checkpoint(target.directory, target.checkpoint_name) or (None, None)
    except CheckpointError as error:
        raise CheckpointError(f"{target.checkpoint}: {error}", kept=str(target.part)) from error


def _ledger(checkpoint: Checkpoint, bits: bytes) -> ChunkLedger | None:
    if not checkpoint.chunks:
        return None
    ledger = ChunkLedger(checkpoint.identity.size or 0, checkpoint.chunk_size)
    ledger.load(bits, checkpoint.crcs)
    return ledger


def _bytes_of(ledger: ChunkLedger | None) -> int:
    return ledger.done_bytes if ledger is not None else 0


def _prefix_bytes(checkpoint: Checkpoint, ledger: ChunkLedger | None) -> int:
    """Returns how many bytes are in place at the beginnings of chunks that are not complete."""
    longest: dict[int, int] = {}
    for pos, _ in checkpoint.partials:
        chunk, length = divmod(pos, checkpoint.chunk_size)
        if ledger is not None and chunk < ledger.count and chunk not in ledger:
            longest[chunk] = max(length, longest.get(chunk, 0))
    return sum(longest.values())


def how_to_go_on(status: Status) -> str | None:
    """Returns the command that goes on, or what to do where it cannot be told; None when all is done."""
    if status.state == "complete":
        return None
    if status.paused and not status.claimed:
        return "run the same fetch again with --unpause: it starts from the beginning"
    if status.url is None or status.size is None or not status.part or not status.claimed:
        return "run the same fetch again: it starts from the beginning"
    if not status.url_whole:
        paused = " with --unpause" if status.paused else ""
        return f"run the same fetch again{paused}: its URL had a query, which is not stored"
    unpause = ["--unpause"] if status.paused else []
    return shlex.join(["fastxfer", "fetch", status.url, "-o", status.path, *unpause])


def describe(status: Status, now: float) -> str:
    """Returns a status for people, a line each."""
    if status.state == "complete":
        size = f"{format_size(status.size or 0)} ({status.size} bytes)"
        return output.plain(f"{status.path}: complete, {size}, last modified {_date(status.written)}")
    head = f"{status.path}: incomplete"
    if status.state == "updating":
        head = f"{status.path}: an earlier version is there, a newer one is incomplete"
    rows: dict[str, str] = {}
    if status.size is None:
        head += ", of unknown size" if status.url else ", without a checkpoint"
    else:
        claimed, durable = status.claimed or 0, status.durable or 0
        share = claimed * 100 // status.size if status.size else 100
        head += f", {format_size(claimed)} of {format_size(status.size)} ({share}%)"
        rows["claimed"] = f"{claimed} of {status.size} bytes, safe against a kill"
        rows["durable"] = f"{durable} of {status.size} bytes, safe against a power cut"
        rows["chunks"] = f"of {format_size(status.chunk_size or 0)}"
        rows["map"] = f"[{status.chunks}]"
    if status.paused:
        head += ", paused by its user"
    if status.url is not None:
        rows["source"] = status.url
        rows["etag"] = status.etag or "none"
        rows["last modified"] = status.last_modified or "not told"
    if status.part is None:
        rows["part file"] = "missing: what the checkpoint says of it is lost"
    if status.written is not None:
        ago = format_duration(max(0.0, now - status.written))
        rows["last written"] = f"{_date(status.written)}, {ago} ago"
    rows["to go on"] = how_to_go_on(status) or "-"
    return "\n".join([output.plain(head), *(f"  {k:<14} {output.plain(v)}" for k, v in rows.items())])


def _date(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")

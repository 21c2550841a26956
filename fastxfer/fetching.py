"""Fetches what is needed on the way, an index or a manifest, into a file aside, as any object is fetched."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from fastxfer.download import Download
from fastxfer.errors import BadResponseError, InterruptedTransferError
from fastxfer.options import TransferOptions
from fastxfer.units import format_size

_LOOK_S = 0.05
# What of a fetch's options is about the network and its pace, and so for what is fetched aside too.
_OF_THE_OBJECT = (
    "mirrors", "refresh", "checksum", "chunk_size", "resume", "exists", "on_change", "keep_ledger"
)  # fmt: skip


def fetch_aside(
    url: str,
    path: str,
    given: Mapping[str, Any],
    *,
    most_bytes: int,
    stopped: threading.Event | None = None,
    keep: bool = False,
) -> Download:
    """Fetches `url` to `path` with those of the options that are given that are of the network; returns the
    download, which is over. With `keep` it may be large: over all connections, and what is there of it stays
    and is gone on from. Raises the errors of a fetch, BadResponseError for what is longer than `most_bytes`,
    InterruptedTransferError when `stopped` is set.
    """
    network = {name: value for name, value in given.items() if name not in _OF_THE_OBJECT}
    if not keep:
        network |= {"connections": 1, "durability": "none"}
    download = Download(url, path, TransferOptions.build(**network))
    download.begin()
    try:
        while not download.over.wait(_LOOK_S):
            if max(download.progress.done, download.progress.size or 0) > most_bytes:
                raise BadResponseError(f"it is longer than {format_size(most_bytes)}")
            if stopped is not None and stopped.is_set():
                raise InterruptedTransferError("it was stopped")
    finally:
        download.cancel(keep=keep)
        download.over.wait()
    if download.error is not None:
        raise download.error
    return download

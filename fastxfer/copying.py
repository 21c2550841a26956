"""The public call that copies from one server to another, imported when it is asked for."""

from __future__ import annotations

from typing import Any

from fastxfer.api import Path, ProgressOption
from fastxfer.copy_options import SHARED, CopyOptions
from fastxfer.copy_run import Copy
from fastxfer.options import TransferOptions
from fastxfer.progress.reporter import wait_reported
from fastxfer.put_results import CopyResult


def copy(
    src_url: str,
    dst_url: str,
    *,
    part_size: int | str | None = None,
    connections: int = 8,
    memory: int | str = "256M",
    checkpoint_dir: Path | None = None,
    server_side: bool = True,
    progress: ProgressOption = None,
    **options: Any,
) -> CopyResult:
    """Copies an object from a server to an object store, without touching the disk, and returns a CopyResult.

    Ranges of the source become parts of an upload, as many at once as `connections` and `memory` allow. Each
    part's CRC is made as it comes, told to the store that takes it, and put together with the others; the sum
    is held against what the source and the store tell of the whole. Any later call goes on where one ended
    early: parts that the store has are not sent again. A server that gives no ranges, or does not tell the
    size, is read in one stream, which a later call cannot go on from. Where one store holds both it copies by
    itself.

    Args:
        src_url: http://, https://, s3://BUCKET/KEY or oss://BUCKET/KEY.
        dst_url: s3://BUCKET/KEY or oss://BUCKET/KEY; with a slash at the end the source's name comes after.
        part_size: bytes, an int or "8M": 100 KiB to 5 GiB, at Amazon from 5 MiB; by default 8 MiB, or 64 MiB
            where the store copies by itself; larger where 10,000 parts would not do.
        connections: parts at once, 1 to 1024.
        memory: bytes of parts in memory at the most. A part must fit.
        checkpoint_dir: where the progress is kept until the end, by default `$XDG_STATE_HOME/fastxfer`, or
            `~/.local/state/fastxfer`.
        server_side: False has all bytes go through here, also where the store could copy by itself.
        progress: True for a bar, or a callable that takes a Progress about five times a second, on a thread
            of its own.
        options: endpoint, region, profile, credentials, anonymous, addressing say where the store of
            `dst_url` is and who asks. They hold for `src_url` too where it is of the same kind (s3, oss), and
            none of source_endpoint, source_region, source_profile, source_credentials, source_anonymous,
            source_addressing is given; else those, or the environment, say it. `headers`, `auth`, `netrc` and
            those about redirects go to the source, `object_headers` are fields that the object gets.
            `checksum` is what the source has to have: crc32c, crc64nvme or crc64xz. `on_change` ("restart",
            "fail"), `ignore_etag` and those about the network are as `fetch` takes them.

    Raises:
        FastxferError: one of its kinds (fastxfer.errors); `kept` says what is left to go on from.
        RemoteChangedError: the source changed, with on_change="fail" or again and again. ChecksumError: what
            came is not what the source, the caller or the store says; nothing was put together, or it was not
            reported as good. TargetBusyError: the same copy is under way already.
        KeyboardInterrupt: after the progress was saved.
    """
    own = {"part_size": part_size, "connections": connections, "memory": memory}
    running = begin_copy(
        src_url, dst_url, **own, checkpoint_dir=checkpoint_dir, server_side=server_side, **options
    )
    return wait_reported(running, progress)


def begin_copy(src_url: str, dst_url: str, **options: Any) -> Copy:
    """Begins a copy with the options of `copy`, and returns it. Raises OptionError and TypeError."""
    own = {name: value for name, value in options.items() if name in CopyOptions.__dataclass_fields__}
    shared = {name: value for name, value in options.items() if name not in own}
    for name in shared:
        if name not in SHARED:
            raise TypeError(f"there is no option {name!r} of a copy")
    running = Copy(src_url, dst_url, CopyOptions.build(**own), TransferOptions.build(**shared))
    running.begin()
    return running

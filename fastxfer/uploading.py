"""The public calls that upload, imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastxfer.api import Path, ProgressOption
from fastxfer.options import TransferOptions
from fastxfer.progress.reporter import wait_reported
from fastxfer.put_options import NETWORK, PutOptions
from fastxfer.put_results import PendingUpload, PutResult
from fastxfer.sources.tus import is_tus
from fastxfer.tus_upload import TusUpload
from fastxfer.upload import Upload
from fastxfer.uploads import end_uploads, find_uploads


def put(
    path: Path,
    url: str,
    *,
    part_size: int | str = "8M",
    connections: int = 8,
    checkpoint_dir: Path | None = None,
    progress: ProgressOption = None,
    **options: Any,
) -> PutResult:
    """Uploads the file at `path` to an object store, in parts over many connections, or to a tus server;
    returns a PutResult.

    Any later call goes on where one ended early, after an error, Ctrl-C or a kill: parts that the store has
    are not sent again, where it lists them and the file still has their bytes. A file of one part goes in one
    request. Each part is checked on its way, and the object at the end (`verified` says by what).

    Args:
        path: a regular file.
        url: s3://BUCKET/KEY or oss://BUCKET/KEY; with a slash at the end the file's name comes after it. Or
            tus+https://HOST/PATH (tus+http://), where a tus server lets uploads be begun.
        part_size: bytes, an int or "8M": 100 KiB to 5 GiB, at Amazon from 5 MiB (and wherever the store wants
            that much); larger where 10,000 parts would not do. An upload that goes on keeps its size.
        connections: parts at once, 1 to 1024.
        checkpoint_dir: where the progress is kept until the end, by default beside the file: `.NAME.*.fxput`.
        progress: True for a bar, or a callable that takes a Progress about five times a second, on a thread
            of its own.
        options: endpoint, region, profile, credentials, anonymous, addressing, and those about the network,
            as `fetch` takes them; `headers` are fields that the object gets, such as Content-Type.

    Raises:
        FastxferError: one of its kinds (fastxfer.errors); `kept` says what is left to go on from.
        StoreError: what the store refused, with its code and request id. LocalChangedError: the file was
            changed meanwhile. TargetBusyError: the same upload is under way already.
        KeyboardInterrupt: after the progress was saved.
    """
    own = {"part_size": part_size, "connections": connections, "checkpoint_dir": checkpoint_dir}
    upload = begin_upload(path, url, **own, **options)
    return wait_reported(upload, progress)


def begin_upload(path: Path, url: str, **options: Any) -> Upload | TusUpload:
    """Begins an upload with the options of `put`, and returns it. Raises OptionError and TypeError."""
    own = {name: value for name, value in options.items() if name in PutOptions.__dataclass_fields__}
    network = {name: value for name, value in options.items() if name not in own}
    kind = TusUpload if is_tus(url) else Upload
    upload = kind(path, url, PutOptions.build(**own), _network(network))
    upload.begin()
    return upload


def _network(options: Mapping[str, Any]) -> TransferOptions:
    for name in options:
        if name not in NETWORK:
            raise TypeError(f"there is no option {name!r} of an upload")
    return TransferOptions.build(**options)


def list_uploads(url: str, **options: Any) -> list[PendingUpload]:
    """Returns the uploads in parts to a bucket that were begun and neither completed nor aborted: they cost
    space until they are. Those of others who upload just now are among them.

    `url` is s3://BUCKET or oss://BUCKET, or with a key those to keys that begin with it. Takes the options of
    `put` about the store and the network. Raises StoreError and other FastxferErrors.
    """
    return find_uploads(url, _network(options))


def abort_uploads(url: str, *, upload_id: str | None = None, **options: Any) -> list[PendingUpload]:
    """Aborts the uploads that `list_uploads` returns, or only the one with an id, and returns them: their
    parts are gone.

    An upload that is under way just now, by whomever, ends with them: look at the list first.
    """
    return end_uploads(url, upload_id, _network(options))

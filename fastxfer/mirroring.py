"""The public call that mirrors a data set, imported when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from fastxfer.api import Path
from fastxfer.dataset.folder import Folder
from fastxfer.dataset.report import MirrorProgress, MirrorReport
from fastxfer.dataset.results import Destination
from fastxfer.dataset.run import Mirror, Told, begin
from fastxfer.mirror_options import SHARED, MirrorOptions
from fastxfer.options import TransferOptions
from fastxfer.progress.reporter import wait_reported


def mirror(
    source: str,
    dest: Path,
    *,
    jobs: int | None = None,
    connections: int = 16,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    compare: str = "auto",
    delete: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    order: str = "listed",
    max_errors: int | None = None,
    retry_failed: bool = False,
    relist: bool = False,
    format: str | None = None,
    base_url: str | Iterable[str] = (),
    progress: bool | Callable[[MirrorProgress], object] | None = None,
    told: Callable[[Told], object] | None = None,
    **options: Any,
) -> MirrorReport:
    """Has a destination have what a source lists, and returns a MirrorReport. What is here already is not
    fetched; an object that fails does not stop the others. Killed at any moment, it goes on with the next
    call.

    Args:
        source: the index of an HTTP server (a URL with a slash at its end), s3://BUCKET/PREFIX or
            oss://BUCKET/PREFIX, or a manifest: a file, a URL, or - for standard input.
        dest: a folder, which is made.
        jobs: objects over 1 MiB at once. Smaller ones share the connections.
        connections: requests at once.
        include, exclude: globs of paths; see docs/mirror.md. Exclude wins.
        compare: what tells that an object is here already: "auto", "size", "time", "etag", "checksum", or
            "always" to fetch all.
        delete: delete what was fetched from this source and has vanished there. Never on the word of a
            listing that is not complete or has nothing, nor what was changed here since.
        dry_run: say what would be done, in the report and to `told`, and do nothing of it but the listing.
        verify: read all files that are here first, and fetch anew those that are damaged.
        order: "listed", which is by path, or "largest" first.
        max_errors: stop when so many have failed.
        retry_failed: try again only what failed in the last run, without a listing.
        relist: list the source anew, also where a run that was stopped within the hour has listed it.
        format, base_url: of a manifest: its format where it is not recognised, and where its names are.
        progress: True for a bar, or a callable that takes a MirrorProgress about five times a second, on a
            thread of its own.
        told: a callable that takes a Told for each object of which something became, on a thread of its own.
        options: those of `fetch` about the network, its pace, the store and durability, for all objects.

    Raises:
        FastxferError: what ends all: the disk is full, the first place cannot be listed, a hundred cannot.
            An object's own error is in the report.
        LedgerError: the ledger cannot be used. TargetBusyError: another process mirrors there.
        KeyboardInterrupt: after what came was written down.
    """
    running = begin_mirror(
        source,
        dest,
        told=told,
        jobs=jobs,
        connections=connections,
        include=include,
        exclude=exclude,
        compare=compare,
        delete=delete,
        dry_run=dry_run,
        verify=verify,
        order=order,
        max_errors=max_errors,
        retry_failed=retry_failed,
        relist=relist,
        format=format,
        base_url=base_url,
        **options,
    )
    with ExitStack() as stack:
        tell: Callable[[MirrorProgress], object] | None = None
        if callable(progress):
            tell = progress
        elif progress:
            from fastxfer.progress.bar import Bar

            bar = stack.enter_context(Bar())
            tell = lambda state: bar.show(state.as_progress(), state.title)  # noqa: E731 - it is a line
        return wait_reported(running, None if tell is None else lambda _: tell(running.state))


def begin_mirror(
    source: str, dest: Path, *, told: Callable[[Told], object] | None = None, **options: Any
) -> Mirror:
    """Begins a run with the options of `mirror`, and returns it. Raises OptionError and TypeError."""
    own = {name: value for name, value in options.items() if name in MirrorOptions.__dataclass_fields__}
    shared = {name: value for name, value in options.items() if name not in own}
    for name in shared:
        if name not in SHARED:
            raise TypeError(f"there is no option {name!r} of a mirror run")
    mine = MirrorOptions.build(**own)
    TransferOptions.build(**shared)
    return begin(os.fspath(source), _destination(dest, mine, shared), mine, shared, told)


def _destination(dest: Path, own: MirrorOptions, shared: dict[str, Any]) -> Destination:
    return Folder(dest, shared, own.jobs)

"""The public call that mirrors a data set, imported when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastxfer.api import Path as AnyPath
from fastxfer.dataset.folder import Folder
from fastxfer.dataset.report import MirrorItem, MirrorProgress, MirrorReport
from fastxfer.dataset.results import Destination
from fastxfer.dataset.run import Mirror, begin
from fastxfer.dataset.store import StorePrefix, folder_of
from fastxfer.errors import OptionError
from fastxfer.mirror_options import Given
from fastxfer.options import TransferOptions, parse_connections
from fastxfer.progress.reporter import wait_reported
from fastxfer.progress.snapshot import Progress
from fastxfer.sources.http import HttpSource
from fastxfer.sources.schemes import is_http, is_location
from fastxfer.sources.store_access import StoreAccess
from fastxfer.storage.copy_file import default_directory

CONNECTIONS = 16


def mirror(
    source: str,
    dest: AnyPath,
    *,
    jobs: int | None = None,
    connections: int = CONNECTIONS,
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
    told: Callable[[MirrorItem], object] | None = None,
    cluster: Any = None,
    **options: Any,
) -> MirrorReport:
    """Has a destination have what a source lists, and returns a MirrorReport. What is here already is not
    fetched; an object that fails does not stop the others. Killed at any moment, it goes on with the next
    call.

    Args:
        source: the index of an HTTP server (a URL with a slash at its end), s3://BUCKET/PREFIX or
            oss://BUCKET/PREFIX, or a manifest: a file, a URL, or - for standard input.
        dest: a folder, which is made; or s3://BUCKET/PREFIX or oss://BUCKET/PREFIX, to which all is copied
            without touching the disk.
        jobs: objects over 1 MiB at once, 2 by default; smaller ones share the connections. To a store copies
            at once, 8 by default, of whatever size.
        connections: requests at once. To a store they are shared out to the copies.
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
        told: a callable that takes a MirrorItem for each object of which something became, on a thread
            of its own.
        cluster: who fetches to a folder instead of this process: a Dask `Client`, the address of a Dask
            scheduler, "local" for a process a core of this machine, or any `concurrent.futures.Executor`. All
            of them share the folder; see docs/scale.md.
        options: to a folder those of `fetch` about the network, its pace, the store and durability, for all
            objects. To a store those of `copy`, but for checksum, on_change and checkpoint_dir; `memory` is
            for all copies together. `state_dir` is where the ledgers of such runs are, by default
            `$XDG_STATE_HOME/fastxfer/mirrors`.

    Raises:
        FastxferError: what ends all: the disk is full; the source, or a hundred places of it, cannot be
            listed. `kept` says what is there to go on from. What befell an object, or another place, is in
            the report.
        LedgerError: the ledger cannot be used. TargetBusyError: another process mirrors there.
        KeyboardInterrupt: after what came was written down.
    """
    running = begin_mirror(
        source,
        dest,
        told=told,
        cluster=cluster,
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
        return wait_reported(running, teller(running, progress, stack))


def teller(
    running: Mirror, progress: bool | Callable[[MirrorProgress], object] | None, stack: ExitStack
) -> Callable[[Progress], object] | None:
    """Returns what tells how a run stands to a callable, or to a bar, which is the stack's."""
    tell: Callable[[MirrorProgress], object]
    if callable(progress):
        tell = progress
    elif progress:
        from fastxfer.progress.bar import Bar

        bar = stack.enter_context(Bar())
        tell = lambda state: bar.show(state.as_progress(), state.title, state.figures)  # noqa: E731 - it is a line
    else:
        return None
    return lambda _: tell(running.state)


def begin_mirror(
    source: str,
    dest: AnyPath,
    *,
    told: Callable[[MirrorItem], object] | None = None,
    cluster: Any = None,
    **options: Any,
) -> Mirror:
    """Begins a run with the options of `mirror`, and returns it. Raises OptionError and TypeError."""
    source, dest = os.fspath(source), os.fspath(dest)
    if is_http(source) and options.get("auth") is None:
        options["auth"] = HttpSource.of(source, TransferOptions()).credentials  # for all of its origin
    if not is_location(dest.strip()):
        given = Given.of(options, to_store=False)
        return begin(source, _folder(dest, given, cluster), given.own, given.shared, told)
    given = Given.of(options, to_store=True)
    if cluster is not None or given.own.dask is not None:
        raise OptionError("options cluster and dask: workers fetch to a folder, not to a store")
    same_kind = _kind(source) == _kind(dest)
    of_source = given.of_source(same_kind=same_kind)
    destination = _store(dest, given)
    if given.own.format is None:
        _refuse_itself(source, of_source, destination)
    return begin(source, destination, given.own, of_source, told)


def _folder(dest: str, given: Given, cluster: Any) -> Destination:
    own = given.own
    if cluster is None and own.dask is None:
        return Folder(dest, given.shared, own.jobs)
    if cluster is not None and own.dask is not None:
        raise OptionError("options cluster and dask: one of them says who fetches")
    from fastxfer.dataset.cluster import Spread
    from fastxfer.dataset.crews import crew_for

    return Spread(dest, given.shared, crew_for(own.dask if cluster is None else cluster))


def _store(dest: str, given: Given) -> StorePrefix:
    shared = dict(given.shared)
    connections = shared.pop("connections", CONNECTIONS)
    state = given.own.state_dir
    return StorePrefix(
        dest,
        shared,
        given.copies,
        Path(os.path.abspath(state)) if state else default_directory(os.environ, Path.home()) / "mirrors",
        jobs=given.own.jobs,
        connections=parse_connections(connections),
    )


def _kind(url: str) -> str:
    return url.strip().partition(":")[0].lower() if is_location(url.strip()) else ""


def _refuse_itself(source: str, given: Mapping[str, Any], destination: StorePrefix) -> None:
    """Raises OptionError for a prefix that goes into itself."""
    if is_location(source.strip()) and destination.overlaps(
        folder_of(source), StoreAccess.of(folder_of(source), TransferOptions.build(**given))
    ):
        raise OptionError("the source and the destination are the same prefix, or one is within the other")

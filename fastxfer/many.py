"""Many objects in one call: `fetch_many`, and the input files that name them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fastxfer.api import Path
from fastxfer.batch import DEFAULT_JOBS, Batch, BatchResult, Job, Outcome, check_jobs
from fastxfer.errors import OptionError, storage_error
from fastxfer.inputs import MAX_INPUT_BYTES, Entry, Inputs, parse
from fastxfer.inputs.entry import at
from fastxfer.names import name_of_url
from fastxfer.options import TransferOptions, merged_options
from fastxfer.progress.overall import Overall, Tally
from fastxfer.progress.snapshot import Progress
from fastxfer.sources.opening import RemoteSource, open_mirror, open_source
from fastxfer.storage.paths import Below, check_length, check_text

Item = str | tuple[str, Path | None] | tuple[str, Path | None, tuple[str, ...]] | Entry
"""A URL, with the file and with mirrors if need be, or an entry of an input file."""


def fetch_many(
    items: Iterable[Item],
    directory: Path | None = None,
    *,
    jobs: int = DEFAULT_JOBS,
    progress: bool | Callable[[Overall], object] | None = None,
    told: Callable[[Outcome], object] | None = None,
    **options: Any,
) -> BatchResult:
    """Fetches many objects, `jobs` of them at a time, and returns a BatchResult. An object that fails does
    not stop the others: its error is in the result.

    Args:
        items: URLs, (URL, file) pairs, or entries of an input file (`read_inputs`).
        directory: where the files go, by default the current directory. For entries it is made, and what
            they name stays below it, whatever symbolic links are there.
        jobs: transfers at once, 1 to 64.
        progress: True for one bar over all, or a callable that takes an Overall ten times a second. The sizes
            of all objects are then asked for first.
        told: a callable that takes the Outcome of each object.
        options: those of `fetch`, for all; an entry's own count more.

    Raises:
        OptionError: one of the items cannot be used; nothing was started.
        KeyboardInterrupt: after the progress of all was saved.
    """
    work = ListWork(jobs_of(items, directory, options), ask_sizes=bool(progress))
    number = check_jobs(jobs)
    with overall_shown(progress) as watch:
        return Batch(work, number, watch=watch, told=told).run()


@contextmanager
def overall_shown(
    progress: bool | Callable[[Overall], object] | None,
) -> Iterator[Callable[[Overall], object] | None]:
    """Gives the `watch` of a batch: a bar for True, or the callable."""
    if progress is not True:
        yield progress or None
        return
    from fastxfer.progress.bar import Bar

    with Bar() as bar:
        yield lambda overall: bar.show(overall.as_progress(), overall.title)


def read_inputs(
    path: Path, *, format: str | None = None, base_url: str | Iterable[str] = (), any_dir: bool = False
) -> Inputs:
    """Returns the entries that an input file names: a list of URLs, an aria2 input file, SHA256SUMS and its
    kind (with `base_url`, where its files are), Metalink 3 or 4.

    Raises OptionError that names the line, StorageError when the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise storage_error(f"read {os.fspath(path)}", error) from error
    bases = [base_url] if isinstance(base_url, str) else list(base_url)
    return parse(data, format=format, base_urls=bases, any_dir=any_dir)


def jobs_of(items: Iterable[Item], directory: Path | None, options: Mapping[str, Any]) -> list[Job]:
    """Returns the jobs for items, all of them checked; the directory of entries is made. Raises OptionError
    and StorageError.
    """
    root = os.fspath(directory) if directory is not None else ""
    TransferOptions.build(**options)
    jobs = [_job(key, item, root, options) for key, item in enumerate(items)]
    places: dict[str, int] = {}
    for job in jobs:
        here = os.path.normpath(job.out)
        if places.setdefault(here, job.key) != job.key:
            raise OptionError(f"two of the objects would be written to {here!r}: give one of them a name")
    for folder in {job.out.root for job in jobs if isinstance(job.out, Below)} - {""}:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise storage_error(f"create the directory {folder}", error) from error
    return jobs


def _job(key: int, item: Item, root: str, options: Mapping[str, Any]) -> Job:
    if isinstance(item, Entry):
        merged = merged_options(options, item.options)
        try:
            checked = TransferOptions.build(**{**merged, "mirrors": item.urls[1:]})
            for each in item.urls:
                open_source(each, checked)
        except OptionError as error:
            raise at(item.where, error) from error
        out = Below(item.directory or root, item.name)
        return Job(key, item.urls[0], out, merged, item.size, item.size, item.where, mirrors=item.urls[1:])
    name: Path | None = None
    mirrors: tuple[str, ...] = ()
    if isinstance(item, str):
        url = item
    elif len(item) == 2:
        url, name = item
    else:
        url, name, mirrors = item
    checked = TransferOptions.build(**{**options, "mirrors": mirrors})
    source = open_source(url, checked)
    for mirror in mirrors:
        open_mirror(source, mirror)
    return Job(key, url, _place(source, name, root), options, mirrors=tuple(mirrors))


def _place(source: RemoteSource, out: Path | None, root: str) -> str:
    """Returns the path that `fetch` would write to, were it called in `root`."""
    path = os.path.join(root, os.fspath(out) if out is not None else "")
    check_text(path)
    if not path or path.endswith(os.sep) or os.path.isdir(path):
        path = os.path.join(path, name_of_url(source.url))
    check_length(os.path.basename(path))
    return path


class ListWork:
    """A Work over a list of jobs."""

    def __init__(self, jobs: Iterable[Job], *, ask_sizes: bool) -> None:
        self._jobs = deque(jobs)
        # A size that must be so is asked for in any case, before a byte of another object comes.
        self._unsized = [job for job in self._jobs if ask_sizes or job.expected is not None]
        self._sizes = {job.key: job.size for job in self._jobs}
        self._waiting = Tally()
        for job in self._jobs:
            self._waiting += _of_size(job.size)

    def unsized(self) -> list[Job]:
        """See Work."""
        asked, self._unsized = self._unsized, []
        return asked

    def sized(self, job: Job, size: int) -> None:
        """See Work. All sizes come before the first claim, or not at all."""
        self._waiting += _of_size(size) - _of_size(self._sizes[job.key])
        self._sizes[job.key] = size

    def claim(self) -> Job | None:
        """See Work."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        size = self._sizes[job.key]
        self._waiting -= _of_size(size)
        return replace(job, size=size)

    def look(self, running: Mapping[int, Progress]) -> Mapping[int, str]:
        """See Work: nobody else has a say."""
        return {}

    def ended(self, outcome: Outcome) -> None:
        """See Work: the batch keeps the outcomes. What was stopped waits again."""
        if outcome.state == "queued":
            self._jobs.appendleft(outcome.job)
            self._waiting += _of_size(self._sizes[outcome.job.key])

    def waiting(self) -> Tally:
        """See Work."""
        return self._waiting


def _of_size(size: int | None) -> Tally:
    return Tally(1, size or 0, int(size is None))

"""`verify` of a folder that a set was mirrored to: opens its ledger, has the files proven, and writes what
the ledger says of them for others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fastxfer.dataset.exports import manifest_lines, sha256sums_lines
from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.proving import checked_jobs, prove
from fastxfer.errors import OptionError
from fastxfer.progress.snapshot import Progress
from fastxfer.verify_results import SetVerifyResult

Lines = Callable[[Iterator[str]], object]
EXPORTS = {"manifest": manifest_lines, "sha256sums": sha256sums_lines}


class SetVerification:
    """A `verify` of a set: `run` does it, once. `cancel`, `progress` and `done` are for any thread.

    `exports` are what takes the lines of each kind of EXPORTS that is wanted, once all files were looked at.
    Raises OptionError.
    """

    def __init__(
        self,
        dest: str | os.PathLike[str],
        *,
        jobs: int | None = None,
        mark: bool = False,
        exports: Mapping[str, Lines] | None = None,
    ) -> None:
        if not isinstance(mark, bool):
            raise OptionError("option mark: must be true or false")
        self._dest = os.fspath(dest)
        self._jobs = checked_jobs(jobs)
        self._mark = mark
        self._exports = exports or {}
        self._stop = threading.Event()
        self._over = threading.Event()
        self.source = ""
        """What was mirrored there last; it may be shown."""
        self.progress = Progress(url=Path(os.path.abspath(dest)).as_uri(), state="running")

    @property
    def done(self) -> bool:
        """True when it is over."""
        return self._over.is_set()

    def cancel(self) -> None:
        """Ends it; `run` returns what was seen."""
        self._stop.set()

    def run(self) -> SetVerifyResult:
        """Proves the files, and exports. Raises LedgerError, TargetBusyError, StorageError."""
        try:
            with Ledger.existing(self._dest) as ledger:
                self.source = ledger.source
                result = prove(
                    ledger,
                    self._dest,
                    jobs=self._jobs,
                    mark=self._mark,
                    sha256="sha256sums" in self._exports,
                    progress=self._told,
                    stopped=self._stop.is_set,
                )
                if not result.interrupted:
                    for name, take in self._exports.items():
                        take(EXPORTS[name](ledger))
            state = "cancelled" if result.interrupted else "done"
            self.progress = replace(self.progress, eta=None, state=state)
            return result
        finally:
            self._over.set()

    def _told(self, progress: Progress) -> None:
        self.progress = replace(progress, url=self.progress.url)

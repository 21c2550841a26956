"""Is a file still what was fetched? Holds a finished file, or a part file, against what is known of it.

Reading is examining.py's, repairing repairing.py's; here is what the findings mean, and the order of it all.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastxfer.errors import InterruptedTransferError
from fastxfer.examining import Exhibit, Findings, examine, open_exhibit
from fastxfer.options import TransferOptions
from fastxfer.progress.snapshot import Progress
from fastxfer.repairing import Repair
from fastxfer.storage.reading import Reading
from fastxfer.storage.reopening import tidy
from fastxfer.verify_results import VerifyResult

# What a fetch takes and a verification has no use for, or decides itself.
OF_A_FETCH = frozenset({"checksum", "chunk_size", "resume", "unpause", "exists", "on_change", "keep_ledger"})
WHAT_TO_DO = (
    "there is nothing to hold it against: give a checksum, or fetch it with keep_ledger=True (--keep-ledger)"
)
NO_CHECKPOINT = "no checkpoint tells what it has: run the fetch again"


class Verification:
    """One call of `verify`: `run` does it, once. `progress` and `done` are for any thread."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        checksum: Any = None,
        repair: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Raises OptionError for an option or URL that cannot be used, TypeError for one that is none."""
        for name in OF_A_FETCH & (options or {}).keys():
            raise TypeError(f"verify takes no option {name!r}")
        self._options = TransferOptions.build(checksum=checksum, **(options or {}))
        self._path = path
        self._repair = Repair(repair, self._options) if repair is not None else None
        self._over = threading.Event()
        self._cancelled = False
        self._reading: Reading | None = None
        self._began_at = time.monotonic()
        self._progress = Progress(url=Path(os.path.abspath(os.fsdecode(path))).as_uri())

    @property
    def done(self) -> bool:
        """True when it is over."""
        return self._over.is_set()

    @property
    def progress(self) -> Progress:
        """How it stands: bytes read, then, while it is repaired, the transfer's own progress."""
        fetching = self._repair.progress if self._repair is not None else None
        if fetching is not None:
            return fetching
        reading, now = self._reading, self._progress
        if reading is None:
            return now
        elapsed = time.monotonic() - self._began_at
        rate = reading.done / elapsed if elapsed > 0 else 0.0
        left = reading.to_read - reading.done
        state = "done" if self.done else "running"
        return replace(
            now,
            size=reading.to_read,
            done=min(reading.done, reading.to_read),
            rate=rate,
            eta=max(0, left) / rate if rate else None,
            state=state,
        )

    def cancel(self) -> None:
        """Ends it, from any thread: `run` raises InterruptedTransferError. A repair can be gone on with."""
        self._cancelled = True
        if self._reading is not None:
            self._reading.stop()
        if self._repair is not None:
            self._repair.cancel()

    def run(self) -> VerifyResult:
        """Verifies, repairs if asked and needed, and returns what there is then. Raises as `verify` says."""
        try:
            with open_exhibit(self._path, to_repair=self._repair is not None) as exhibit:
                wanted = [name for name, _ in self._options.checksum]
                findings = examine(exhibit, wanted, self._began)
                if self._cancelled:
                    raise InterruptedTransferError("the verification was stopped")
                result = self._judge(exhibit, findings)
                whole = result.ok and not exhibit.part
                if self._repair is not None and whole:
                    tidy(exhibit.target, exhibit.fd)
                if self._repair is None or whole or result.verified == "none":
                    return self._timed(result)
                mend = self._repair.prepare(exhibit, findings, result)
            return self._timed(mend())
        finally:
            self._over.set()

    def _began(self, reading: Reading) -> None:
        self._reading = reading
        if self._cancelled:
            reading.stop()

    def _timed(self, result: VerifyResult) -> VerifyResult:
        return replace(result, elapsed=time.monotonic() - self._began_at)

    # ---- judging ----

    def _judge(self, exhibit: Exhibit, findings: Findings) -> VerifyResult:
        """Returns what the findings mean. A checksum that was given counts more than a ledger: where it holds
        the file is right; where it does not, and the ledger does, nothing tells what is wrong.
        """
        digests, wanted = findings.digests, dict(self._options.checksum)
        checked = bool(wanted) and not (exhibit.part and (findings.missing or exhibit.known is None))
        wrong = {name: hexed for name, hexed in wanted.items() if checked and digests.get(name) != hexed}
        bad, notes = findings.bad, list(findings.notes)
        if checked and not wrong and bad:
            notes = [f"{exhibit.target.ledger} is not of this file, whose checksum holds: remove it"]
            bad = []
        elif wrong and not bad:
            bad = [(0, max(exhibit.size, exhibit.seen.st_size))]
            notes += [f"its {name} is {digests.get(name, 'not known')}, not {wrong[name]}" for name in wrong]
            if exhibit.known is not None:
                notes.append("its ledger holds: it is what was fetched, and not what the checksum is of")
        elif bad and exhibit.known is not None and not findings.good.done and findings.claimed.count > 1:
            notes.append(f"no chunk holds: it is another file than the one that {_of_what(exhibit)} is of")
        if exhibit.part and exhibit.known is not None and findings.missing:
            notes.append(f"{exhibit.target.final} is not there yet: fetch goes on from what holds")
        verified = "checksum" if checked else "ledger" if exhibit.known is not None else "none"
        if verified == "none":
            notes.append(NO_CHECKPOINT if exhibit.part else WHAT_TO_DO)
        return VerifyResult(
            path=str(exhibit.path),
            size=exhibit.size,
            ok=verified != "none" and not bad,
            verified=verified,
            bad=bad,
            missing=findings.missing,
            chunks=findings.claimed.done,
            checksums=digests,
            notes=tuple(notes),
        )


def _of_what(exhibit: Exhibit) -> str:
    return exhibit.target.checkpoint_name if exhibit.part else exhibit.target.ledger_name

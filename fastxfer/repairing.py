"""Repairs what a verification found: fetches the bad ranges, over the ordinary engine with all its checks.

A finished file becomes a part file again (storage/reopening.py), with a checkpoint that claims its good
chunks, and an ordinary download goes on from there: it fetches what is missing, checks the whole and gives
the file its name. So a repair that fails or is killed is an interrupted transfer, and either command goes on.

Before anything is touched the server is asked whether it has the very object (size, ETag, Last-Modified). At
the end the whole must have the CRC-64 that the ledger kept: the checkpoint carries it, whoever goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastxfer import probing
from fastxfer._native.bitmap import ChunkLedger
from fastxfer.download import Download
from fastxfer.errors import CannotResumeError, RemoteChangedError
from fastxfer.examining import Exhibit, Findings
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span, add, subtract
from fastxfer.plan.response import Identity, difference
from fastxfer.progress.snapshot import Progress
from fastxfer.results import FetchResult
from fastxfer.safekeeping import provable
from fastxfer.sources.opening import open_source
from fastxfer.storage import reopening
from fastxfer.storage.checkpoint import Checkpoint
from fastxfer.storage.part_file import Source
from fastxfer.storage.paths import Target
from fastxfer.verify_results import VerifyResult

Mend = Callable[[], VerifyResult]


class Repair:
    """A repair from `url`. Raises OptionError for a URL that cannot be one."""

    def __init__(self, url: str, options: TransferOptions) -> None:
        self._url = url
        self._options = options
        self._source = open_source(url, options)
        self._download: Download | None = None
        self._cancelled = False

    @property
    def progress(self) -> Progress | None:
        """How the transfer stands, None before there is one."""
        return self._download.progress if self._download is not None else None

    def cancel(self) -> None:
        """Ends the transfer, resumable; there is none any more. Any thread."""
        self._cancelled = True
        if self._download is not None:
            self._download.cancel()

    def prepare(self, exhibit: Exhibit, findings: Findings, result: VerifyResult) -> Mend:
        """Returns what does the repair, once the exhibit is closed. A part file has its false claims taken
        back now, while it is locked.
        """
        known, target = exhibit.known, exhibit.target
        if exhibit.part:
            assert known is not None
            self._must_be_provable(known, target)
            if findings.bad:
                reopening.withdraw(target, findings.good, findings.partials)
            return lambda: self._finish(target, result)
        if known is None or not findings.bad:
            why = "there is no ledger" if known is None else "its ledger holds"
            note = f"{why}, so nothing tells which bytes are wrong: the whole was fetched"
            return lambda: self._whole(target, result, None, note)
        return lambda: self._by_range(target, exhibit, known, findings.good, result)

    def _must_be_provable(self, known: Checkpoint, target: Target) -> None:
        source = Source.of(self._source.url, self._source.display)
        if not provable(known, source, self._options):
            raise CannotResumeError(
                f"nothing tells that the URL has the object of which {target.part} is a part: "
                "the server gave nothing to know it by, or it is another URL; give a checksum"
            )

    # ---- the three ways ----

    def _by_range(
        self,
        target: Target,
        exhibit: Exhibit,
        known: Checkpoint,
        good: ChunkLedger,
        result: VerifyResult,
    ) -> VerifyResult:
        if not self._has(known.identity):
            note = "the server does not send ranges: the whole was fetched"
            return self._whole(target, result, known.crc64, note)
        if not good.done:
            return self._whole(target, result, known.crc64, "no chunk held: the whole was fetched")
        left = replace(known, claimed=good.bits(), durable=good.bits(), crcs=good.crcs())
        reopening.reopen(target, left, exhibit.seen)
        options = replace(self._options, on_change="fail", keep_ledger=True)
        try:
            fetched = self._fetch(target, options)
        except BaseException:
            now = self.progress
            if now is None or now.done <= good.done_bytes:
                reopening.take_back(target, exhibit.seen.st_size)
            raise
        return _mended(result, fetched, result.bad)

    def _has(self, known: Identity) -> bool:
        """Returns whether the server sends ranges of the object. Raises RemoteChangedError if it has another
        one.
        """
        remote = probing.probe(self._source, replace(self._options, connections=1))
        told = Identity(remote.size, remote.etag, remote.last_modified)
        reason = difference(known, told, ignore_etag=self._options.ignore_etag)
        if reason is not None:
            raise RemoteChangedError(
                f"{self._source.display} is not the object that the ledger is of: {reason}; "
                "nothing was touched"
            )
        return remote.accepts_ranges

    def _finish(self, target: Target, result: VerifyResult) -> VerifyResult:
        options = replace(self._options, on_change="fail", exists="replace")
        mended = result.bad
        for span in result.missing:
            mended = add(subtract(mended, span), span)
        return replace(_mended(result, self._fetch(target, options), mended), missing=[])

    def _whole(self, target: Target, result: VerifyResult, crc64: int | None, note: str) -> VerifyResult:
        """The file stays where it is until the new one takes its place."""
        checksum = self._options.checksum
        if crc64 is not None and "crc64nvme" not in dict(checksum):
            checksum = (*checksum, ("crc64nvme", f"{crc64:016x}"))
        options = replace(self._options, checksum=checksum, exists="replace")
        fetched = self._fetch(target, options)
        return _mended(replace(result, notes=(*result.notes, note)), fetched, result.bad)

    def _fetch(self, target: Target, options: TransferOptions) -> FetchResult:
        self._download = download = Download(self._url, target.final, replace(options, unpause=True))
        download.begin()
        try:
            if self._cancelled:
                download.cancel()
            download.over.wait()
        except BaseException:
            download.cancel()
            download.over.wait()
            raise
        if download.error is not None:
            raise download.error
        assert download.result is not None
        return download.result


def _mended(result: VerifyResult, fetched: FetchResult, mended: list[Span]) -> VerifyResult:
    """Returns the result of a verification whose ranges have been fetched; the download held the whole
    against the ledger's CRC-64 and the caller's checksums.
    """
    return replace(
        result,
        path=fetched.path,
        size=fetched.size,
        ok=True,
        bad=[],
        mended=mended,
        checksums=fetched.checksums,
        repaired=fetched.transferred,
        notes=(*result.notes, *fetched.notes),
    )

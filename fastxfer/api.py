"""The public calls: wiring, and nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec

from fastxfer.download import TO_GO_ON, Download
from fastxfer.errors import OptionError, PausedError, TransferTimeoutError
from fastxfer.names import is_metalink
from fastxfer.options import GivenCredentials, Refresh, TransferOptions
from fastxfer.progress.snapshot import Progress
from fastxfer.results import FetchResult
from fastxfer.units import format_size

if TYPE_CHECKING:
    from fastxfer.dataset.verifying import SetVerification
    from fastxfer.probe_result import RemoteObject
    from fastxfer.verification import Verification
    from fastxfer.verify_results import VerifyResult

Path = str | os.PathLike[str]
Headers = Mapping[str, str] | Iterable[str | tuple[str, str]]
OF_A_SET = "a set is proven by its ledger, and mended by mirroring again"
_P = ParamSpec("_P")
ProgressOption = bool | Callable[[Progress], object] | None


class Transfer:
    """A transfer that runs in the background. All methods may be called from any thread.

    As a context manager it is cancelled, resumable, when its block is left before its end.
    """

    def __init__(self, download: Download, progress: ProgressOption) -> None:
        self._download = download
        self._reporter: threading.Thread | None = None
        download.begin()
        if progress:
            from fastxfer.progress.reporter import report

            self._reporter = report(self, progress)

    @property
    def state(self) -> str:
        """queued, running, waiting (for a retry or the network), paused, done, failed or cancelled."""
        return self._download.progress.state

    @property
    def progress(self) -> Progress:
        """How it stands, a tenth of a second old at the most."""
        return self._download.progress

    @property
    def done(self) -> bool:
        """True when it is over: done, failed or cancelled."""
        return self._download.over.is_set()

    def pause(self) -> None:
        """Stops the traffic and keeps all progress. It stays paused, in a new process too, until somebody
        says otherwise: `resume`, or `unpause=True` of a later call.
        """
        self._download.pause()

    def resume(self) -> None:
        """Goes on after a pause."""
        self._download.resume()

    def cancel(self, keep: bool = True) -> None:
        """Ends the transfer. The part file and checkpoint stay, to go on from; with `keep` False they are
        removed.
        """
        self._download.cancel(keep)

    def wait(self, timeout: float | None = None) -> FetchResult:
        """Returns the result, once there is one.

        Raises the transfer's error (a FastxferError), and TransferTimeoutError when `timeout` seconds pass
        before its end; it then goes on. Raises PausedError at once for a target that its user paused in an
        earlier run; the transfer waits for `resume`.
        """
        if not self._download.halted.wait(timeout):
            raise TransferTimeoutError(f"the transfer is not over after {timeout:g} s; it goes on")
        if not self.done:
            now = self.progress
            what = (
                f"{format_size(now.done)} of {format_size(now.size)}" if now.size else format_size(now.done)
            )
            part = self._download.target.part
            raise PausedError(f"{part} was paused by its user; {TO_GO_ON}", kept=f"{what} in {part}")
        self._join()
        if self._download.error is not None:
            raise self._download.error
        assert self._download.result is not None
        return self._download.result

    def _join(self) -> None:
        self._download.over.wait()
        if self._reporter is not None and self._reporter is not threading.current_thread():
            self._reporter.join()

    def _stop(self) -> None:
        """Ends it, resumable, and waits for its end."""
        self.cancel()
        self._join()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self.done:
            self._stop()

    def __repr__(self) -> str:
        now = self.progress
        return f"<Transfer {now.url} {now.state} {now.done}/{now.size}>"


def start(
    url: str,
    out: Path | None = None,
    connections: int = 16,
    *,
    mirrors: Iterable[str] = (),
    connections_per_host: int | None = None,
    refresh: Refresh | None = None,
    checksum: str | Mapping[str, str] | None = None,
    chunk_size: int | str | None = None,
    resume: bool | str = True,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    unpause: bool = False,
    exists: str = "update",
    headers: Headers | None = None,
    secret_headers: str | Iterable[str] = (),
    allow_http_redirects: bool = False,
    allow_private_redirects: bool = False,
    auth: tuple[str, str] | str | None = None,
    netrc: bool = False,
    endpoint: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    credentials: GivenCredentials | str | Mapping[str, Any] | None = None,
    anonymous: bool = False,
    addressing: str = "auto",
    proxy: str | None = None,
    ca_bundle: str | None = None,
    client_cert: str | tuple[str, str] | None = None,
    verify_tls: bool = True,
    http_version: str | None = None,
    connect_timeout: float = 10,
    stall_timeout: float = 30,
    retries: int = 5,
    wait_for_network: float = 0,
    max_rate: int | str | None = None,
    max_rate_per_host: int | str | None = None,
    max_rate_total: int | str | None = None,
    on_change: str = "restart",
    ignore_etag: bool = False,
    durability: str = "periodic",
    keep_ledger: bool = False,
    sink: str = "auto",
    progress: ProgressOption = None,
) -> Transfer:
    """Starts fetching an object in the background and returns its Transfer; the options are those of `fetch`.

    Raises OptionError for an option or URL that cannot be used, and StorageError when the target's directory
    is missing.
    """
    given = {name: value for name, value in locals().items() if name not in ("url", "out", "progress")}
    if is_metalink(url) and not is_metalink(os.fspath(out or "")):
        from fastxfer import metalinks

        found = metalinks.read(url, out, given)
        return Transfer(Download(found.source, found.out, found.options, found.description), progress)
    return Transfer(Download(url, out, TransferOptions.build(**given)), progress)


def _to_the_end(begin: Callable[_P, Transfer]) -> Callable[_P, FetchResult]:
    """Returns `fetch`: `start` and `wait`, with the signature of `start` for people, editors and type
    checkers.
    """

    def fetch(*args: _P.args, **kwargs: _P.kwargs) -> FetchResult:
        """Fetches the object at `url` into the file `out` over many connections and returns a FetchResult.

        Nothing stands under the name `out` before it is complete: the bytes gather in `out.part`, with a
        checkpoint beside it, and any later call goes on from there, after an error, Ctrl-C, a kill or a power
        cut. A target that is the object already is not fetched again.

        Args:
            url: http:// or https://, or a Metalink of one object: a URL or a local file whose name ends with
                .meta4 or .metalink, which is read first; it gives the mirrors, the size, the digest and those
                of pieces, by which only pieces that are wrong are fetched again (where `out` ends so too, the
                Metalink itself is fetched). User info in it is used for HTTP Basic and never shown.
            out: a file, a directory, or None for the URL's file name in the current directory.
            connections: requests at once, 1 to 1024.
            mirrors: other URLs of the same object. Each is held against the first that answers, before a byte
                of it is written: one that has another object is not used, and named in the result's notes.
                Credentials and header fields go to the first URL's origin only.
            connections_per_host: requests at once to one host (scheme, host and port), of all transfers of
                this user; by default 32, or `connections` of one transfer where that is more. Who shares a
                host shares what it taught: after 429 or 503 fewer are asked at once, by all.
            refresh: called without arguments, on a thread of its own, when the server refuses the URL (401,
                403), and 30 s before the expiry that a presigned one states; returns a new URL of the same
                object, with which all requests go on. A string is a shell command that prints it.
            checksum: what the object must have, "sha256:HEX" or a mapping; md5, sha1, sha256, sha512, blake3,
                crc32c, crc64nvme, crc64xz.
            chunk_size: unit of the progress map, 1 byte to 5 GiB, an int or "8M"; by default 256 KiB to
                4 MiB, by size.
            resume: go on from a part file; False starts over; "force" goes on also where nothing but the size
                tells that it is of this object.
            checkpoint_dir: where the checkpoint is kept until the end, by default beside the part file. Who
                goes on names the same one.
            unpause: go on with a target that its user paused in an earlier run, which otherwise stays paused.
            exists: "update" fetches only if the target differs from the object, "skip", "replace", or
                "error".
            headers: more header fields, a mapping or "Name: value" strings.
            secret_headers: names, or beginnings of names, of those that a redirect may not carry to another
                origin, beside Authorization, Cookie, X-Amz-*, X-OSS-*, X-Api-Key and X-Auth-*.
            allow_http_redirects, allow_private_redirects: follow redirects from https to http, and from the
                public internet to loopback, link-local and private addresses.
            auth: (user, password) for HTTP Basic. netrc: take them from ~/.netrc.
            endpoint, region: where the object store of s3:// and oss:// URLs is, and its region.
            profile: of the store's configuration files. credentials: of the store, "AK:SK", "AK:SK:TOKEN", a
                mapping, or a callable that returns one and is asked again before they expire. Without either
                the usual environment variables, and then the chain of the store's library
                (docs/stores.md). anonymous: ask without any.
            addressing: where the bucket's name goes: "auto", "path", "virtual", or "cname" (OSS).
            proxy: a proxy's URL; by default the usual environment variables.
            ca_bundle, client_cert, verify_tls: files in PEM form, and whether the server's certificate is
                checked.
            http_version: "1.1" (default), "2" or "3".
            connect_timeout, stall_timeout: seconds.
            retries: failures in a row without progress before it gives up; wait_for_network: seconds to wait
                beyond them.
            max_rate: bytes a second at the most; max_rate_per_host, max_rate_total: of all transfers of this
                process from one host, and of all. The lowest that a running transfer was given holds.
            on_change: "restart" or "fail" when the remote object is not the one whose bytes are here.
            ignore_etag: do not compare ETags.
            durability: "periodic" (synced every 5 s), "chunk", or "none".
            keep_ledger: keep the CRC-64/NVME of each chunk beside the finished file, as `out.fxsum`, by which
                `verify` finds what is damaged later. A ledger that is there already is always kept up.
            sink: "auto" (which is "pwrite"), "mmap", or "direct" (past the page cache: less CPU time, and on
                the disk at once; for quick disks, and files that are not read soon).
            progress: True for a bar, or a callable that takes a Progress about five times a second, on
                a thread of its own.

        Raises:
            FastxferError: one of its kinds (fastxfer.errors); `kept` says what is left to go on from.
            PausedError: the target was paused by its user; nothing was fetched.
            KeyboardInterrupt: after the progress was saved.
        """
        transfer = begin(*args, **kwargs)
        try:
            return transfer.wait()
        except (KeyboardInterrupt, PausedError):
            transfer._stop()
            raise

    fetch.__qualname__ = "fetch"
    fetch.__wrapped__ = begin  # type: ignore[attr-defined]
    return fetch


fetch = _to_the_end(start)


def probe(url: str, **options: Any) -> RemoteObject:
    """Returns what the server tells of an object: size, ETag, Last-Modified, whether ranges work, the final
    URL without secrets.

    Asks with a ranged GET of one byte, not with HEAD. Takes the network options of `fetch`. Raises
    OptionError, NotFoundError, AuthError, other HTTPStatusErrors, NetworkError, DNSError, TLSError and
    TransferTimeoutError.
    """
    from fastxfer import probing
    from fastxfer.sources.opening import open_source

    checked = replace(TransferOptions.build(**options), connections=1)
    return probing.probe(open_source(url, checked), checked)


def verify(
    path: Path,
    checksum: str | Mapping[str, str] | None = None,
    *,
    repair: str | None = None,
    jobs: int | None = None,
    mark: bool = False,
    progress: ProgressOption = None,
    **options: Any,
) -> VerifyResult | Any:
    """Returns whether a file still is what was fetched, and which ranges are not (VerifyResult); of a folder
    that a set was mirrored to, which files are not (SetVerifyResult). Damage is a result, not an error.

    A finished file is held against `checksum` (as `fetch` takes it), and against the ledger that
    `keep_ledger` left beside it; a part file against its checkpoint, without changing it. With neither,
    `verified` is "none" and `ok` False. Each file of a set is held against the set's ledger.

    Args:
        path: a file, or its part file; a target that is not finished means its part file. Or a folder.
        checksum: what the whole file must have. Where it holds the file is right, whatever the ledger says.
        repair: a URL of the same object: the ranges that are bad are fetched from there, and a part file is
            finished. Without a ledger nothing tells which they are, and the whole is fetched. When the URL
            has another object nothing is touched. A repair that ends early leaves a part file: the same
            call, or `fetch`, goes on.
        jobs: files of a set that are read at a time, by default one a core.
        mark: has a set's ledger remember what is damaged or missing, so that mirroring fetches it again.
        progress: as `fetch` takes it.
        options: those of `fetch` that are about the network, the pace and the disk.

    Raises:
        StorageError: there is no such file, or it cannot be read. CheckpointError: what should be its ledger
            or checkpoint is none. TargetBusyError: it is being written, or mirrored to. OptionError.
        LedgerError: a set's ledger that cannot be used.
        RemoteChangedError, and other errors of a fetch, of a repair.
    """
    verification = make_verification(path, checksum, repair=repair, jobs=jobs, mark=mark, **options)
    return run_verification(verification, progress)


def make_verification(
    path: Path,
    checksum: str | Mapping[str, str] | None = None,
    *,
    repair: str | None = None,
    jobs: int | None = None,
    mark: bool = False,
    **options: Any,
) -> Verification | SetVerification:
    """Returns what verifies, with the options of `verify`. Raises OptionError and TypeError."""
    if os.path.isdir(path):
        from fastxfer.dataset.verifying import SetVerification

        if checksum is not None or repair is not None or options:
            raise OptionError(f"{OF_A_SET}: it takes jobs, mark and progress")
        return SetVerification(path, jobs=jobs, mark=mark)
    from fastxfer.verification import Verification

    if jobs is not None or mark:
        raise OptionError("jobs and mark are of a set, which is a folder that was mirrored to")
    return Verification(path, checksum, repair, options)


def run_verification(verification: Verification | SetVerification, progress: ProgressOption) -> Any:
    """Returns the result of a verification that is run now, and told of meanwhile."""
    reporter: threading.Thread | None = None
    if progress:
        from fastxfer.progress.reporter import report

        reporter = report(verification, progress)
    try:
        return verification.run()
    finally:
        if reporter is not None:
            reporter.join()

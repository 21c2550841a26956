"""The one tree of errors: what went wrong, whether trying again can help, and what was kept to go on from.

Every error that leaves fastxfer is a `FastxferError`. Foreign errors (pycurl's, the operating system's) are
translated once, at the border where they appear, and stay reachable as `__cause__`. Each class answers two
questions without string matching: `retry` (does the same source, another mirror or nothing help?) and
`exit_code` (what the command line returns; the numbers follow aria2's where aria2 has one).
"""

from __future__ import annotations

import enum
import errno
from typing import Any, ClassVar

__all__ = [
    "AuthError",
    "BadResponseError",
    "CannotResumeError",
    "CheckpointError",
    "ChecksumError",
    "CredentialsError",
    "DNSError",
    "DiskFullError",
    "FastxferError",
    "HTTPStatusError",
    "InterruptedTransferError",
    "LedgerError",
    "LocalChangedError",
    "LockedError",
    "NetworkError",
    "NotFoundError",
    "OptionError",
    "OverloadedError",
    "PausedError",
    "QueueError",
    "RangeError",
    "RemoteChangedError",
    "Retry",
    "ServerError",
    "StorageError",
    "StoreAuthError",
    "StoreError",
    "StoreNotFoundError",
    "StoreOverloadedError",
    "StoreServerError",
    "TLSError",
    "TargetBusyError",
    "TargetExistsError",
    "TooLargeError",
    "TooSlowError",
    "TransferTimeoutError",
    "UploadGoneError",
]


class Retry(enum.Enum):
    """What trying again can do about an error."""

    NEVER = "never"
    SAME_SOURCE = "same source"
    OTHER_MIRROR = "other mirror"


class FastxferError(Exception):
    """Base of all errors of fastxfer.

    Attributes:
        retry: what trying again can do, a `Retry`.
        exit_code: the exit status of the command line, 1 to 33.
        kept: what is left to resume from, in words ("512 MiB of 1 GiB in data.bin.part"), or None for
            nothing.
    """

    retry: ClassVar[Retry] = Retry.NEVER
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, kept: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kept = kept

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.message, self.__dict__)

    def to_dict(self) -> dict[str, Any]:
        """Returns the error as plain JSON values: type, message, exit_code, retry, kept, and the class's own
        fields.
        """
        own = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in ("message", "kept")}
        return {
            "type": type(self).__name__,
            "message": self.message,
            "exit_code": self.exit_code,
            "retry": self.retry.value,
            "kept": self.kept,
            **own,
        }


class OptionError(FastxferError, ValueError):
    """An option, URL or argument that cannot be used; nothing was started."""

    exit_code = 28


class TransferTimeoutError(FastxferError, TimeoutError):
    """A connection that was not made, or an answer that stalled, within its time."""

    retry = Retry.SAME_SOURCE
    exit_code = 2


class TooSlowError(TransferTimeoutError):
    """Answers that bring bytes, but never more than a trickle of them."""

    exit_code = 5


class NetworkError(FastxferError):
    """The connection was refused, reset, cut or unreachable."""

    retry = Retry.SAME_SOURCE
    exit_code = 6


class TLSError(FastxferError):
    """The server's certificate or the TLS handshake does not hold (RFC 8446); never answered by a
    fallback.
    """

    retry = Retry.OTHER_MIRROR
    exit_code = 6


class DNSError(FastxferError):
    """The host's name has no address."""

    retry = Retry.SAME_SOURCE
    exit_code = 19


class InterruptedTransferError(FastxferError):
    """The transfer was stopped by its user (cancel, Ctrl-C, end of the interpreter); it can be resumed."""

    exit_code = 7


class PausedError(InterruptedTransferError):
    """The target was paused by its user in an earlier run, and nobody has said that it may go on."""


class CannotResumeError(FastxferError):
    """There is progress on disk that cannot be proven to belong to the remote object as it is now."""

    exit_code = 8


class HTTPStatusError(FastxferError):
    """The server answered with a status that is not the object (RFC 9110 section 15). `status` is the
    number.
    """

    retry = Retry.OTHER_MIRROR
    exit_code = 22

    def __init__(self, message: str, *, status: int, kept: str | None = None) -> None:
        super().__init__(message, kept=kept)
        self.status = status


class NotFoundError(HTTPStatusError):
    """404 or 410: the object is not there."""

    exit_code = 3


class AuthError(HTTPStatusError):
    """401, 403 or 407: the credentials are missing, wrong or expired."""

    exit_code = 24


class OverloadedError(HTTPStatusError):
    """429 or 503: the server asks to be left alone for a while. `retry_after_s` is its wish, or None."""

    retry = Retry.SAME_SOURCE
    exit_code = 29

    def __init__(
        self, message: str, *, status: int, retry_after_s: float | None = None, kept: str | None = None
    ) -> None:
        super().__init__(message, status=status, kept=kept)
        self.retry_after_s = retry_after_s


class ServerError(HTTPStatusError):
    """Another 5xx, or 408 and 425: the server failed this time."""

    retry = Retry.SAME_SOURCE


class LockedError(HTTPStatusError):
    """423: something else is at work on it just now, as the request before this one may be that was cut."""

    retry = Retry.SAME_SOURCE


class TooLargeError(HTTPStatusError):
    """413, or what the server said before: it takes nothing of this size."""

    retry = Retry.NEVER


class CredentialsError(FastxferError):
    """No credentials for an object store could be had, or what there is is not whole; nothing was asked."""

    exit_code = 24


class StoreError(HTTPStatusError):
    """An object store refused, and said why in an error document, or by its status alone.

    `code` is the store's own name for the cause ("NoSuchKey"), "" where it told none; `request_id`,
    `host_id` (S3) and `ec` (OSS) are what its operator asks for, "" where they were not told. The subclasses
    are also what the same cause is without a store: `except NotFoundError` finds a missing key.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "",
        request_id: str = "",
        host_id: str = "",
        ec: str = "",
        kept: str | None = None,
    ) -> None:
        super().__init__(message, status=status, kept=kept)
        self.code = code
        self.request_id = request_id
        self.host_id = host_id
        self.ec = ec


class StoreNotFoundError(StoreError, NotFoundError):
    """The bucket, the key or the version of it is not there."""


class StoreAuthError(StoreError, AuthError):
    """The store does not take the credentials, or they may not do this, or the clocks differ."""


class StoreOverloadedError(StoreError, OverloadedError):
    """The store asks to be asked less (SlowDown, 503). `retry_after_s` is its wish, or None."""

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None, **told: Any) -> None:
        StoreError.__init__(self, message, status=status, **told)
        self.retry_after_s = retry_after_s


class StoreServerError(StoreError, ServerError):
    """The store failed this time: InternalError, or bytes that did not arrive as they were sent."""


class UploadGoneError(StoreError, CannotResumeError):
    """The multipart upload is not there any more (NoSuchUpload): it was completed, or aborted, or it
    expired.
    """

    retry = Retry.NEVER
    exit_code = 8


class BadResponseError(FastxferError):
    """An answer that breaks HTTP or cannot be the object (headers, framing, content coding, redirects)."""

    retry = Retry.SAME_SOURCE
    exit_code = 22


class RangeError(BadResponseError):
    """An answer to a ranged request that is not the range asked for (RFC 9110 section 14)."""


class RemoteChangedError(FastxferError):
    """The remote object is not the one whose bytes are on disk (other size, ETag or Last-Modified)."""

    exit_code = 33


class ChecksumError(FastxferError):
    """The bytes do not have the checksum they should. `algorithm`, `expected` and `actual` (hex) say
    which.
    """

    retry = Retry.OTHER_MIRROR
    exit_code = 32

    def __init__(
        self, message: str, *, algorithm: str, expected: str, actual: str, kept: str | None = None
    ) -> None:
        super().__init__(message, kept=kept)
        self.algorithm = algorithm
        self.expected = expected
        self.actual = actual


class TargetExistsError(FastxferError, FileExistsError):
    """The target is there already and `exists="error"` was asked for."""

    exit_code = 13

    def __str__(self) -> str:
        return self.message


class TargetBusyError(FastxferError):
    """Another process, or another transfer of this one, is writing this target."""


class StorageError(FastxferError):
    """The local file system refused (I/O error, no permission, missing directory, read-only). `errno` is its
    number.
    """

    exit_code = 17

    def __init__(self, message: str, *, errno: int | None = None, kept: str | None = None) -> None:
        super().__init__(message, kept=kept)
        self.errno = errno


class LocalChangedError(StorageError):
    """The local file was changed, or cut, while it was uploaded."""


class DiskFullError(StorageError):
    """No space, or no quota, is left for the target. What is there stays; goes on when there is space."""

    exit_code = 9


class CheckpointError(FastxferError):
    """A checkpoint that cannot be read: damaged, of an unknown version, or not one of fastxfer's."""

    exit_code = 8


class QueueError(FastxferError):
    """A queue that cannot be read: damaged, of an unknown version, or not one of fastxfer's."""

    exit_code = 8


class LedgerError(FastxferError):
    """The ledger of a mirrored set that cannot be read: damaged, of an unknown version, or not one of
    fastxfer's.
    """

    exit_code = 8


def _rebuilt(kind: type[FastxferError], message: str, fields: dict[str, Any]) -> FastxferError:
    """Returns an error that was pickled, on its way between processes."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(fields)
    return error


_FULL = {errno.ENOSPC, errno.EDQUOT}


def storage_error(action: str, error: OSError, *, kept: str | None = None) -> StorageError:
    """Returns the typed twin of an operating system's error; `action` reads as in "create /data/x.part"."""
    cls = DiskFullError if error.errno in _FULL else StorageError
    reason = error.strerror or str(error)
    hint = {
        errno.ENOSPC: "; free some space and run it again: what is kept is not fetched again",
        errno.EDQUOT: "; free some of the quota and run it again: what is kept is not fetched again",
        errno.EIO: "; the disk, or the way to it, fails: look at the kernel's log, and run it again",
        errno.EROFS: "; it is mounted read-only: have it mounted for writing, or write elsewhere",
        errno.ENOMEM: "; free some memory, or use sink=pwrite, and run it again",
        errno.EACCES: "; check the permissions of the file and of its directory",
        errno.ENOENT: "; create the directory first",
        errno.EFBIG: "; the file system or a limit (ulimit -f) does not allow a file of this size",
    }.get(error.errno or 0, "")
    return cls(f"cannot {action}: {reason}{hint}", errno=error.errno, kept=kept)

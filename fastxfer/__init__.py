"""fastxfer moves one object, or a whole data set, as fast as the path allows, and never hands over wrong
bytes.

import fastxfer
result = fastxfer.fetch("https://example.org/data.bin", "data.bin", connections=16)
"""

from typing import TYPE_CHECKING, Any

from fastxfer import errors
from fastxfer._version import __version__
from fastxfer.errors import *  # noqa: F403 - the tree of errors is public as a whole

if TYPE_CHECKING:
    from fastxfer.api import Transfer, fetch, probe, start, verify
    from fastxfer.awaiting import acopy, afetch, amirror, aprobe, aput, averify
    from fastxfer.batch import BatchResult
    from fastxfer.benching import BenchProgress, BenchReport, BenchRow, ConnectionRate, bench, read_mirrors
    from fastxfer.copying import copy
    from fastxfer.dataset.report import MirrorItem, MirrorProgress, MirrorReport
    from fastxfer.many import fetch_many, read_inputs
    from fastxfer.mirroring import mirror
    from fastxfer.probe_result import RemoteObject
    from fastxfer.progress.snapshot import Progress
    from fastxfer.put_results import CopyResult, PendingUpload, PutResult
    from fastxfer.queue import Queue, QueueItem
    from fastxfer.reading import open
    from fastxfer.remote_file import RemoteFile
    from fastxfer.results import FetchResult
    from fastxfer.uploading import abort_uploads, list_uploads, put
    from fastxfer.verify_results import SetVerifyResult, VerifyResult

# Each name is imported when it is asked for: the engine takes longer than many a fetch, and what few need
# (SQLite, XML, the parsers) longer than that.
_DEFERRED = {
    "BatchResult": "fastxfer.batch",
    "BenchProgress": "fastxfer.benching",
    "BenchReport": "fastxfer.benching",
    "BenchRow": "fastxfer.benching",
    "ConnectionRate": "fastxfer.benching",
    "CopyResult": "fastxfer.put_results",
    "FetchResult": "fastxfer.results",
    "MirrorItem": "fastxfer.dataset.report",
    "MirrorProgress": "fastxfer.dataset.report",
    "MirrorReport": "fastxfer.dataset.report",
    "PendingUpload": "fastxfer.put_results",
    "Progress": "fastxfer.progress.snapshot",
    "PutResult": "fastxfer.put_results",
    "Queue": "fastxfer.queue",
    "QueueItem": "fastxfer.queue",
    "RemoteObject": "fastxfer.probe_result",
    "RemoteFile": "fastxfer.remote_file",
    "SetVerifyResult": "fastxfer.verify_results",
    "Transfer": "fastxfer.api",
    "VerifyResult": "fastxfer.verify_results",
    "abort_uploads": "fastxfer.uploading",
    "acopy": "fastxfer.awaiting",
    "afetch": "fastxfer.awaiting",
    "amirror": "fastxfer.awaiting",
    "aprobe": "fastxfer.awaiting",
    "aput": "fastxfer.awaiting",
    "averify": "fastxfer.awaiting",
    "bench": "fastxfer.benching",
    "copy": "fastxfer.copying",
    "fetch": "fastxfer.api",
    "fetch_many": "fastxfer.many",
    "list_uploads": "fastxfer.uploading",
    "mirror": "fastxfer.mirroring",
    "open": "fastxfer.reading",
    "probe": "fastxfer.api",
    "put": "fastxfer.uploading",
    "read_inputs": "fastxfer.many",
    "read_mirrors": "fastxfer.benching",
    "start": "fastxfer.api",
    "verify": "fastxfer.api",
}

__all__ = [  # noqa: PLE0604 - the errors' own list is of strings
    "BatchResult",
    "BenchProgress",
    "BenchReport",
    "BenchRow",
    "ConnectionRate",
    "CopyResult",
    "FetchResult",
    "MirrorItem",
    "MirrorProgress",
    "MirrorReport",
    "PendingUpload",
    "Progress",
    "PutResult",
    "Queue",
    "QueueItem",
    "RemoteFile",
    "RemoteObject",
    "SetVerifyResult",
    "Transfer",
    "VerifyResult",
    "__version__",
    "abort_uploads",
    "acopy",
    "afetch",
    "amirror",
    "aprobe",
    "aput",
    "averify",
    "bench",
    "copy",
    "errors",
    "fetch",
    "fetch_many",
    "list_uploads",
    "mirror",
    "open",
    "probe",
    "put",
    "read_inputs",
    "read_mirrors",
    "start",
    "verify",
    *errors.__all__,
]


def __getattr__(name: str) -> Any:
    if name in _DEFERRED:
        import importlib

        return getattr(importlib.import_module(_DEFERRED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

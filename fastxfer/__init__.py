"""fastxfer moves one object, or a whole data set, as fast as the path allows, and never hands over wrong
bytes.

import fastxfer
result = fastxfer.fetch("https://example.org/data.bin", "data.bin", connections=16)
"""

from fastxfer import errors
from fastxfer._version import __version__
from fastxfer.api import Transfer, fetch, probe, start, verify
from fastxfer.errors import *  # noqa: F403 - the tree of errors is public as a whole
from fastxfer.progress.snapshot import Progress
from fastxfer.results import FetchResult, RemoteObject, VerifyResult

__all__ = [  # noqa: PLE0604 - the errors' own list is of strings
    "FetchResult",
    "Progress",
    "RemoteObject",
    "Transfer",
    "VerifyResult",
    "__version__",
    "errors",
    "fetch",
    "probe",
    "start",
    "verify",
    *errors.__all__,
]

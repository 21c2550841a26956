"""The public call that opens an object as a file, imported when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastxfer.copy_options import STORE
from fastxfer.options import TransferOptions, checked_options
from fastxfer.plan.readahead import LEAST
from fastxfer.remote_file import DEFAULT_AHEAD, RemoteFile
from fastxfer.units import parse_size

_TAKEN = frozenset(
    (
        *STORE, "headers", "secret_headers", "auth", "netrc", "allow_http_redirects",
        "allow_private_redirects", "ignore_etag", "proxy", "ca_bundle", "client_cert", "verify_tls",
        "http_version", "connect_timeout", "stall_timeout", "retries", "connections_per_host", "max_rate",
        "max_rate_per_host", "max_rate_total",
    )
)  # fmt: skip
"""The options of TransferOptions that reading takes."""


def _read_ahead(value: Any) -> int:
    size = parse_size(value)
    if 0 < size < LEAST:
        raise ValueError("must be 0, or 128K at the least")
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """The options that only reading has."""

    read_ahead: int = field(default=DEFAULT_AHEAD, metadata={"parse": _read_ahead})


def open(
    url: str, *, connections: int = 4, read_ahead: int | str = DEFAULT_AHEAD, **options: Any
) -> RemoteFile:
    """Opens an object as a file to read, and returns a RemoteFile: seekable, and for whatever takes a binary
    file (io.BufferedReader, zipfile, gzip, pyarrow, pandas).

    A reader that goes forward finds the next blocks there: they are asked for ahead of it, over several
    connections. One that jumps gets what it asks for, and nothing ahead. The first answer says which object
    it is; when it changes, reading raises RemoteChangedError, and no bytes of two are ever mixed. Of a server
    that gives no ranges, or does not tell the size, the stream is read from its beginning on, and kept in a
    temporary file, so that a seek works there too.

    Args:
        url: http://, https:// (presigned too), s3://BUCKET/KEY or oss://BUCKET/KEY.
        connections: requests at once, 1 to 1024.
        read_ahead: bytes in memory, an int or "32M", for what is read ahead and what was read last; 0 for
            nothing ahead, and requests for just what is asked for.
        options: those of `fetch` about the store, the network and the pace: endpoint, region, profile,
            credentials, anonymous, addressing, headers, secret_headers, auth, netrc, allow_http_redirects,
            allow_private_redirects, ignore_etag, proxy, ca_bundle, client_cert, verify_tls, http_version,
            connect_timeout, stall_timeout, retries, connections_per_host, max_rate, max_rate_per_host,
            max_rate_total.

    Raises:
        FastxferError: one of its kinds (fastxfer.errors), here and from each read: NotFoundError, AuthError,
            NetworkError, TransferTimeoutError, OptionError. After one the file can be read on, unless it is
            RemoteChangedError.
    """
    for name in options:
        if name not in _TAKEN:
            raise TypeError(f"there is no option {name!r} of open")
    own = ReadOptions(**checked_options(ReadOptions, {"read_ahead": read_ahead}))
    network = TransferOptions.build(connections=connections, **options)
    return RemoteFile(url, network, own.read_ahead)

"""The options of an upload alone, checked; the ones it shares with a fetch are TransferOptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastxfer.options import checked_options, parse_connections
from fastxfer.units import parse_size

NETWORK = frozenset(
    (
        "headers", "endpoint", "region", "profile", "credentials", "anonymous", "addressing", "proxy",
        "ca_bundle", "client_cert", "verify_tls", "http_version", "connect_timeout", "stall_timeout",
        "retries",
    )
)  # fmt: skip
"""The options of TransferOptions that an upload takes."""


def _part_size(value: Any) -> int:
    size = parse_size(value)
    if size < 1:
        raise ValueError("must be a size over 0")
    return size


def _directory(value: Any) -> str | None:
    text = None if value is None else str(value)
    if text is not None and ("\0" in text or not text):
        raise ValueError("must be the name of a directory")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOptions:
    """The options that only an upload has."""

    part_size: int = field(
        default=8 << 20,
        metadata={
            "parse": _part_size,
            "help": "size of a part, 100K to 5G, at Amazon from 5M; larger where 10000 parts would not do "
            "(default: 8M)",
            "metavar": "S",
            "flags": (),
        },
    )
    connections: int = field(
        default=8,
        metadata={
            "parse": parse_connections,
            "help": "parts at once, 1 to 1024",
            "metavar": "N",
            "flags": ("-x",),
        },
    )
    checkpoint_dir: str | None = field(
        default=None,
        metadata={
            "parse": _directory,
            "help": "where the progress is kept (default: beside the file)",
            "metavar": "D",
            "flags": (),
        },
    )

    @classmethod
    def build(cls, **given: Any) -> PutOptions:
        """Returns checked options. Raises OptionError that names the option."""
        return cls(**checked_options(cls, given))

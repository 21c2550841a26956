"""The options of an upload alone, checked; the ones it shares with a fetch are TransferOptions."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from fastxfer.errors import OptionError
from fastxfer.options import MAX_CONNECTIONS
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


def _connections(value: Any) -> int:
    try:
        number = int(value)
        fits = not isinstance(value, bool) and number == float(value) and 1 <= number <= MAX_CONNECTIONS
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(f"must be a whole number from 1 to {MAX_CONNECTIONS}")
    return number


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
            "parse": _connections,
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
        checked = {}
        for each in fields(cls):
            if each.name not in given:
                continue
            try:
                checked[each.name] = each.metadata["parse"](given[each.name])
            except (ValueError, TypeError, OverflowError) as error:
                raise OptionError(f"option {each.name}: {error}") from error
        return cls(**checked)

"""The options of a benchmark alone, checked; the ones it shares with a fetch are TransferOptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastxfer.options import checked_options, parse_connections
from fastxfer.units import parse_size

NETWORK = frozenset(
    (
        "connections_per_host", "headers", "secret_headers", "allow_http_redirects",
        "allow_private_redirects", "auth", "netrc", "endpoint", "region", "profile", "credentials",
        "anonymous", "addressing", "proxy", "ca_bundle", "client_cert", "verify_tls", "http_version",
        "connect_timeout", "stall_timeout", "ignore_etag",
    )
)  # fmt: skip
"""The options of TransferOptions that a benchmark takes."""
MAX_URLS = 1000
MAX_COUNTS = 8
LEAST_ROUNDS = 4
LEAST_BYTES = 1 << 20


def _counts(value: Any) -> tuple[int, ...]:
    if isinstance(value, int | str):
        given = value.replace(",", " ").split() if isinstance(value, str) else [value]
    else:
        given = list(value)
    counts = sorted({parse_connections(each) for each in given})
    if not 1 <= len(counts) <= MAX_COUNTS:
        raise ValueError(f"must be 1 to {MAX_COUNTS} numbers of connections, such as 1,4,16")
    return tuple(counts)


def _duration(value: Any) -> float:
    try:
        seconds = float(value)
    except (ValueError, TypeError, OverflowError):
        seconds = 0.0
    if not 0.05 <= seconds <= 3600:
        raise ValueError("must be a number of seconds from 0.05 to 3600")
    return seconds


def _max_bytes(value: Any) -> int:
    size = parse_size(value)
    if size < LEAST_BYTES:
        raise ValueError("must be 1M at the least")
    return size


def _number(least: int, most: int) -> Any:
    def parse(value: Any) -> int | None:
        try:
            number = None if value is None else int(value)
        except (ValueError, TypeError, OverflowError):
            number = least - 1
        if isinstance(value, bool) or (number is not None and not least <= number <= most):
            raise ValueError(f"must be a whole number from {least} to {most}")
        return number

    return parse


def _option(parse: Any, default: Any, text: str, metavar: str, flags: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"parse": parse, "help": text, "metavar": metavar, "flags": flags})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The options that only a benchmark has. `duration` in seconds, `max_bytes` in bytes."""

    connections: tuple[int, ...] = _option(
        _counts, (1, 4, 16), "numbers of connections to measure with, with commas (default: 1,4,16)", "N,N",
        ("-x",),
    )  # fmt: skip
    duration: float = _option(_duration, 5.0, "seconds for each mirror and number of connections", "S")
    max_bytes: int = _option(_max_bytes, 512 << 20, "bytes from each mirror at the most (default: 512M)", "S")
    rounds: int = _option(
        _number(LEAST_ROUNDS, 100), 5, "rounds that the duration is divided into, 4 to 100", "N"
    )
    seed: int | None = _option(
        _number(0, 2**32 - 1), None, "of the order and of the ranges that are asked for (default: by chance)",
        "N",
    )  # fmt: skip

    @classmethod
    def build(cls, **given: Any) -> BenchOptions:
        """Returns checked options. Raises OptionError that names the option."""
        return cls(**checked_options(cls, given))

    @property
    def slice_s(self) -> float:
        """How long one measurement takes."""
        return self.duration / self.rounds

    @property
    def slice_bytes(self) -> int:
        """The most that one measurement may bring."""
        return max(1, self.max_bytes // (self.rounds * len(self.connections)))

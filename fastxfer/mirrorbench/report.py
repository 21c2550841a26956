"""What a benchmark of mirrors returns: frozen values that print well, turn into JSON and back, and draw
themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import Any

from fastxfer.errors import OptionError
from fastxfer.units import format_size

FORMAT = 1
MAX_ROWS = 1000


@dataclass(frozen=True, slots=True)
class ConnectionRate:
    """What a mirror brought over so many `connections`: bytes a second, the mean of the rounds, and its 95 %
    interval; None where there were too few rounds to tell. `spread` is their standard deviation over the
    mean, `samples` has for each round when it began, in seconds since the beginning, and its rate.
    """

    connections: int
    rate: float
    rate_low: float | None
    rate_high: float | None
    spread: float = 0.0
    samples: tuple[tuple[float, float], ...] = ()
    bytes: int = 0
    requests: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One mirror. `url` is without secrets; `whole` says whether that is all of it.

    `rate` and its interval, in bytes a second, are those at its best number of `connections`, all of which
    are in `by_connections`; None where none was measured. `advised_connections` is the smallest number that
    is not shown to be slower than the best, `chunk_size` what suits its rate and its latency.

    On a new connection an answer's `first_byte` takes, in seconds, `dns` (of the first time, for names are
    kept) + `connect` + `tls` + `wait`; these are medians of the rounds.

    `errors` counts the requests that failed, of `requests`; `error` says why it was given up, `exit_code`
    is its number. `ranges`,
    `http_version`, `address` (which answered), `size`, `etag` and `last_modified` are as told. `same_object`
    is True where size and sampled bytes are those that most mirrors have, None where nothing could be
    compared; `same_validators` whether ETag and Last-Modified are those that most of them have. `findings`
    are the `notes` in a word each: unreachable, stale, differs, date, unknown, changed, no-ranges, small,
    limited, connection-limited, far, errors, overloaded, rising, falling.
    """

    url: str
    rate: float | None = None
    rate_low: float | None = None
    rate_high: float | None = None
    connections: int | None = None
    advised_connections: int | None = None
    chunk_size: int | None = None
    first_byte: float | None = None
    first_byte_low: float | None = None
    first_byte_high: float | None = None
    dns: float | None = None
    connect: float | None = None
    tls: float | None = None
    wait: float | None = None
    errors: int = 0
    requests: int = 0
    bytes: int = 0
    error: str | None = None
    exit_code: int | None = None
    ranges: bool | None = None
    http_version: str | None = None
    address: str | None = None
    redirects: int = 0
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    same_object: bool | None = None
    same_validators: bool | None = None
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    by_connections: tuple[ConnectionRate, ...] = ()
    whole: bool = True
    full_url: str = field(default="", repr=False, compare=False)

    @property
    def usable(self) -> bool:
        """True where a fetch may be sent there: it answers, and not with another object."""
        return self.error is None and self.same_object is not False

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values, without the URL's secrets."""
        plain = asdict(self)
        del plain["full_url"]
        plain["by_connections"] = [
            {**asdict(each), "samples": [list(pair) for pair in each.samples]} for each in self.by_connections
        ]
        return {**plain, "findings": list(self.findings), "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Mirrors, the best first: those that have another object or do not answer last.

    `verdicts` say of each two neighbours which is faster, where their intervals part. `measured_at` is when
    it began, in ISO 8601; `elapsed` in seconds; `interrupted` says that it was stopped before its end.
    """

    rows: tuple[BenchRow, ...]
    verdicts: tuple[str, ...] = ()
    measured_at: str = ""
    elapsed: float = 0.0
    connections: tuple[int, ...] = ()
    duration: float = 0.0
    rounds: int = 0
    max_bytes: int = 0
    seed: int = 0
    interrupted: bool = False

    def best(self, n: int | None = None) -> list[str]:
        """Returns the URLs of the best mirrors, at most `n`, with all that belongs to them: for
        `fetch(..., mirrors=report.best(3))`. One with another object is not among them, nor is one of a saved
        report whose URL was not saved whole.
        """
        found = [row.full_url or row.url for row in self.rows if row.usable and (row.full_url or row.whole)]
        return found if n is None else found[: max(0, n)]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values, without the URLs' secrets."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        lists = {name: list(plain[name]) for name in ("verdicts", "connections")}
        return {"format": FORMAT, **plain, **lists, "rows": [row.to_dict() for row in self.rows]}

    def to_json(self) -> str:
        """Returns `to_dict` as JSON on one line, which `from_json` reads."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """Returns the report that `to_json` wrote. Raises OptionError for what is none."""
        try:
            return _report(json.loads(text))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise OptionError("this is no report of a benchmark that can be read") from error

    def to_html(self) -> str:
        """Returns a page of HTML that needs nothing from elsewhere."""
        from fastxfer.mirrorbench.page import page

        return page(self)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Writes that page to a file. Raises StorageError."""
        from fastxfer.mirrorbench.plot import save_page

        save_page(self, path)

    def plot(self, path: str | PathLike[str]) -> None:
        """Draws rates with their intervals, latency and rates over time into a file: .png, .svg or .pdf.
        Raises OptionError without matplotlib (fastxfer[plot]) or for another kind of file, and StorageError.
        """
        from fastxfer.mirrorbench.plot import plot

        plot(self, path)

    def __str__(self) -> str:
        from fastxfer.mirrorbench.words import table_of

        return table_of(self)


def shown_rate(row: BenchRow | ConnectionRate) -> str:
    """Returns a rate with its interval, for people."""
    if row.rate is None:
        return "-"
    text = f"{format_size(row.rate)}/s"
    if row.rate_low is not None and row.rate_high is not None:
        text += f" ({format_size(row.rate_low)} to {format_size(row.rate_high)})"
    return text


# ---- reading a saved one, which may have been changed by anyone ----


def _report(given: Any) -> BenchReport:
    if not isinstance(given, dict) or given.get("format") != FORMAT or len(given["rows"]) > MAX_ROWS:
        raise ValueError("not a report")
    rows = tuple(_row(each) for each in given["rows"])
    return BenchReport(
        rows,
        verdicts=_texts(given["verdicts"]),
        measured_at=_text(given["measured_at"]),
        elapsed=_number(given["elapsed"]),
        connections=tuple(_count(each) for each in given["connections"]),
        duration=_number(given["duration"]),
        rounds=_count(given["rounds"]),
        max_bytes=_count(given["max_bytes"]),
        seed=_count(given["seed"]),
        interrupted=_flag(given["interrupted"]),
    )


def _row(given: Mapping[str, Any]) -> BenchRow:
    values: dict[str, Any] = {}
    for each in fields(BenchRow):
        if each.name in _READERS:
            value = given[each.name]
            values[each.name] = None if value is None and each.default is None else _READERS[each.name](value)
    return BenchRow(by_connections=tuple(map(_rate, given["by_connections"])), **values)


def _rate(given: Mapping[str, Any]) -> ConnectionRate:
    low, high = given["rate_low"], given["rate_high"]
    return ConnectionRate(
        _count(given["connections"]),
        _number(given["rate"]),
        None if low is None else _number(low),
        None if high is None else _number(high),
        _number(given["spread"]),
        tuple((_number(at), _number(rate)) for at, rate in given["samples"]),
        *(_count(given[name]) for name in ("bytes", "requests", "errors")),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("not a number")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("not a count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, value))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not a switch")
    return value


_READERS: dict[str, Any] = {
    **dict.fromkeys(("url", "error", "http_version", "address", "etag", "last_modified"), _text),
    **dict.fromkeys(("rate", "rate_low", "rate_high", "first_byte", "first_byte_low"), _number),
    **dict.fromkeys(("first_byte_high", "dns", "connect", "tls", "wait"), _number),
    **dict.fromkeys(
        ("connections", "advised_connections", "chunk_size", "errors", "requests", "exit_code"), _count
    ),
    **dict.fromkeys(("bytes", "redirects", "size"), _count),
    **dict.fromkeys(("ranges", "same_object", "same_validators", "whole"), _flag),
    **dict.fromkeys(("findings", "notes"), _texts),
}

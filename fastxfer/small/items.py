"""What is asked for and what comes of it, as light as a million of them need, and one on its way."""

from __future__ import annotations

from typing import NamedTuple

from fastxfer.errors import FastxferError, OptionError
from fastxfer.names import safe_parts
from fastxfer.options import TransferOptions, parse_checksum
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity
from fastxfer.sources.http import HttpSource, plain_home
from fastxfer.sources.schemes import is_location
from fastxfer.storage.whole_files import NOTHING, Told, WholeFile

Checksum = str | dict[str, str] | tuple[tuple[str, str], ...] | None


class Wanted(NamedTuple):
    """One object: `name` is an outside name, with folders, of the file below the root. `size` and `checksum`
    are what it must have, where they are known; `mirrors` are other URLs of it. What stands there is replaced
    where `always`, though it seems to be the same. `options` are for it alone, instead of those of all.
    """

    url: str
    name: str
    size: int | None = None
    checksum: Checksum = None
    mirrors: tuple[str, ...] = ()
    always: bool = False
    options: TransferOptions | None = None

    @property
    def apart(self) -> bool:
        """Whether it is fetched as `fastxfer.fetch` would, whatever its size."""
        return self.options is not None or is_location(self.url)


class Fetched(NamedTuple):
    """An object that is there. `crc64` is the CRC-64/NVME of its bytes, None where they were not read;
    `verified` is "checksum" where it was held against one; `skipped`: the file was there already. It took
    `seconds` from its last request on.
    """

    wanted: Wanted
    size: int
    etag: str | None = None
    last_modified: str | None = None
    crc64: int | None = None
    verified: str = "none"
    skipped: bool = False
    seconds: float = 0.0


class Missed(NamedTuple):
    """An object that is not there, and why."""

    wanted: Wanted
    error: FastxferError


Outcome = Fetched | Missed


_UNKNOWN: Told = (None, None, None)


class Item(WholeFile):
    """An object on its way, and its file. Raises OptionError for what cannot be asked for, or not be
    written.
    """

    __slots__ = (
        "_source",
        "apart",
        "checksum",
        "failures",
        "home",
        "options",
        "plain",
        "seconds",
        "turn",
        "wanted",
    )

    def __init__(self, wanted: Wanted, options: TransferOptions) -> None:
        # What `WholeFile` has is set here as well: there is one of these for each of a million objects.
        self.wanted = wanted
        self.folders, self.name = safe_parts(wanted.name)
        self.body, self.told, self.always = NOTHING, _UNKNOWN, wanted.always
        self.error, self.crc64, self.skipped = None, 0, False
        self.checksum = () if wanted.checksum is None else _checksum(wanted.checksum)
        self.options = options
        home = plain_home(wanted.url) if isinstance(wanted.url, str) else None
        self.apart = wanted.options is not None if home is not None else wanted.apart
        self.plain = home is not None
        """It is asked for at its URL as it is written, and by the options alone."""
        self._source: HttpSource | None = None
        if home is not None:
            self.home = home
        elif not self.apart:
            self.source = HttpSource.of(wanted.url, options)
        self.turn = 0
        self.failures = 0
        self.seconds = 0.0

    @property
    def source(self) -> HttpSource:
        """Whom it is asked of."""
        if self._source is None:
            self._source = HttpSource.of(self.wanted.url, self.options)
        return self._source

    @source.setter
    def source(self, source: HttpSource) -> None:
        self._source, self.home, self.plain = source, source.home, False

    @property
    def url(self) -> str:
        """The URL that it is asked for at."""
        return self.wanted.url if self.plain else self.source.url

    @property
    def known(self) -> Identity | None:
        """What its answer must be."""
        return None if self.wanted.size is None else Identity(self.wanted.size)

    @property
    def asked(self) -> Span | None:
        """Its range: none, it is asked for as a whole."""
        return None

    def ask_next(self) -> bool:
        """Turns to the next mirror; False when there is none."""
        mirrors = self.wanted.mirrors
        while self.turn < len(mirrors):
            self.turn += 1
            try:
                first = HttpSource.of(self.wanted.url, self.options)
                self.source = first.mirror(mirrors[self.turn - 1])
            except OptionError:
                continue
            self.failures = 0
            return True
        return False

    def ask_at_first(self) -> None:
        """Forgets where redirects led."""
        source = HttpSource.of(self.wanted.url, self.options)
        self.source = source if not self.turn else source.mirror(self.wanted.mirrors[self.turn - 1])


def _checksum(given: Checksum) -> tuple[tuple[str, str], ...]:
    if given == ():
        return ()
    try:
        return parse_checksum(dict(given) if isinstance(given, tuple) else given)
    except ValueError as error:
        raise OptionError(f"checksum: {error}") from error


def internal_error(error: Exception) -> FastxferError:
    """Returns the error that stands for one that nobody expected."""
    wrapped = FastxferError(f"internal error: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped

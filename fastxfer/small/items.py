"""What is asked for and what comes of it, as light as a million of them need, and one on its way."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from fastxfer.errors import CredentialsError, FastxferError, OptionError
from fastxfer.names import safe_parts
from fastxfer.options import TransferOptions, parse_checksum
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity
from fastxfer.sources.http import HttpSource, plain_home
from fastxfer.sources.opening import RemoteSource, Sources, open_mirror
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


class Fetched(NamedTuple):
    """An object that is there. `crc64` is the CRC-64/NVME of its bytes, None where they were not read;
    `verified` is "checksum" where it was held against one, "server" where against what its store says of it;
    `skipped`: the file was there already. It took `seconds` from its last request on.
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
        "plain",
        "seconds",
        "sources",
        "turn",
        "vouched",
        "wanted",
    )

    def __init__(self, wanted: Wanted, sources: Sources) -> None:
        # What `WholeFile` has is set here as well: there is one of these for each of a million objects.
        self.wanted = wanted
        self.folders, self.name = safe_parts(wanted.name)
        self.body, self.told, self.always = NOTHING, _UNKNOWN, wanted.always
        self.error, self.crc64, self.skipped = None, 0, False
        self.checksum = () if wanted.checksum is None else _checksum(wanted.checksum)
        self.vouched: tuple[tuple[str, str], ...] = ()
        """The checksums that its store tells of it."""
        self.sources = sources
        home = plain_home(wanted.url) if isinstance(wanted.url, str) else None
        self.apart = wanted.options is not None
        """It is fetched as `fastxfer.fetch` would, whatever its size."""
        self.plain = home is not None
        """It is asked for at its URL as it is written, and by the options alone."""
        self._source: RemoteSource | None = None
        if home is not None:
            self.home = home
        elif not self.apart:
            self.source = sources.open(wanted.url)
        self.turn = 0
        self.failures = 0
        self.seconds = 0.0

    @property
    def source(self) -> RemoteSource:
        """Whom it is asked of."""
        if self._source is None:
            self._source = self.sources.open(self.wanted.url)
        return self._source

    @source.setter
    def source(self, source: RemoteSource) -> None:
        self._source, self.home, self.plain = source, source.home, False

    @property
    def of_store(self) -> bool:
        """Whether it is asked of an object store, by requests that are signed."""
        return not self.plain and not isinstance(self.source, HttpSource)

    @property
    def host_url(self) -> str:
        """A URL of the host that it is asked of."""
        return self.wanted.url if self.plain else self.source.host_url

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
                self.source = self._mirror()
            except (OptionError, CredentialsError):
                continue
            self.failures = 0
            return True
        return False

    def ask_at_first(self) -> None:
        """Forgets where redirects led."""
        self.source = self._mirror() if self.turn else self.sources.open(self.wanted.url)

    def _mirror(self) -> RemoteSource:
        first = self.sources.open(self.wanted.url)
        own = replace(first.options, mirrors=self.wanted.mirrors)  # they say whom the options are for
        return open_mirror(replace(first, options=own), self.wanted.mirrors[self.turn - 1])


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

"""What is known of the object that is being fetched and of its mirrors, and what an answer means beside
that.
"""

from __future__ import annotations

import time

from fastxfer.engine.request import Head
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity, Verdict, judge
from fastxfer.sources.opening import RemoteSource
from fastxfer.values import dataclass


@dataclass(slots=True, eq=False)
class Mirror:
    """One URL of the object: `original` as the caller gave it, `source` where its redirects led.

    `told` is what its own answers say of the object: servers make ETags each in their way, so those of two
    are not compared. `foreign` says that what an earlier run left is not known to be of this URL.
    """

    index: int
    original: RemoteSource
    source: RemoteSource
    told: Identity | None = None
    foreign: bool = False

    @property
    def display(self) -> str:
        """Its URL without secrets."""
        return self.original.display

    def ask_at_first(self) -> None:
        """Forgets where redirects led."""
        self.source = self.original


class Subject:
    """The object of one transfer. `identity` is the one that is being fetched, `left` the one that an earlier
    run left progress of.
    """

    def __init__(self, options: TransferOptions, size: int | None = None) -> None:
        self._options = options
        self._described = Identity(size) if size is not None else None  # what a document says
        self.identity: Identity | None = None
        self.left: Identity | None = None
        self.etags_differ = False
        """Its ETags differ from answer to answer, and the checksum is to decide."""
        self._strict = False  # the checksum did not hold: another ETag is another object again

    @property
    def size(self) -> int | None:
        """Its size in bytes, if known."""
        known = self.identity or self.left or self._described
        return known.size if known is not None else None

    @property
    def unanswered(self) -> bool:
        """True while nothing but a document says what the object is."""
        return self.identity is None and self.left is None

    def expected(self, mirror: Mirror) -> Identity | None:
        """Returns the identity that a mirror's answers must have, None before the first of all: what it told
        before, else what an earlier run was told, else the size.
        """
        if mirror.told is not None:
            return mirror.told
        if self.identity is None and self.left is not None and not mirror.foreign:
            return self.left
        return Identity(self.size) if self.size is not None else None

    def if_range(self, mirror: Mirror) -> str | None:
        """Returns the validator for If-Range, None where there is none or it is not to be believed."""
        known = self.expected(mirror)
        return known.strong_etag if known is not None and not self._ignores_etag else None

    def version(self, mirror: Mirror) -> str | None:
        """Returns the version of the object to ask a mirror for, None for the newest."""
        known = self.expected(mirror)
        return known.version if known is not None else None

    @property
    def _ignores_etag(self) -> bool:
        return self._options.ignore_etag or self.etags_differ

    def judge(self, asked: Span | None, head: Head, mirror: Mirror) -> Verdict:
        """Returns what a mirror's answer means (see `plan.response.judge`, and what it raises)."""
        return judge(
            asked,
            self.expected(mirror),
            head.status,
            head.headers,
            ignore_etag=self._ignores_etag,
            coded=mirror.source.coded,
            now_epoch_s=time.time(),
        )

    def let_the_checksum_decide(self, new: Identity, mirror: Mirror) -> bool:
        """Ignores ETags from now on, and returns True, where only the ETag of an answer is another one, as
        from node to node of a CDN, and there is a checksum that will tell.
        """
        options, known = self._options, self.expected(mirror)
        if not options.checksum or options.on_change != "restart" or self._strict or known is None:
            return False
        if new.size is None or new.last_modified is None:
            return False
        if (known.size, known.last_modified) != (new.size, new.last_modified):
            return False
        self.etags_differ = True
        return True

    def forget(self) -> None:
        """Drops the identity: the next answer's will be it."""
        self.identity = self.left = None

    def checksum_failed(self) -> None:
        """Has ETags compared again, to the letter."""
        self.etags_differ, self._strict = False, True

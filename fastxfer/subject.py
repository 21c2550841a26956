"""What is known of the object that is being fetched, and what an answer means beside that."""

from __future__ import annotations

import time

from fastxfer.engine.request import Head
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity, Verdict, judge


class Subject:
    """The object of one transfer. `identity` is the one that is being fetched, `left` the one that an earlier
    run left progress of.
    """

    def __init__(self, options: TransferOptions) -> None:
        self._options = options
        self.identity: Identity | None = None
        self.left: Identity | None = None
        self.etags_differ = False
        """Its ETags differ from answer to answer, and the checksum is to decide."""
        self._strict = False  # the checksum did not hold: another ETag is another object again

    @property
    def known(self) -> Identity | None:
        """The identity that answers must have, None before the first."""
        return self.identity if self.identity is not None else self.left

    @property
    def size(self) -> int | None:
        """Its size in bytes, if known."""
        return self.known.size if self.known is not None else None

    @property
    def if_range(self) -> str | None:
        """The validator for If-Range, None where there is none or it is not to be believed."""
        if self.known is None or self._ignores_etag:
            return None
        return self.known.strong_etag

    @property
    def _ignores_etag(self) -> bool:
        return self._options.ignore_etag or self.etags_differ

    def judge(self, asked: Span | None, head: Head) -> Verdict:
        """Returns what an answer means (see `plan.response.judge`, and what it raises)."""
        return judge(
            asked,
            self.known,
            head.status,
            head.headers,
            ignore_etag=self._ignores_etag,
            now_epoch_s=time.time(),
        )

    def let_the_checksum_decide(self, new: Identity) -> bool:
        """Ignores ETags from now on, and returns True, where only the ETag of an answer is another one, as
        from node to node of a CDN, and there is a checksum that will tell.
        """
        options, known = self._options, self.known
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

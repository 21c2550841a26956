"""The objects of a bucket below a prefix, as a source: one flat listing, page by page."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastxfer.dataset.entries import Entry, checked_path
from fastxfer.dataset.filters import Filters
from fastxfer.dataset.ledger import Page, Place
from fastxfer.errors import BadResponseError, OptionError, StoreError
from fastxfer.inputs.entry import Fault
from fastxfer.options import TransferOptions
from fastxfer.sources.locations import Location, parse_location
from fastxfer.sources.object_listing import ListedObject, ObjectsPage, read_objects
from fastxfer.sources.store_access import StoreAccess
from fastxfer.store_calls import Ask, Pairs, StoreCalls

MAX_KEYS = 1000
"""Objects of a page, the most that stores give."""
_EXPIRED = ("InvalidArgument", "InvalidToken")
"""Said of a continuation-token that is none, or none any more."""


class StoreLister:
    """A Lister of `s3://BUCKET[/PREFIX]` and `oss://BUCKET[/PREFIX]`: of the object that has the prefix as
    its whole key, if there is one, else of the folder of that name. It has one place; the cursor of a page is
    the store's own continuation-token.

    Raises OptionError, and CredentialsError for half of the credentials in the environment.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        filters: Filters | None = None,
        stopped: threading.Event | None = None,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._options = TransferOptions.build(**options)
        self._location = parse_location(url.lstrip())
        self._access = StoreAccess.of(self._location, self._options)
        endpoint = f" at {self._access.store.endpoint}" if self._access.told else ""
        self.source, self.root, self.terms = f"{self._location}{endpoint}", str(self._location), "objects"
        self._filters, self._stopped = filters or Filters(), stopped or threading.Event()
        self._max_keys = max_keys

    def list(self, place: Place) -> Iterator[Page]:
        """See Lister."""
        calls = StoreCalls(self._access, self._options, self._stopped)
        try:
            token = json.loads(place.cursor) if place.cursor else None
            key = self._location.key
            if token is None and key and not key.endswith("/"):
                alone = self._alone(calls)
                if alone is not None:
                    yield self._page([alone], len(key.rpartition("/")[0]) + ("/" in key), None)
                    return
            yield from self._pages(calls, token)
        finally:
            calls.close()

    def _alone(self, calls: StoreCalls) -> ListedObject | None:
        """Returns the object whose whole key is the prefix, if there is one: it is the first of those that
        begin with it.
        """
        page = self._ask(calls, self._location.key, None, 1)
        return next((each for each in page.objects if each.key == self._location.key), None)

    def _pages(self, calls: StoreCalls, token: str | None) -> Iterator[Page]:
        """Gives the pages of the folder, from a token on; all of them, once, where the store does not take a
        token any more.
        """
        prefix = self._location.key
        folder = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        circle, anew = _Circle(), False
        while True:
            try:
                page = self._ask(calls, folder, token, self._max_keys)
            except StoreError as error:
                if anew or token is None or error.code not in _EXPIRED:
                    raise
                token, circle, anew = None, _Circle(), True
                continue
            token = page.next_token
            circle.check(token)
            yield self._page(page.objects, len(folder), token)
            if token is None:
                return

    def _ask(self, calls: StoreCalls, prefix: str, token: str | None, count: int) -> ObjectsPage:
        """Returns a page of at most `count` objects.

        S3's kind is asked to encode keys only for what XML cannot hold: SeaweedFS says that it does, and does
        not. What is no XML then either is a token of Ceph RGW, which is the page's last key: not so that of a
        shorter page.
        """
        tries = [(count, True), (max(count // 2, 1), True)]
        if self._access.kind == "s3":
            tries.insert(0, (count, False))
        while True:
            most, encoded = tries.pop(0)
            query: Pairs = (("list-type", "2"), ("max-keys", str(most)))
            query += (("prefix", prefix),) if prefix else ()
            query += (("continuation-token", token),) if token is not None else ()
            query += (("encoding-type", "url"),) if encoded else ()
            answer = calls.ask(Ask("GET", f"cannot list {self._location}", query=query, key=""))
            try:
                return read_objects(answer.body, answer.headers, self._access.kind, encoded=encoded)
            except BadResponseError:
                if not tries:
                    raise

    def _page(self, objects: Iterable[ListedObject], cut: int, token: str | None) -> Page:
        """Returns a page of the ledger; `cut` characters of each key are above the folder."""
        entries: list[Entry] = []
        faults: list[Fault] = []
        for found in objects:
            try:
                entry = self._entry(found, cut)
            except OptionError as error:
                name = found.key[cut:]
                if self._filters.wants(name):
                    faults.append(Fault(name or found.key, error.message))
                continue
            if entry is not None:
                entries.append(entry)
        return Page(entries, faults, cursor=None if token is None else json.dumps(token))

    def _entry(self, found: ListedObject, cut: int) -> Entry | None:
        """Returns the entry of an object, None for what stands for a folder. Raises OptionError for a key
        that is no safe path.
        """
        name = found.key[cut:]
        if not name or name.endswith("/"):
            if found.size == 0:
                return None
            raise OptionError(f"{name[-80:]!r} is an object with bytes, and has the name of a folder")
        url = Location(self._location.scheme, self._location.bucket, found.key)
        return Entry(checked_path(name), str(url), size=found.size, mtime=found.modified, etag=found.etag)


class _Circle:
    """Notices tokens that lead back to an earlier one (Brent's way: one of them is kept)."""

    def __init__(self) -> None:
        self._kept: str | None = None
        self._seen, self._next = 0, 1

    def check(self, token: str | None) -> None:
        """Takes the next token. Raises BadResponseError."""
        if token is not None and token == self._kept:
            raise BadResponseError("the store's list of objects leads back to where it was")
        self._seen += 1
        if self._seen == self._next:
            self._kept, self._next = token, 2 * self._next

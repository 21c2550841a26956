"""Requests to a tus server: what it offers, uploads begun, looked at, sent to, put together and ended.

The caller's header fields and credentials go to the origin that the caller named, and nowhere else: a server
may have its uploads elsewhere, and is told nothing of the caller there. Redirects are not followed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from fastxfer._native.reader import Reader
from fastxfer.engine.request import Head, Request, ShortBody
from fastxfer.errors import (
    BadResponseError,
    ChecksumError,
    FastxferError,
    HTTPStatusError,
    LockedError,
    OverloadedError,
    Retry,
    ServerError,
)
from fastxfer.options import TransferOptions
from fastxfer.plan.addresses import is_public
from fastxfer.plan.retry import parse_retry_after
from fastxfer.sources import tus
from fastxfer.sources.http import HttpSource, origin
from fastxfer.sources.store_errors import presentable
from fastxfer.store_calls import PATIENCE, Answer, Ask, Call, Calls, Pairs

RESUMABLE = ("Tus-Resumable", tus.VERSION)
MAX_TEXT = 4096
_TEXT = re.compile(r"text/plain|application/(problem\+)?json", re.IGNORECASE)
_T = TypeVar("_T")


class TusServer(Calls):
    """See the module. `name` is where uploads are begun, as it may be shown."""

    def __init__(self, source: HttpSource, options: TransferOptions, stop: threading.Event) -> None:
        super().__init__(options, stop)
        self.source = source
        self.name = f"tus+{source.display}"
        self._public = False
        self._lock = threading.Lock()

    def until(self, stop: threading.Event) -> TusServer:
        """Returns the same server, for requests that another event ends."""
        other = TusServer(self.source, self.options, stop)
        other._public = self._public
        return other

    # ---- how it is asked ----

    def request_of(self, ask: Ask) -> Request:
        """Returns the request; `key` is the URL of an upload, None for where they are begun."""
        source = self._source_of(ask.key) if ask.key is not None else self.source
        lines = (*source.header_lines(None, None), *(f"{name}: {value}" for name, value in ask.headers))
        return Request(
            source.url,
            lines,
            source.credentials,
            source.client_cert,
            source.public_only,
            method=ask.method,
            body=ShortBody(ask.body) if isinstance(ask.body, bytes) else ask.body,
        )

    def _source_of(self, url: str) -> HttpSource:
        if origin(url) == self.source.home:
            return replace(self.source, url=url)
        return replace(HttpSource.stranger(url, self.options), public_only=self._public)

    def refusal(self, ask: Ask, head: Head, body: bytes) -> FastxferError:
        """Returns the typed error of a refusal, with what the server says in plain text."""
        plain = _TEXT.match(head.headers.get("content-type") or "text/plain") and not body.startswith(b"<")
        said = presentable(body[:MAX_TEXT].decode("utf-8", "replace")) if plain else ""
        if head.status == tus.CHECKSUM_MISMATCH:
            algorithm, _, expected = dict(ask.headers).get("Upload-Checksum", " ").partition(" ")
            message = f"{ask.what}: the server got other bytes than were sent (460)"
            return ChecksumError(message, algorithm=algorithm, expected=expected, actual="")
        wait_s = parse_retry_after(head.headers.get("retry-after"), time.time())
        return tus.refusal(ask.what, head.status, head.headers, said, retry_after_s=wait_s)

    def outcome(self, call: Call) -> Answer:
        """Returns the answer. A refusal that came before all was sent counts, whatever became of the rest."""
        head = call.answer
        if call.error is not None and head is not None and head.status >= 400:
            raise self.refusal(call.ask, head, call.body) from call.error
        return super().outcome(call)

    def send(self, ask: Ask, on_end: Callable[[Call], object] = lambda _: None) -> Call:
        """Sends a request; from any thread."""
        with self._lock:
            return super().send(ask, on_end)

    # ---- what it is asked ----

    def offer(self) -> tus.Offer:
        """Returns what the server offers; nothing where it does not answer the question."""
        try:
            answer = self.ask(Ask("OPTIONS", f"cannot ask {self.name} what it offers"))
        except HTTPStatusError as error:
            if isinstance(error, OverloadedError | ServerError):
                raise
            return tus.Offer()
        self._public = is_public(answer.address)
        return tus.read_offer(answer.headers)

    def create(
        self, *fields: tuple[str, str], body: Callable[[], Reader] | None = None, patience: int = 1
    ) -> tuple[str, int | None]:
        """Begins an upload; with a body that is its first bytes. Returns its URL and how much the server says
        it has, None for untold.
        """
        what, failures = f"cannot begin an upload at {self.name}", 0
        while True:
            own = (RESUMABLE, *fields, *((tus.CHUNK_TYPE,) if body else ()))
            data = body() if body else b""
            try:
                return self._created(
                    what, self.once(Ask("POST", what, headers=own, body=data, patience=patience))
                )
            except FastxferError as error:
                failures += 1
                again = error.retry is Retry.SAME_SOURCE and not isinstance(error, BadResponseError)
                if not again or failures > self.options.retries:
                    raise
                self.pause(failures, error)

    def _created(self, what: str, answer: Answer) -> tuple[str, int | None]:
        try:
            if answer.status not in (200, 201):
                raise BadResponseError(f"the server answered {answer.status}")
            tus.check_version(answer.headers)
            self._public = is_public(answer.address)
            location = tus.location_over_tls(tus.location_of(answer.headers), self.source.url)
            url = self.source.redirected(location, answer.address).url
            told = answer.headers.get("upload-offset")
            return tus.check_kept(url), None if told is None else tus.offset_of(answer.headers)
        except BadResponseError as error:
            message = error.message.replace("the server redirects", "its Location leads").partition(";")[0]
            raise BadResponseError(f"{what}: {message}") from error

    def put_together(self, urls: list[str], *fields: tuple[str, str]) -> str:
        """Has partial uploads put together; returns the URL of the whole."""
        return self.create(tus.final_field(urls), *fields, patience=PATIENCE)[0]

    def look(self, url: str) -> tuple[int, int | None]:
        """Returns how much of an upload the server has, and how long it takes it to be, None for untold."""
        what = f"cannot look at the upload at {self.name}"
        answer = self.once(Ask("HEAD", what, headers=(RESUMABLE,), key=url))
        return self._read(
            what, answer, lambda: (tus.offset_of(answer.headers), tus.length_of(answer.headers))
        )

    def patch(self, url: str, offset: int, body: Reader, fields: Pairs) -> int:
        """Sends bytes from an offset on; returns how much the server has then."""
        what = f"cannot upload to {self.name}"
        own = (RESUMABLE, tus.CHUNK_TYPE, ("Upload-Offset", str(offset)), *fields)
        answer = self.once(Ask("PATCH", what, headers=own, body=body, key=url))
        return self._read(what, answer, lambda: tus.offset_of(answer.headers))

    def end(self, url: str) -> None:
        """Ends an upload, which the server forgets then; one that it has not is as good."""
        try:
            self.once(Ask("DELETE", f"cannot end an upload at {self.name}", headers=(RESUMABLE,), key=url))
        except HTTPStatusError as error:
            if error.status not in (404, 410):
                raise

    def _read(self, what: str, answer: Answer, read: Callable[[], _T]) -> _T:
        try:
            tus.check_version(answer.headers)
            return read()
        except BadResponseError as error:
            raise BadResponseError(f"{what}: {error.message}") from error


def may_help(error: FastxferError) -> bool:
    """Returns whether to look again and go on after an error."""
    conflict = isinstance(error, HTTPStatusError) and error.status == tus.CONFLICT
    return conflict or error.retry is Retry.SAME_SOURCE or isinstance(error, ChecksumError | LockedError)

"""The way to one object (or bucket) of a store: where it is asked, with which credentials, and what refusals
taught.

`signed` never blocks, so it is fit for the engine's thread. `refresh` asks for credentials and may take
seconds and the network: on a thread of its own, before the first request that is to be signed, and whenever
`needs_refresh` says so. A refusal goes to `refused`, which tells whether to sign the request anew and send it
once more. All methods may be called by any thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

from fastxfer.errors import CredentialsError, OptionError
from fastxfer.options import TransferOptions
from fastxfer.sources.clock_skew import new_correction_s
from fastxfer.sources.credential_chain import (
    AHEAD_S,
    CredentialSource,
    credential_source,
    region_and_endpoint,
)
from fastxfer.sources.credentials import Credentials
from fastxfer.sources.locations import Address, Location, Store, resolve_store
from fastxfer.sources.signing import (
    UNSIGNED_PAYLOAD,
    SignedRequest,
    StoreRequest,
    sign,
    style_for,
    unsigned,
)
from fastxfer.sources.store_errors import Refusal, other_region
from fastxfer.sources.store_request import Fields

LESSONS = 3
"""So often may refusals teach something before a request is accepted: a server cannot lead on for ever."""
LIVE_S = 60.0
"""A library that keeps credentials fresh by itself, and does not say when they expire, is asked so often."""
WAIT_S = 30.0
"""After credentials could not be renewed ahead of time they are not asked for again for so long."""

_EXPIRED = frozenset(
    (
        "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidSecurityToken", "InvalidToken",
        "RequestExpired", "SecurityTokenExpired", "TokenRefreshRequired",
    )
)  # fmt: skip
_SIGNED = ("x-amz-", "x-oss-", "content-", "if-", "range")
# What a signature sets itself, so that the caller's own cannot stand beside it.
_REPLACED = ("authorization", "date", "host")


class StoreAccess:
    """See the module. Raises OptionError for options that make no address, and CredentialsError for half of
    the credentials in the environment, or a profile that cannot be read.

    Attributes:
        location: what it is about; prints as s3://bucket/key.
        address: where that was asked at first; it has no secrets.
        anonymous: nothing is signed.
        told: the endpoint was given: requests go nowhere else.
    """

    def __init__(
        self,
        location: Location,
        store: Store,
        source: CredentialSource | None,
        *,
        told: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.location = location
        self.address: Address = store.address(location.bucket, location.key)
        self.anonymous = source is None
        self._store = store
        self.told = told
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None
        self._refused: Credentials | None = None
        self._asked_at = 0.0
        self._failed_at: float | None = None
        self._correction_s = 0.0
        self._lessons = 0
        self._generation = 0

    @classmethod
    def of(
        cls,
        location: Location,
        options: TransferOptions,
        *,
        given: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> StoreAccess:
        """Returns the access that the options and the environment say; without `given` the options about
        stores are those of another store, and the environment alone counts.
        """
        environ, kind = os.environ if environ is None else environ, location.scheme
        chosen = options if given else TransferOptions()
        region, endpoint = region_and_endpoint(
            kind, region=chosen.region, endpoint=chosen.endpoint, profile=chosen.profile, environ=environ
        )
        addressing = chosen.addressing
        store = resolve_store(kind, endpoint=endpoint, region=region, addressing=addressing)
        chosen_by = (kind, chosen.credentials, chosen.profile, chosen.anonymous, _of_stores(environ))
        try:
            source = _source_for(*chosen_by)
        except TypeError:  # a callable that has no hash
            source = _source_for.__wrapped__(*chosen_by)
        return cls(location, store, source, told=endpoint is not None)

    def at(self, key: str) -> StoreAccess:
        """Returns the way to another object of the bucket, which begins with all that was learned here: the
        credentials, the region, the server's time. Raises OptionError.
        """
        with self._lock:
            other = copy(self)
        other._lock = threading.Lock()
        other.location = replace(self.location, key=key)
        other.address = other._store.address(other.location.bucket, key)
        other._lessons = 0
        return other

    @property
    def kind(self) -> str:
        """The store: "s3" or "oss"."""
        return self._store.kind

    @property
    def store(self) -> Store:
        """Where it is asked now."""
        return self._store

    @property
    def generation(self) -> int:
        """Changes with all that signatures depend on. What a request was signed by is to be remembered with
        it, for `refused`.
        """
        return self._generation

    def signed(
        self,
        method: str,
        *,
        query: Fields = (),
        headers: Fields = (),
        payload: str = UNSIGNED_PAYLOAD,
        key: str | None = None,
    ) -> SignedRequest:
        """Returns a request for the location, or for another `key` of its bucket ("" for the bucket itself).

        Of `headers` are signed: x-amz-*, x-oss-*, Content-*, Range and conditions; all are sent. Never
        blocks. Raises OptionError for what cannot be signed, and CredentialsError before `refresh` has got
        credentials.
        """
        with self._lock:
            store, credentials = self._store, self._credentials
            now = self._clock() + self._correction_s
        bucket = self.location.bucket
        address = store.address(bucket, self.location.key if key is None else key)
        ours = tuple(field for field in headers if field[0].lower().startswith(_SIGNED))
        theirs = tuple(field for field in headers if not field[0].lower().startswith(_SIGNED))
        request = StoreRequest(method, address, tuple(query), ours)
        if self.anonymous:
            made = unsigned(request)
        else:
            if credentials is None:
                raise CredentialsError(f"there are no credentials yet to sign requests to {store.endpoint}")
            theirs = tuple(field for field in theirs if field[0].lower() not in _REPLACED)
            style = style_for(store.kind, store.region)
            made = sign(request, credentials, style, now_epoch_s=now, region=store.region, payload=payload)
        return replace(made, headers=(*theirs, *made.headers))

    def needs_refresh(self) -> bool:
        """Returns whether `refresh` is to be called: there are no credentials yet, they were refused, or they
        are about to expire. The requests that are out may go on meanwhile.
        """
        with self._lock:
            if self._source is None:
                return False
            credentials, now = self._credentials, self._clock() + self._correction_s
            if credentials is None or self._refused is not None:
                return True
            if self._failed_at is not None and now - self._failed_at < WAIT_S:
                return False
            expires = credentials.expires
            ends = self._source.renews and expires is not None and expires <= now + AHEAD_S
            return ends or (self._source.live and now - self._asked_at > LIVE_S)

    @property
    def must_refresh(self) -> bool:
        """True when no request can be signed before `refresh` was called."""
        with self._lock:
            return self._source is not None and (self._credentials is None or self._refused is not None)

    def refresh(self) -> None:
        """Gets credentials; blocks. Raises CredentialsError, also when a store has refused those that there
        are and no others are to be had.
        """
        source = self._source
        if source is None:
            return
        with self._lock:
            refused, now = self._refused, self._clock() + self._correction_s
            self._asked_at = now
        try:
            others = source.refused(refused) if refused is not None else True
            found = source.get(now)
        except CredentialsError:
            with self._lock:
                self._failed_at = now
            raise
        with self._lock:
            self._refused = self._failed_at = None
            if found != self._credentials:
                self._credentials = found
                self._generation += 1
        if not others:
            raise CredentialsError("the store refuses the credentials, and asking again gave the same ones")

    def refused(
        self,
        refusal: Refusal,
        date: str | None = None,
        now_epoch_s: float | None = None,
        *,
        generation: int | None = None,
    ) -> bool:
        """Learns from a refusal; returns whether to sign the request anew and send it once more, after
        `refresh` where `must_refresh` says so. `date` is the answer's Date field, `generation` that by which
        the request was signed: where another request taught the same meanwhile, this one goes again too.

        Learned are the server's time, the region of the bucket, and that the credentials have expired.
        """
        now = self._clock() if now_epoch_s is None else now_epoch_s
        with self._lock:
            if self.anonymous:
                return self._lessons < LESSONS and self._learn_region(refusal)
            if generation is not None and generation != self._generation:
                return True
            if self._refused is not None:
                return True
            if self._lessons >= LESSONS:
                return False
            return (
                self._learn_time(refusal, date, now)
                or self._learn_region(refusal)
                or self._learn_expiry(refusal, now)
            )

    def accepted(self) -> None:
        """Notes that a request was accepted: what was learned holds, and refusals may teach again."""
        self._lessons = 0

    # ---- lessons; the lock is held ----

    def _learn_time(self, refusal: Refusal, date: str | None, now: float) -> bool:
        found = new_correction_s(refusal, date, now, self._correction_s)
        if found is None:
            return False
        self._correction_s = found
        return self._learned()

    def _learn_region(self, refusal: Refusal) -> bool:
        region = other_region(refusal, self._store.region)
        if region is None:
            return False
        if not self.told:
            endpoint = None
        elif refusal.status == 400:
            endpoint = str(self._store.endpoint)
        else:
            return False  # it would have to be asked elsewhere, and was told where
        try:
            store = resolve_store(
                self.kind, endpoint=endpoint, region=region, addressing=self._store.addressing
            )
            store.address(self.location.bucket, self.location.key)
        except OptionError:
            return False
        self._store = store
        return self._learned()

    def _learn_expiry(self, refusal: Refusal, now: float) -> bool:
        credentials = self._credentials
        if credentials is None or self._source is None or not self._source.renews:
            return False
        expires = credentials.expires
        over = expires is not None and expires <= now + self._correction_s
        if refusal.code not in _EXPIRED and not (over and refusal.status in (400, 401, 403)):
            return False
        self._refused = credentials
        self._lessons += 1
        return True

    def _learned(self) -> bool:
        self._lessons += 1
        self._generation += 1
        return True

    def __repr__(self) -> str:
        return f"<StoreAccess {self.location} at {self._store.endpoint}>"


def _of_stores(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns what of the environment may say who asks."""
    names = sorted(name for name in environ if name.startswith(("AWS_", "OSS_", "ALIBABA")))
    return tuple((name, environ[name]) for name in names)


@lru_cache(maxsize=16)
def _source_for(
    kind: str,
    credentials: Any,
    profile: str | None,
    anonymous: bool,
    environ: tuple[tuple[str, str], ...],
) -> CredentialSource | None:
    """Returns one source for all who say the same, so that a thousand transfers ask for a role once."""
    return credential_source(
        kind, credentials=credentials, profile=profile, anonymous=anonymous, environ=dict(environ)
    )

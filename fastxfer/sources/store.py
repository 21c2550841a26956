"""Sources in object stores: an object at s3://bucket/key or oss://bucket/key. Each of its requests is signed
when it is sent.
"""

from __future__ import annotations

from dataclasses import field, replace

from fastxfer._version import __version__
from fastxfer.errors import BadResponseError, OptionError
from fastxfer.options import TransferOptions
from fastxfer.plan.ranges import Span, format_range
from fastxfer.sources.http import origin
from fastxfer.sources.locations import Location, parse_location
from fastxfer.sources.store_access import StoreAccess
from fastxfer.sources.store_request import Fields
from fastxfer.values import dataclass

# What the answers of a store may be but a refusal: the object, a part of it, no such range, another object.
_ANSWERS = (200, 206, 412, 416)
_OF_THE_STORE = {
    # The checksum of the object, where the store keeps one.
    "s3": (("x-amz-checksum-mode", "ENABLED"),),
    # Else a range that ends past the object's end is answered by the whole (OSS API reference, "GetObject").
    "oss": (("x-oss-range-behavior", "standard"),),
}


@dataclass(frozen=True, slots=True)
class StoreSource:
    """One object of a store: that of the access's location, or with a `key` another one of its bucket. `url`
    is where it was asked at first, without what signs it; it has what a driver takes of `http.HttpSource`.
    """

    access: StoreAccess = field(repr=False)
    options: TransferOptions = field(repr=False)
    key: str | None = None
    client_cert: bool = True
    public_only: bool = False
    redirects: int = 0

    as_is = True
    coded = True
    credentials = None

    @classmethod
    def of(cls, url: str, options: TransferOptions, *, given: bool = True) -> StoreSource:
        """Returns the source for a URL as a caller wrote it; without `given` the options about stores are
        those of another store. Raises OptionError and CredentialsError.
        """
        location = parse_location(url.lstrip())
        _check_key(location)
        return cls(StoreAccess.of(location, options, given=given), options)

    def at(self, key: str, options: TransferOptions) -> StoreSource:
        """Returns the source for another object of the bucket, which is asked the same way: what one of them
        learns holds for both. Raises OptionError.
        """
        made = StoreSource(self.access, options, key)
        _check_key(made.location)
        return made

    @property
    def location(self) -> Location:
        """The bucket and the key."""
        location = self.access.location
        return location if self.key is None else Location(location.scheme, location.bucket, self.key)

    @property
    def url(self) -> str:
        """Where it was asked at first: tells it from other objects."""
        if self.key is not None:
            return self.access.store.address(self.access.location.bucket, self.key).url
        return self.access.address.url

    @property
    def home(self) -> tuple[str, str, int]:
        """The origin of the endpoint that is asked now."""
        return origin(self.host_url)

    @property
    def host_url(self) -> str:
        """The endpoint that is asked now: it bears what is asked of all of its buckets, whatever their
        hosts are called.
        """
        return str(self.access.store.endpoint)

    @property
    def display(self) -> str:
        """What it is called: s3://bucket/key."""
        return str(self.location)

    @property
    def generation(self) -> int:
        """What the next request is signed by; see StoreAccess."""
        return self.access.generation

    def asks(self, span: Span | None, if_range: str | None, version: str | None) -> tuple[str, list[str]]:
        """Returns the URL and the header lines of a request that is signed now, for a half-open range or for
        the whole object, of one `version` of it. Raises CredentialsError before there are credentials.
        """
        fields: Fields = ()
        if span is not None:
            fields = (("Range", format_range(*span)),)
            if if_range is not None:
                fields += (("If-Range", if_range),)
        return self._signed("GET", fields, version)

    def asks_about(self, version: str | None) -> tuple[str, list[str]]:
        """Returns the URL and the header lines of a HEAD; see `asks`."""
        return self._signed("HEAD", (), version)

    def _signed(self, method: str, own: Fields, version: str | None) -> tuple[str, list[str]]:
        named = {name.lower() for name, _ in self.options.headers}
        fields = [
            ("User-Agent", f"fastxfer/{__version__}"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            *_OF_THE_STORE[self.access.kind],
            *own,
        ]
        fields = [pair for pair in fields if pair[0].lower() not in named]
        query = (("versionId", version),) if version is not None else ()
        headers = (*fields, *self.options.headers)
        signed = self.access.signed(method, query=query, headers=headers, key=self.key)
        return signed.url, [f"{name}: {value}" if value else f"{name};" for name, value in signed.headers]

    def ready(self) -> None:
        """Gets credentials where there are none yet; may block. Raises CredentialsError."""
        if self.access.must_refresh:
            self.access.refresh()

    def refuses(self, status: int) -> bool:
        """Returns whether an answer's body is a refusal to be read: redirects too, for what is signed for one
        host is not sent to another.
        """
        return status not in _ANSWERS

    def accepted(self) -> None:
        """Notes that an answer brought the object."""
        self.access.accepted()

    def redirected(self, location: str, address: str = "") -> StoreSource:
        """Raises BadResponseError: a signed request goes nowhere else."""
        raise BadResponseError(
            "the store redirects a signed request, which is not followed: give its endpoint"
        )

    def settled(self) -> StoreSource:
        """Returns itself: there are no redirects."""
        return self

    def stranger(self, public_only: bool) -> StoreSource:
        """Returns the source without the caller's certificate and header fields, which are for another."""
        options = replace(self.options, headers=())
        return replace(self, options=options, client_cert=False, public_only=public_only)


def _check_key(location: Location) -> None:
    if not location.key:
        raise OptionError(f"the location names no object: write {location}KEY")

"""What an object that is made by a copy is called, and the fields that it gets."""

from __future__ import annotations

from fastxfer.copy_options import CopyOptions
from fastxfer.names import name_of_url
from fastxfer.ranged_source import Look
from fastxfer.sources.locations import parse_location
from fastxfer.sources.opening import RemoteSource
from fastxfer.sources.schemes import is_location
from fastxfer.sources.store import StoreSource
from fastxfer.store_calls import Pairs

_OF_ANY = ("Content-Type",)
_OF_A_STORE = ("Cache-Control", "Content-Disposition", "Content-Language")
# Of a body on its way, not of what is kept; some stores keep it all the same.
_ON_THE_WAY = ("aws-chunked", "identity")
_META = {"s3": "x-amz-meta-", "oss": "x-oss-meta-"}
_MOST = 2048


def fields_of(source: RemoteSource, look: Look, own: CopyOptions, kind: str) -> Pairs:
    """Returns the fields that the object gets: the caller's, and what the source says of itself."""
    named = {name.lower() for name, _ in own.object_headers}
    found = [(name, look.headers.get(name.lower())) for name in _OF_ANY]
    found.append(("Content-Encoding", _coding(look)))
    if isinstance(source, StoreSource):
        found += [(name, look.headers.get(name.lower())) for name in _OF_A_STORE]
        meta = look.headers.starting(_META[source.access.kind])
        found += [(f"{_META[kind]}{name}", value) for name, value in meta]
    told = ((name, value) for name, value in found if value and _is_field(value))
    return (*own.object_headers, *(each for each in told if each[0].lower() not in named))


def _coding(look: Look) -> str:
    """Returns what the bytes themselves are coded by."""
    codings = (each.strip() for each in (look.headers.get("content-encoding") or "").split(","))
    return ", ".join(each for each in codings if each and each.lower() not in _ON_THE_WAY)


def _is_field(text: str) -> bool:
    return text.isascii() and text.isprintable() and len(text) <= _MOST


def name_for(source: str, target: str) -> str:
    """Returns the name that a target gets which ends with a slash, or names a bucket only. Raises
    OptionError.
    """
    location = parse_location(target)
    if location.key and not location.key.endswith("/"):
        return location.key.rpartition("/")[2]
    if is_location(source.strip()):
        return parse_location(source.strip()).key.rpartition("/")[2]
    return name_of_url(source.strip())

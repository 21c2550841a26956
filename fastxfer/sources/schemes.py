"""Which URLs are of an object store; what else is known of those is in locations.py."""

from __future__ import annotations

STORES = ("s3", "oss")
ADDRESSING = ("auto", "path", "virtual", "cname")
_BEGINNINGS = tuple(f"{scheme}://" for scheme in STORES)


def is_location(text: str) -> bool:
    """Returns whether a URL is one of an object store, good or bad."""
    return text[:6].lower().startswith(_BEGINNINGS)


def is_http(text: str) -> bool:
    """Returns whether a text is meant as a URL of an HTTP server, good or bad."""
    return "://" in text and not is_location(text.strip())

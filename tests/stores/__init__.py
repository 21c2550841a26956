"""Transfers from and to real object stores."""

from __future__ import annotations

from typing import Any

from tests.servers.store import Store


def url(store: Store, key: str) -> str:
    """Returns where an object is, as a caller writes it."""
    return f"{'oss' if store.kind == 'oss' else 's3'}://{store.bucket}/{key}"


def known(store: Store) -> dict[str, Any]:
    """Returns the options that a caller says of a store."""
    return {
        "endpoint": store.endpoint,
        "region": store.region,
        "credentials": f"{store.access_key}:{store.secret_key}",
    }

"""What the tests of uploads share: files, options for a store of the tests, and looks at what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastxfer
from fastxfer._native.checksum import crc64nvme, crc64xz
from fastxfer.put_results import PutResult
from tests.servers.objects import make_bytes
from tests.servers.store import Store

MIB = 1 << 20
S3_PART = 5 * MIB
OSS_PART = 100 << 10


def options(store: Store, **more: Any) -> dict[str, Any]:
    """Returns the options that say where a store of the tests is, and who asks."""
    given = {
        "endpoint": store.endpoint,
        "region": store.region,
        "credentials": f"{store.access_key}:{store.secret_key}",
        "stall_timeout": 20,
    }
    return {**given, **more}


def scheme(store: Store) -> str:
    """Returns "s3" or "oss"."""
    return "oss" if store.kind == "oss" else "s3"


def least(store: Store) -> int:
    """Returns the least size of a part."""
    return OSS_PART if store.kind == "oss" else S3_PART


def url(store: Store, key: str = "o") -> str:
    """Returns the URL of an object of the store's bucket."""
    return f"{scheme(store)}://{store.bucket}/{key}"


def put(store: Store, path: Path, key: str = "o", **more: Any) -> PutResult:
    """Uploads a file, in parts of the least size."""
    given = {"part_size": least(store), **options(store), **more}
    return fastxfer.put(path, url(store, key), **given)


def make_file(directory: Path, size: int, *, seed: int = 1, name: str = "data.bin") -> tuple[Path, bytes]:
    """Makes a file of random bytes; returns it with them."""
    data = make_bytes(size, seed=seed)
    path = directory / name
    path.write_bytes(data)
    return path, data


def crc_of(store: Store, data: bytes) -> dict[str, str]:
    """Returns the checksum that a PutResult has to have."""
    if store.kind == "oss":
        return {"crc64xz": f"{crc64xz(data):016x}"}
    return {"crc64nvme": f"{crc64nvme(data):016x}"}


def left_beside(path: Path) -> list[str]:
    """Returns what there is in a file's directory beside it."""
    return sorted(each.name for each in path.parent.iterdir() if each != path)

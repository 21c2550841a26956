"""What the tests of sets that go to object stores share: files behind an nginx, runs, looks at buckets."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import fastxfer
from fastxfer.dataset.report import MirrorReport
from tests.servers.nginx import Nginx
from tests.servers.objects import make_bytes
from tests.servers.proxy import Proxy
from tests.servers.store import Store
from tests.stores.putting import options, url

NAMES = [
    "plain", "with space", "per%cent", "plus+", "ü ö", "日本", "quo'te", "am&p=x", "ha#sh", "que?stion",
    "@(1)!", "-dash",
]  # fmt: skip
FOLDERS = ["", "sub/", "sub/deeper of it/", "d%C3%A9/", "日本/"]
ODD = {
    f"{FOLDERS[n % len(FOLDERS)]}{NAMES[n % len(NAMES)]} {n}.bin": make_bytes(n * 7 % 3000, n)
    for n in range(300)
}


class Tree:
    """Files in a folder of the document root, and the indexes of it."""

    def __init__(self, root: Path, name: str, nginx: Nginx) -> None:
        self.folder, self.name, self.nginx = root / name, name, nginx
        self.folder.mkdir()
        os.chmod(self.folder, 0o755)

    @property
    def url(self) -> str:
        """An index that tells sizes and times exactly."""
        return self.nginx.url(self.name, prefix="index-json") + "/"

    def write(self, files: dict[str, bytes]) -> None:
        """Writes files, in folders that anybody may read."""
        for name, data in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def asked(self) -> list[str]:
        """Returns the paths of the objects that were asked for since `forget`."""
        return [each.uri for each in self.nginx.requests() if not each.uri.endswith("/")]


def to(store: Store, source: str, state: Path, prefix: str = "to/here", **more: Any) -> MirrorReport:
    """Mirrors to a prefix of a store's bucket."""
    given = {**options(store), "state_dir": state, "jobs": 4, **more}
    return fastxfer.mirror(source, url(store, prefix), **given)


def objects_of(store: Store, prefix: str = "to/here/") -> dict[str, bytes]:
    """Returns what the bucket has below a prefix, and that it has nothing else."""
    keys = store.keys()
    assert all(key.startswith(prefix) for key in keys)
    return {key.removeprefix(prefix): store.get(key) for key in keys}


def operations(proxy: Proxy) -> Counter[str]:
    return Counter(each.call.operation for each in proxy.calls())


def counts(report: MirrorReport) -> tuple[int, int, int, int]:
    """Returns how many were fetched, the same, failed and deleted."""
    return report.fetched, report.same + report.skipped, report.failed, report.deleted


def filled(store: Store, files: dict[str, bytes], prefix: str = "from/") -> str:
    """Puts objects into a bucket; returns the URL of the prefix."""
    for name, data in files.items():
        store.put(prefix + name, data)
    return url(store, prefix)

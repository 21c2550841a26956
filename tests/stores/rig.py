"""A store behind one proxy that stays for all the runs of a test: where an upload goes is a part of what it
is, so it goes on only there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import StoreServerError
from tests.servers.gateway import Call
from tests.servers.proxy import INTERNAL_ERROR, Harm, Proxy
from tests.servers.store import Store
from tests.stores.putting import OSS_PART, left_beside, put

PARTS = 6
BAD_PART = 4


def nothing(call: Call, number: int) -> Harm | None:
    """Does no harm."""
    return None


def part_fails(call: Call, number: int) -> Harm | None:
    """Has one part fail for good."""
    if call.operation == "UploadPart" and call.part == BAD_PART:
        return Harm(status=500, body=INTERNAL_ERROR)
    return None


class Rig:
    """A context manager: `harm` may be set anew between runs."""

    def __init__(self, store: Store) -> None:
        self.harm: Callable[[Call, int], Harm | None] = nothing
        self.truth = store
        self._proxy = Proxy(store, self._choose)
        self.store = self._proxy.store

    def _choose(self, call: Call, number: int) -> Harm | None:
        return self.harm(call, number)

    def __enter__(self) -> Rig:
        self._proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.__exit__(kind, error, trace)

    def put(self, path: Path, **more: Any) -> fastxfer.PutResult:
        """Uploads a file in parts of 100 KiB."""
        return put(self.store, path, **{"part_size": OSS_PART, "connections": 2, **more})

    def put_right(self, path: Path, **more: Any) -> fastxfer.PutResult:
        """Uploads a file; it must be there at the end, and nothing else be left."""
        result = self.put(path, **more)
        assert self.truth.get("o") == path.read_bytes()
        assert left_beside(path) == []
        return result

    def begin(self, path: Path) -> str:
        """Sends all parts but one and gives up; returns the id of the upload. Forgets what was asked."""
        self.harm = part_fails
        with pytest.raises(StoreServerError) as failed:
            self.put(path, retries=0)
        assert failed.value.kept is not None and "run it again to go on" in failed.value.kept
        self.harm = nothing
        self._proxy.forget()
        ((_, upload_id),) = self.truth.list_uploads()
        return upload_id

    def parts_sent(self) -> list[int]:
        """Returns the numbers of the parts that were sent since `begin`, sorted."""
        return sorted(each.call.part for each in self._proxy.calls("UploadPart"))

    def operations(self) -> list[str]:
        """Returns what was asked for since `begin` and has ended, in the order of the beginnings."""
        calls = sorted(self._proxy.calls(), key=lambda each: each.request.number)
        return [each.call.operation for each in calls]

    def listed(self) -> list[str]:
        """Returns the ids of the uploads that the store has."""
        return [upload_id for _, upload_id in self.truth.list_uploads()]


def checkpoint_of(path: Path) -> Path:
    """Returns the one checkpoint beside a file."""
    (found,) = path.parent.glob(".*.fxput")
    return found

"""What the tests of copies share: a scripted source before a real store behind one proxy, and options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import fastxfer
from fastxfer.put_results import CopyResult
from tests.servers.gateway import Call
from tests.servers.objects import make_bytes
from tests.servers.proxy import Harm, Proxy
from tests.servers.raw import Connection, RangeHandler, RawServer, Request
from tests.servers.store import Store
from tests.stores.putting import OSS_PART, least, options, url
from tests.stores.rig import BAD_PART, PARTS, nothing, part_fails

DATA = make_bytes(PARTS * OSS_PART - 5, 1)
OTHER = make_bytes(PARTS * OSS_PART - 5, 2)


def of_source(store: Store) -> dict[str, Any]:
    """Returns the options that say where a store is that is read from."""
    return {
        "source_endpoint": store.endpoint,
        "source_region": store.region,
        "source_credentials": f"{store.access_key}:{store.secret_key}",
    }


def copy(source: str, store: Store, key: str = "o", **more: Any) -> CopyResult:
    """Copies to a store, in parts of the least size; nothing is kept in the user's own directory."""
    given = {"part_size": least(store), **options(store), **more}
    assert "checkpoint_dir" in given
    return fastxfer.copy(source, url(store, key), **given)


class CopyRig:
    """A context manager: `source` is what is copied, `harm` what the store's proxy does; both may be set anew
    between runs. Parts have 100 KiB.
    """

    def __init__(self, store: Store, checkpoints: Path) -> None:
        self.harm: Callable[[Call, int], Harm | None] = nothing
        self.source = RangeHandler(DATA)
        self.asked: list[Request] = []
        """What the source was asked for."""
        self.truth = store
        self.checkpoints = checkpoints
        self._server = RawServer(self._answer)
        self.proxy = Proxy(store, self._choose)
        self.store = self.proxy.store

    def _answer(self, request: Request, connection: Connection) -> None:
        self.asked.append(request)
        self.source(request, connection)

    def _choose(self, call: Call, number: int) -> Harm | None:
        return self.harm(call, number)

    def __enter__(self) -> CopyRig:
        self._server.__enter__()
        self.proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.proxy.__exit__(kind, error, trace)
        self._server.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Where the source is."""
        return self._server.url("/o?token=secret")

    def copy(self, **more: Any) -> CopyResult:
        """Copies the source to o."""
        given = {"connections": 2, "part_size": OSS_PART, "checkpoint_dir": self.checkpoints, **more}
        return copy(self.url, self.store, **given)

    def copy_right(self, **more: Any) -> CopyResult:
        """Copies; it must be there at the end, and nothing else be left."""
        result = self.copy(**more)
        assert self.truth.get("o") == self.source.content.data
        assert self.left() == [] and self.listed() == []
        return result

    def begin(self) -> str:
        """Sends all parts but one and gives up; returns the id of the upload. Forgets what was asked."""
        self.harm = part_fails
        try:
            self.copy(retries=0)
        except fastxfer.StoreServerError as failed:
            assert failed.kept is not None and "run it again to go on" in failed.kept
        else:
            raise AssertionError(f"part {BAD_PART} was taken")
        self.harm = nothing
        self.proxy.forget()
        ((_, upload_id),) = self.truth.list_uploads()
        return upload_id

    def parts_sent(self) -> list[int]:
        """Returns the numbers of the parts that were sent since `begin`, sorted."""
        return sorted(each.call.part for each in self.proxy.calls("UploadPart"))

    def operations(self) -> list[str]:
        """Returns what the store was asked for since `begin`, in the order of the ends."""
        return [each.call.operation for each in self.proxy.calls()]

    def listed(self) -> list[str]:
        """Returns the ids of the uploads that the store has."""
        return [upload_id for _, upload_id in self.truth.list_uploads()]

    def left(self) -> list[str]:
        """Returns what is in the directory of checkpoints."""
        return sorted(each.name for each in self.checkpoints.iterdir()) if self.checkpoints.exists() else []

    @property
    def checkpoint(self) -> Path:
        """The one checkpoint that is there."""
        (found,) = self.checkpoints.glob(".*.fxput")
        return found

"""The public calls as coroutines: results, errors and cancellation, and a loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

import fastxfer
from fastxfer.progress.snapshot import Progress
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, make_bytes
from tests.servers.raw import Fault, RangeHandler, RawServer
from tests.servers.seaweedfs import SeaweedFs
from tests.stores.putting import options, url

MIB = 1 << 20
DEADLINE_S = 60.0
_R = TypeVar("_R")


def run(task: Coroutine[Any, Any, _R]) -> _R:
    """Runs a coroutine in a loop of its own, with a deadline."""
    return asyncio.run(asyncio.wait_for(task, DEADLINE_S))


async def cancelled_when(task: asyncio.Task[Any], ready: threading.Event) -> None:
    """Cancels a task when something has happened on another thread; it has ended then."""
    assert await asyncio.to_thread(ready.wait, DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_hundred_at_once_and_the_loop_goes_on(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    made = [objects.make(200_000 + n, n) for n in range(100)]

    async def all_of_them() -> tuple[list[fastxfer.FetchResult], int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        heart = asyncio.create_task(beat())
        before = threading.active_count()
        tasks = [fastxfer.afetch(nginx.url(each.name), tmp_path / each.name, 2) for each in made]
        results = await asyncio.gather(*tasks)
        heart.cancel()
        assert threading.active_count() - before < 100
        return results, beats

    results, beats = run(all_of_them())
    assert [result.size for result in results] == [each.size for each in made] and beats > 100
    for each in made:
        assert hashlib.sha256((tmp_path / each.name).read_bytes()).hexdigest() == each.sha256


def test_cancelling_keeps_what_came_and_a_later_fetch_goes_on(tmp_path: Path) -> None:
    data = make_bytes(8 * MIB, 1)
    handler = RangeHandler(data, faults=lambda request: Fault(stall_at=3 * MIB))
    seen: list[Progress] = []
    came = threading.Event()

    def progress(now: Progress) -> None:
        seen.append(now)
        if now.done >= 2 * MIB:
            came.set()

    async def begin() -> None:
        task = asyncio.create_task(
            fastxfer.afetch(server.url(), tmp_path / "o", 1, progress=progress, stall_timeout=DEADLINE_S)
        )
        await cancelled_when(task, came)
        assert (tmp_path / "o.part").exists() and not (tmp_path / "o").exists()
        assert seen[-1].state == "cancelled", "its end was waited for"

    with RawServer(handler) as server:
        run(begin())
        handler.faults = lambda request: None
        result = run(fastxfer.afetch(server.url(), tmp_path / "o", connections=1))
    assert result.resumed >= 2 * MIB and (tmp_path / "o").read_bytes() == data


def test_cancelling_before_it_has_begun_leaves_nothing_running(tmp_path: Path) -> None:
    with RawServer(RangeHandler(b"x" * MIB, faults=lambda request: Fault(stall_at=0))) as server:

        async def begin() -> None:
            task = asyncio.create_task(fastxfer.afetch(server.url(), tmp_path / "o"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(begin())
    assert not [each for each in threading.enumerate() if each.name == "fastxfer-disk"]
    run(_fetch_now(tmp_path / "o"))


async def _fetch_now(path: Path) -> None:
    with RawServer(RangeHandler(b"y" * MIB)) as server:
        assert (await fastxfer.afetch(server.url(), path, resume=False)).size == MIB


def test_errors_pass_through(nginx: Nginx, tmp_path: Path) -> None:
    with pytest.raises(fastxfer.NotFoundError):
        run(fastxfer.afetch(nginx.url("missing"), tmp_path / "o"))
    with pytest.raises(fastxfer.OptionError):
        run(fastxfer.afetch(nginx.url("missing"), tmp_path / "o", connections=0))
    with pytest.raises(TypeError):
        run(fastxfer.aput(tmp_path, "s3://b/k", nothing=1))
    with pytest.raises(fastxfer.NotFoundError):
        run(fastxfer.aprobe(nginx.url("missing")))


def test_a_paused_target_stays_so(tmp_path: Path) -> None:
    data = make_bytes(4 * MIB, 1)
    handler = RangeHandler(data, faults=lambda request: Fault(stall_at=2 * MIB))
    came = threading.Event()
    with RawServer(handler) as server:
        transfer = fastxfer.start(
            server.url(), tmp_path / "o", 1, progress=lambda now: came.set() if now.done > MIB else None
        )
        assert came.wait(DEADLINE_S)
        transfer.pause()
        transfer.cancel()
        with pytest.raises(fastxfer.InterruptedTransferError):
            transfer.wait(DEADLINE_S)
        handler.faults = lambda request: None
        with pytest.raises(fastxfer.PausedError):
            run(fastxfer.afetch(server.url(), tmp_path / "o"))
        assert run(fastxfer.afetch(server.url(), tmp_path / "o", unpause=True)).size == len(data)
    assert (tmp_path / "o").read_bytes() == data


def test_probe_and_verify_and_their_ends(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    made = objects.make(3 * MIB, 9)
    seen: list[Progress] = []

    async def all_of_them() -> None:
        told = await fastxfer.aprobe(nginx.url(made.name))
        assert told.size == made.size and told.accepts_ranges
        out = tmp_path / "o"
        await fastxfer.afetch(nginx.url(made.name), out, keep_ledger=True)
        assert (await fastxfer.averify(out, progress=seen.append)).ok
        out.write_bytes(b"x" + out.read_bytes()[1:])
        assert not (await fastxfer.averify(out)).ok
        result = await fastxfer.averify(out, repair=nginx.url(made.name))
        assert result.ok and result.repaired > 0
        assert (await fastxfer.averify(out, f"sha256:{made.sha256}")).verified == "checksum"

    run(all_of_them())
    assert seen[-1].state == "done"


def test_a_repair_that_is_cancelled_is_gone_on_with(tmp_path: Path) -> None:
    data, out = make_bytes(4 * MIB, 3), tmp_path / "o"
    handler = RangeHandler(data)
    asked = threading.Event()

    def stall(request: Any) -> Fault | None:
        if request.range in ("", "bytes=0-0"):
            return None
        asked.set()
        return Fault(stall_at=0)

    with RawServer(handler) as server:
        run(fastxfer.afetch(server.url(), out, keep_ledger=True))
        out.write_bytes(b"x" + data[1:])
        handler.faults = stall

        async def begin() -> None:
            await cancelled_when(asyncio.create_task(fastxfer.averify(out, repair=server.url())), asked)

        run(begin())
        handler.faults = lambda request: None
        run(fastxfer.afetch(server.url(), out))
    assert out.read_bytes() == data


def test_up_and_across_and_all_of_a_folder(seaweedfs: SeaweedFs, nginx: Nginx, tmp_path: Path) -> None:
    store = seaweedfs.store().make_bucket()
    data = make_bytes(300_000, 4)
    (tmp_path / "data").write_bytes(data)
    listing = tmp_path / "SHA256SUMS"
    seen: list[Any] = []

    async def all_of_them() -> None:
        put = await fastxfer.aput(tmp_path / "data", url(store), **options(store), progress=seen.append)
        assert put.size == len(data) and store.get("o") == data
        copied = await fastxfer.acopy(
            url(store), url(store, "p"), **options(store), checkpoint_dir=tmp_path / "kept"
        )
        assert copied.size == len(data) and store.get("p") == data
        (nginx.root / "amirror").mkdir(exist_ok=True)
        (nginx.root / "amirror" / "data").write_bytes(data)
        listing.write_text(f"{hashlib.sha256(data).hexdigest()}  data\n")
        report = await fastxfer.amirror(
            str(listing), tmp_path / "set", base_url=nginx.url("amirror/"), progress=seen.append
        )
        assert report.ok and (tmp_path / "set" / "data").read_bytes() == data

    run(all_of_them())
    assert seen


def test_an_upload_that_is_cancelled_is_gone_on_with(seaweedfs: SeaweedFs, tmp_path: Path) -> None:
    store = seaweedfs.store().make_bucket()
    data = make_bytes(80 * MIB, 5)
    (tmp_path / "data").write_bytes(data)
    sent = threading.Event()

    async def begin() -> None:
        given = {**options(store), "part_size": "5M", "connections": 1}
        task = asyncio.create_task(
            fastxfer.aput(
                tmp_path / "data", url(store), **given, progress=lambda now: sent.set() if now.done else None
            )
        )
        await cancelled_when(task, sent)
        assert len(store.list_uploads()) == 1
        assert (await fastxfer.aput(tmp_path / "data", url(store), **given)).size == len(data)

    run(begin())
    assert store.get("o") == data


def test_they_are_what_they_say() -> None:
    for name in ("afetch", "aput", "acopy", "amirror", "aprobe", "averify"):
        made, plain = getattr(fastxfer, name), getattr(fastxfer, name[1:])
        assert inspect.iscoroutinefunction(made) and made.__name__ == name and made.__doc__
        assert list(inspect.signature(made).parameters) == list(inspect.signature(plain).parameters)

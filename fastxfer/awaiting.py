"""The public calls as coroutines: the same arguments, results and errors, and the event loop is not blocked.

A transfer needs no thread of the loop's while it runs: it has its own, or the engine's, and its end wakes
the loop. What may block before and after (files that options name, a Metalink) runs in the loop's executor,
and so do `aprobe` and `averify`. A task that is cancelled cancels its transfer, resumable, and waits for its
end: then the target is free, and a later call goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar

from fastxfer import api
from fastxfer.api import Path, ProgressOption
from fastxfer.background import Background
from fastxfer.copying import begin_copy, copy
from fastxfer.errors import PausedError
from fastxfer.latch import Latch
from fastxfer.mirroring import CONNECTIONS, begin_mirror, mirror, teller
from fastxfer.probe_result import RemoteObject
from fastxfer.progress.reporter import report
from fastxfer.put_results import CopyResult, PutResult
from fastxfer.results import FetchResult
from fastxfer.uploading import begin_upload, put

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class _Ride(Generic[_R]):
    """What runs in the background. `halts` is set when `wait` has little to wait for any more, `over` at its
    end; `wait` returns the result or raises the error.
    """

    halts: Latch
    over: Latch
    cancel: Callable[[], object]
    wait: Callable[[], _R]


def _as_coroutine(
    call: Callable[_P, _R], begin: Callable[..., _Ride[Any]]
) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Returns the coroutine function of a public call; `begin` takes its arguments and begins."""

    @wraps(call)
    async def awaited(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        result: _R = await _to_the_end(partial(begin, *args, **kwargs))
        return result

    awaited.__name__ = awaited.__qualname__ = f"a{call.__name__}"
    awaited.__module__ = __name__
    told = f"As `{call.__name__}`, in an event loop that goes on meanwhile. Cancelled, it ends resumable."
    awaited.__doc__ = f"{told}\n\n    {call.__doc__}"
    return awaited


async def _to_the_end(begin: Callable[[], _Ride[_R]]) -> _R:
    loop = asyncio.get_running_loop()
    beginning = loop.run_in_executor(None, begin)
    try:
        ride = await asyncio.shield(beginning)
        await _set(ride.halts)
    except asyncio.CancelledError:
        await _surely(beginning)
        if beginning.exception() is None:
            ride = beginning.result()
            ride.cancel()
            await _surely(_set(ride.over))
            await _surely(loop.run_in_executor(None, ride.wait))
        raise
    return await loop.run_in_executor(None, ride.wait)


def _set(latch: Latch) -> asyncio.Future[None]:
    """Returns a future that is done when a latch is set."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    def call() -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(wake)

    latch.then(call)
    return future


async def _surely(future: asyncio.Future[Any]) -> None:
    """Waits until it is done, however it ends, and however often the task is cancelled."""
    while not future.done():
        with suppress(asyncio.CancelledError, Exception):
            await asyncio.shield(future)
    if not future.cancelled():
        future.exception()  # it is known


# ---- those that run in the background ----


def _begin_fetch(*args: Any, **options: Any) -> _Ride[FetchResult]:
    transfer = api.start(*args, **options)
    download = transfer._download

    def wait() -> FetchResult:
        try:
            return transfer.wait()
        except PausedError:
            transfer._stop()
            raise

    return _Ride(download.halted, download.over, transfer.cancel, wait)


def _of(running: Background[_R], progress: Any, stack: ExitStack | None = None) -> _Ride[_R]:
    reporter = report(running, progress) if progress else None

    def wait() -> _R:
        with stack or ExitStack():
            try:
                return running.wait()
            finally:
                if reporter is not None:
                    reporter.join()

    return _Ride(running.over, running.over, running.cancel, wait)


def _begin_put(path: Path, url: str, *, progress: ProgressOption = None, **options: Any) -> _Ride[PutResult]:
    return _of(begin_upload(path, url, **options), progress)


def _begin_copy(
    src_url: str, dst_url: str, *, progress: ProgressOption = None, **options: Any
) -> _Ride[CopyResult]:
    return _of(begin_copy(src_url, dst_url, **options), progress)


def _begin_mirror(
    source: str, dest: Path, *, connections: int = CONNECTIONS, progress: Any = None, **options: Any
) -> _Ride[Any]:
    running, stack = begin_mirror(source, dest, connections=connections, **options), ExitStack()
    return _of(running, teller(running, progress, stack), stack)


afetch = _as_coroutine(api.fetch, _begin_fetch)
aput = _as_coroutine(put, _begin_put)
acopy = _as_coroutine(copy, _begin_copy)
amirror = _as_coroutine(mirror, _begin_mirror)


# ---- those that are calls ----


async def aprobe(url: str, **options: Any) -> RemoteObject:
    """As `probe`, in an event loop that goes on meanwhile. Cancelled, its request ends by itself."""
    return await asyncio.to_thread(api.probe, url, **options)


@wraps(api.verify, assigned=())
async def averify(path: Path, *args: Any, progress: ProgressOption = None, **options: Any) -> Any:
    """As `verify`, in an event loop that goes on meanwhile. Cancelled, it stops reading; a repair can be gone
    on with.
    """
    loop = asyncio.get_running_loop()
    verification = await asyncio.to_thread(api.make_verification, path, *args, **options)
    running = loop.run_in_executor(None, api.run_verification, verification, progress)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        verification.cancel()
        await _surely(running)
        raise

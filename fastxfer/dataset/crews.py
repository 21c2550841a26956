"""Who runs units: the workers of a Dask cluster, or those of any executor of `concurrent.futures`.

A crew runs units and tells the end of each to `ended`, on any thread. What it hands out for a unit is a
future; what came of it `result` says: Gone where the worker died with it and it is to be handed in again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from contextlib import suppress
from pickle import PicklingError
from typing import Any, Protocol

from fastxfer.dataset.units import Unit, run, run_leased
from fastxfer.errors import FastxferError, NetworkError, OptionError

CONNECT_S = 30.0
RESULT_S = 30.0
AHEAD = 2
"""Units a worker has, so that it has the next one when one ends."""


class Gone(Exception):
    """The worker is gone, and the unit with it."""


class Crew(Protocol):
    """See the module."""

    def begin(self, ended: Callable[[Any], object]) -> None:
        """Gets ready. Raises FastxferError."""
        ...

    @property
    def workers(self) -> int:
        """How many units are run at once."""
        ...

    def most(self, cap: int) -> int:
        """Returns how many units may be handed in at once, where a host may be asked `cap` at once."""
        ...

    def part(self, cap: int) -> int:
        """Returns how many of the `cap` requests one unit may have out."""
        ...

    def submit(self, unit: Unit, name: str) -> Any:
        """Hands a unit in; returns its future. The name tells nothing of it."""
        ...

    def result(self, future: Any) -> Any:
        """Returns what came of a unit that has ended. Raises Gone, and FastxferError where none can run."""
        ...

    def look(self, futures: Collection[Any]) -> list[Any]:
        """Called about once a second: returns those that will not end. Raises FastxferError where all is
        lost.
        """
        ...

    def close(self, futures: Collection[Any]) -> None:
        """Lets go of all; units that have not begun are not."""
        ...


class ExecutorCrew:
    """The workers of an executor, which stays its owner's."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._ended: Callable[[Any], object] = lambda future: None

    def begin(self, ended: Callable[[Any], object]) -> None:
        """See Crew."""
        self._ended = ended

    @property
    def workers(self) -> int:
        """See Crew."""
        most = getattr(self._executor, "_max_workers", None)
        return most if isinstance(most, int) and most > 0 else os.cpu_count() or 1

    def most(self, cap: int) -> int:
        """See Crew. A unit has one connection at least, and nobody but this holds the cap."""
        return cap if cap < self.workers else AHEAD * self.workers

    def part(self, cap: int) -> int:
        """See Crew."""
        return max(1, cap // self.workers)

    def submit(self, unit: Unit, name: str) -> Any:
        """See Crew."""
        try:
            future = self._executor.submit(run, unit)
        except BrokenExecutor as error:
            raise _broken() from error
        except RuntimeError as error:
            raise FastxferError(f"the executor takes no more work: {error}") from error
        future.add_done_callback(self._ended)
        return future

    def result(self, future: Any) -> Any:
        """See Crew."""
        try:
            return future.result()
        except BrokenExecutor as error:
            raise _broken() from error
        except CancelledError as error:
            raise FastxferError("the executor was shut down; run it again with another one") from error
        except (PicklingError, AttributeError, TypeError) as error:
            raise _cannot_travel(error) from error

    def look(self, futures: Collection[Any]) -> list[Any]:
        """See Crew."""
        return []

    def close(self, futures: Collection[Any]) -> None:
        """See Crew."""
        for future in futures:
            future.cancel()


class DaskCrew:
    """The workers of a Dask cluster: of a `Client`, of an address, or "local" for a process a core here."""

    def __init__(self, cluster: Any) -> None:
        try:
            import distributed
        except ImportError as error:
            raise OptionError("a cluster of Dask needs its package: pip install 'fastxfer[dask]'") from error
        self._dask: Any = distributed
        closed = getattr(distributed.client, "ClosedClientError", OSError)
        self._unreachable = (OSError, TimeoutError, CancelledError, closed)
        self._given = cluster
        self._client: Any = None
        self._own: list[Any] = []
        self._ended: Callable[[Any], object] = lambda future: None
        self._workers = 0
        self._alone_looks = 0

    def begin(self, ended: Callable[[Any], object]) -> None:
        """See Crew."""
        self._ended = ended
        if isinstance(self._given, self._dask.Client):
            self._client = self._given
        else:
            self._client = self._client_of(self._address())
            self._own.append(self._client)
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_S)
        except (TimeoutError, OSError) as error:
            raise NetworkError(f"the cluster has no worker after {CONNECT_S:g} s") from error
        self._count()

    def _address(self) -> Any:
        if self._given != "local":
            return self._given
        cluster = self._dask.LocalCluster(
            n_workers=os.cpu_count() or 1,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # without one, its port is that of any other cluster here
            silence_logs="CRITICAL",
        )
        self._own.append(cluster)
        return cluster

    def _client_of(self, address: Any) -> Any:
        try:
            return self._dask.Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise NetworkError(f"no Dask scheduler answers at {address}: {error}") from error

    def _count(self) -> None:
        try:
            self._workers = sum(self._client.nthreads().values())
        except self._unreachable:
            self._workers = 0

    @property
    def workers(self) -> int:
        """See Crew."""
        return max(1, self._workers)

    def most(self, cap: int) -> int:
        """See Crew. The leases hold the cap."""
        return AHEAD * self.workers

    def part(self, cap: int) -> int:
        """See Crew. There may be fewer leases than are asked for."""
        return -(-cap // self.workers)

    def submit(self, unit: Unit, name: str) -> Any:
        """See Crew."""
        self._check_connected()
        future = self._client.submit(run_leased, unit, key=name, pure=False)
        future.add_done_callback(self._ended)
        return future

    def result(self, future: Any) -> Any:
        """See Crew."""
        if future.status == "finished":
            try:
                return future.result(timeout=RESULT_S)
            except self._unreachable as error:
                raise Gone from error
        if future.status != "error":
            raise Gone
        failed = future.exception(timeout=RESULT_S)
        if isinstance(failed, self._dask.KilledWorker):
            raise Gone from failed
        if isinstance(failed, ImportError | AttributeError):
            raise FastxferError(
                f"a worker cannot run it ({failed}): the same fastxfer has to be installed on all of them"
            ) from failed
        raise _cannot_travel(failed) from failed

    def look(self, futures: Collection[Any]) -> list[Any]:
        """See Crew."""
        self._check_connected()
        self._count()
        self._alone_looks = 0 if self._workers else self._alone_looks + 1
        if self._alone_looks > CONNECT_S:
            raise NetworkError(f"the cluster has had no worker for {CONNECT_S:g} s; run it again to go on")
        return [future for future in futures if future.status in ("lost", "cancelled")]

    def _check_connected(self) -> None:
        if not self._connected:
            raise NetworkError("the connection to the Dask scheduler is lost; run it again to go on")

    @property
    def _connected(self) -> bool:
        return self._client.status in ("running", "connecting")

    def close(self, futures: Collection[Any]) -> None:
        """See Crew."""
        if self._client is not None and futures and self._connected:
            with suppress(*self._unreachable):
                self._client.cancel(list(futures))
        while self._own:
            with suppress(*self._unreachable):
                self._own.pop().close()


def crew_for(cluster: Any) -> Crew:
    """Returns who runs units for what a caller gave. Raises OptionError."""
    if isinstance(cluster, Executor):
        return ExecutorCrew(cluster)
    if isinstance(cluster, str) and cluster != "local" and "://" not in cluster:
        raise OptionError(
            f"option dask: {cluster!r} is neither local nor an address, such as tcp://HOST:8786"
        )
    return DaskCrew(cluster)


def _broken() -> FastxferError:
    return FastxferError(
        "a worker of the executor died, and with it the executor: run it again with a new one, to go on"
    )


def _cannot_travel(error: BaseException) -> OptionError:
    return OptionError(
        f"a unit cannot be sent to a worker ({type(error).__name__}): an option cannot be pickled"
    )

"""The engine's loop: libcurl's socket_action over epoll, with timers and a wake-up descriptor.

One daemon thread a process, started on first use and shared by all transfers. `CurlMulti.select` is not
used: it sits on select(2), which is wrong past 1,024 descriptors and cannot be woken. libcurl tells which
sockets to watch (M_SOCKETFUNCTION) and when it wants to be called (M_TIMERFUNCTION); other threads hand work
in with `call_soon`, which wakes the loop through a pipe.

libcurl must not be entered again from inside its callbacks, so a listener's `head` only sets the writer's
mode; everything else it wants goes through `call_soon` and runs after libcurl has returned.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pycurl

from fastxfer._native.polling import Deadline, Watch
from fastxfer.engine.ahead import Ahead
from fastxfer.engine.request import Connection, Exchange, Listener, Request
from fastxfer.engine.translate import translate
from fastxfer.errors import FastxferError, InterruptedTransferError, TransferTimeoutError
from fastxfer.plan.ahead import AFTER_S

Call = Callable[[], object]

KEPT_CONNECTIONS = 1024
_READABLE, _IN = select.EPOLLIN, pycurl.CSELECT_IN


class Timer:
    """A call that will be made; `cancel` unmakes it."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class _Multi:
    """One libcurl multi handle and its cache of connections, whose sockets the engine's loop watches.

    There is one for each HTTP version asked for: libcurl would take a kept HTTP/1.1 connection for a request
    that asks for HTTP/2.
    """

    def __init__(self, poll: int, watched: dict[int, Any], registered: dict[int, int]) -> None:
        self.deadline = Deadline()
        self.handle = pycurl.CurlMulti()
        # Bound once: pycurl looks its methods up anew, and slowly, each time.
        self.add, self.remove = self.handle.add_handle, self.handle.remove_handle
        self._socket_action, self._info_read = self.handle.socket_action, self.handle.info_read
        self.handle.setopt(pycurl.M_SOCKETFUNCTION, Watch(poll, watched, registered, self))
        self.handle.setopt(pycurl.M_TIMERFUNCTION, self.deadline)
        self.handle.setopt(pycurl.M_MAXCONNECTS, KEPT_CONNECTIONS)
        self.handle.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)

    def act(self, fd: int, events: int) -> None:
        """Lets libcurl work on a socket that is ready."""
        if events == _READABLE:
            mask = _IN
        else:
            # What went wrong (EPOLLERR, EPOLLHUP) is found out by reading or writing.
            mask = _IN if events & ~select.EPOLLOUT else 0
            mask |= pycurl.CSELECT_OUT if events & ~select.EPOLLIN else 0
        self._socket_action(fd, mask)

    def act_if_due(self) -> None:
        """Lets libcurl work on its own timers."""
        if self.deadline.at is not None and self.deadline.at <= time.monotonic():
            self.deadline.at = None
            self._socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def finished(self) -> tuple[list[pycurl.Curl], list[tuple[pycurl.Curl, int, str]]]:
        """Returns the handles that are through, and those that failed with libcurl's code and text."""
        _, done, failed = self._info_read()
        return done, failed


class Engine:
    """The loop and its thread. `call_soon` may be called from any thread, everything else only on the
    engine's own.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._watched: dict[int, Any] = {}  # by descriptor
        self._registered: dict[int, int] = {}  # with the epoll, for which events
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll.register(self._wake_read, select.EPOLLIN)
        self._calls: deque[Call] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._out: dict[pycurl.Curl, Exchange] = {}
        self._sockets: dict[Connection, int] = {}
        self._ahead = Ahead(self.call_later)
        self._suspects: set[pycurl.Curl] = set()
        """Those that were out on shared connections when one of them stalled."""
        self._stopping = False
        self.idle_s = 0.0
        """How long it has waited for something to do, in all."""
        self._multis: dict[str, _Multi] = {}
        self._thread = threading.Thread(target=self._run, name="fastxfer-engine", daemon=True)
        self._thread.start()

    # ---- any thread ----

    def call_soon(self, call: Call) -> None:
        """Has `call` run on the engine's thread, after those handed in before it."""
        self._calls.append(call)
        if threading.current_thread() is not self._thread:
            try:
                os.write(self._wake_write, b"\0")
            except BlockingIOError:
                pass  # the pipe is full of wake-ups already

    def stop(self) -> None:
        """Ends the loop: running exchanges end with InterruptedTransferError, the thread is joined."""

        def end() -> None:
            self._stopping = True

        self.call_soon(end)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ---- the engine's thread ----

    def call_later(self, delay_s: float, call: Call) -> Timer:
        """Has `call` run on this thread in `delay_s` seconds."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def submit(
        self, exchange: Exchange, request: Request, listener: Listener, url: str | None = None
    ) -> None:
        """Sends a request on an idle exchange; `listener` hears of it. With `url` it is for that instead of
        the request's own, so that many need but one request.
        """
        exchange.made_ahead = self._ahead
        afresh = bool(self._suspects) and exchange.multiplexed
        exchange.prepare(request, listener, url, afresh=afresh)
        if len(self._sockets) >= 2 * KEPT_CONNECTIONS:
            self._sockets.clear()
        exchange.kept.sockets = self._sockets
        self._out[exchange.easy] = exchange
        self._multi_of(exchange).add(exchange.easy)

    def _multi_of(self, exchange: Exchange) -> _Multi:
        multi = self._multis.get(exchange.pool)
        if multi is None:
            multi = self._multis[exchange.pool] = _Multi(self._poll.fileno(), self._watched, self._registered)
        return multi

    def let_go(self, exchange: Exchange, *, soon: bool = False) -> None:
        """Closes the connections that were made ahead for an exchange and not taken; `soon` lets the requests
        that go out now take theirs.
        """
        if soon:
            self.call_later(AFTER_S, lambda: self._ahead.let_go(exchange))
        else:
            self._ahead.let_go(exchange)

    def abort(self, exchange: Exchange, error: FastxferError | None = None) -> None:
        """Ends an exchange at once; its listener gets `ended` with `error`, after this call returned."""
        if self._out.pop(exchange.easy, None) is None:
            return
        self._suspects.discard(exchange.easy)
        if isinstance(error, TransferTimeoutError) and exchange.multiplexed:
            self._suspect(exchange)
        self._multi_of(exchange).remove(exchange.easy)
        listener = exchange.listener
        if listener is not None:
            self.call_soon(lambda: listener.ended(exchange, error))

    def _suspect(self, exchange: Exchange) -> None:
        """Keeps later requests away from a shared connection that may have fallen silent.

        libcurl would keep it for them. It is closed when the last of its stalled streams is aborted; until
        those that are out now have ended, requests get connections of their own.
        """
        exchange.forsake_connection()
        self._suspects = {easy for easy, other in self._out.items() if other.multiplexed}

    def unpause(self, exchange: Exchange) -> None:
        """Lets libcurl pass on the body that `Writer.hold` kept back."""
        if exchange.easy not in self._out:
            return
        try:
            exchange.easy.pause(pycurl.PAUSE_CONT)
        except pycurl.error as error:
            # What was kept is passed on within the call, and the writer did not take all of it.
            code, detail = error.args
            self.abort(exchange, translate(code, detail, 0))

    # ---- the loop ----

    def _run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            ready = self._poll.poll(self._timeout())
            self.idle_s += time.monotonic() - began
            for fd, events in ready:
                multi = self._watched.get(fd)
                if multi is not None:
                    multi.act(fd, events)
                elif fd == self._wake_read:
                    self._drain()
                else:
                    self._unregister(fd)
            for multi in list(self._multis.values()):
                multi.act_if_due()
                done, failed = multi.finished()
                for easy in done:
                    self._finish(multi, easy)
                for easy, code, detail in failed:
                    self._finish(multi, easy, (code, detail))
            self._run_due()
        for exchange in list(self._out.values()):
            self.abort(exchange, InterruptedTransferError("the transfer was stopped; run it again to go on"))
        self._run_calls()
        self._ahead.close()

    def _unregister(self, fd: int) -> None:
        """Ends the watch over a connection that nobody uses and on which something came, or its end; libcurl
        finds that out when it wants to use it.
        """
        self._registered.pop(fd, None)
        try:
            self._poll.unregister(fd)
        except OSError:
            # It was closed here, and a process that was forked has it still: it cannot be named any more.
            self._renew_poll()

    def _renew_poll(self) -> None:
        """Puts an epoll in the place of this one that has only what is watched."""
        with select.epoll() as fresh:
            fresh.register(self._wake_read, select.EPOLLIN)
            for fd in self._watched:
                fresh.register(fd, self._registered[fd])
            os.dup2(fresh.fileno(), self._poll.fileno(), inheritable=False)
        for fd in self._registered.keys() - self._watched.keys():
            del self._registered[fd]

    def _timeout(self) -> float | None:
        if self._calls:
            return 0.0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        due = [self._timers[0][0]] if self._timers else []
        due += [multi.deadline.at for multi in self._multis.values() if multi.deadline.at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _drain(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _finish(self, multi: _Multi, easy: pycurl.Curl, failed: tuple[int, str] | None = None) -> None:
        exchange = self._out.get(easy)
        if exchange is None:
            return
        multi.remove(easy)
        if exchange.unclean:
            # libcurl has closed that connection: there is one fewer to try.
            exchange.unclean = False
            multi.add(easy)
            return
        del self._out[easy]
        if self._suspects:
            self._suspects.discard(easy)
        error = exchange.refused
        if error is None and failed is not None:
            error = translate(
                *failed,
                easy.getinfo(pycurl.OS_ERRNO),
                tls=exchange.tls,
                proxy_status=easy.getinfo(pycurl.HTTP_CONNECTCODE),
            )
        if exchange.listener is not None:
            exchange.listener.ended(exchange, error)

    def _run_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            call, timer.call = timer.call, None
            if call is not None:
                _run_guarded(call)
        self._run_calls()

    def _run_calls(self) -> None:
        for _ in range(len(self._calls)):
            _run_guarded(self._calls.popleft())


def _run_guarded(call: Call) -> None:
    """Runs a call; what it raises is shown as any thread's is, and does not end the engine of all
    transfers.
    """
    try:
        call()
    except Exception:  # noqa: BLE001 - see above
        kind, error, traceback = sys.exc_info()
        assert kind is not None
        thread = threading.current_thread()
        threading.excepthook(threading.ExceptHookArgs((kind, error, traceback, thread)))


_lock = threading.Lock()
_engine: Engine | None = None
_abandoned: list[Engine] = []
_at_exit: list[Call] = []


def shared_engine() -> Engine:
    """Returns this process's engine, started on first use. After a fork the child gets one of its own."""
    global _engine  # noqa: PLW0603 - the one engine of the process
    with _lock:
        if _engine is None:
            _engine = Engine()
        return _engine


def before_exit(call: Call) -> None:
    """Has `call` run when the interpreter ends, before the engine stops: for running transfers to save their
    progress.
    """
    _at_exit.append(call)


def _leave_to_parent() -> None:
    # In a forked child: the parent's sockets, TLS sessions and threads are not ours. The engine is kept, not
    # closed: closing it would send on the parent's connections.
    global _engine, _lock  # noqa: PLW0603 - the one engine of the process
    _lock = threading.Lock()
    if _engine is not None:
        _abandoned.append(_engine)
        _engine = None


def _stop_at_exit() -> None:
    for call in _at_exit:
        call()
    with _lock:
        engine = _engine
    if engine is not None:
        engine.stop()


os.register_at_fork(after_in_child=_leave_to_parent)
atexit.register(_stop_at_exit)

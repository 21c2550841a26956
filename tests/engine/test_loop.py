"""The engine against scripted servers: past 1,024 descriptors, woken at once, forked, aborted, stopped."""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from fastxfer.engine.loop import Engine, Timer, shared_engine
from fastxfer.engine.request import Exchange, Head, Request
from fastxfer.errors import FastxferError, InterruptedTransferError, NetworkError
from fastxfer.options import TransferOptions
from tests.servers.objects import make_bytes
from tests.servers.raw import Connection, Fault, RangeHandler, RawServer
from tests.servers.raw import Request as Asked

DATA = make_bytes(300_000, seed=3)
DEADLINE_S = 20.0
T = TypeVar("T")


class Hears:
    """A listener that takes the body and notes all it hears; `mode` decides in `head` what becomes of it."""

    def __init__(
        self, mode: Callable[[Exchange], object] = lambda exchange: exchange.writer.collect()
    ) -> None:
        self.mode = mode
        self.heads: list[Head] = []
        self.ends: list[FastxferError | None] = []
        self.body = b""
        self.begun = threading.Event()
        self.over = threading.Event()

    def head(self, exchange: Exchange, head: Head) -> None:
        self.heads.append(head)
        self.mode(exchange)
        self.begun.set()

    def ended(self, exchange: Exchange, error: FastxferError | None) -> None:
        self.ends.append(error)
        self.body = exchange.writer.body
        self.over.set()

    def wait(self) -> Hears:
        assert self.over.wait(DEADLINE_S)
        return self


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.stop()


def on(engine: Engine, call: Callable[[], T]) -> T:
    """Returns what `call` returns on the engine's thread."""
    results: queue.SimpleQueue[T] = queue.SimpleQueue()
    engine.call_soon(lambda: results.put(call()))
    return results.get(timeout=DEADLINE_S)


def send(
    engine: Engine, url: str, listener: Hears, exchange: Exchange | None = None, *headers: str
) -> Exchange:
    def submit() -> Exchange:
        used = exchange if exchange is not None else Exchange(TransferOptions.build(connect_timeout=5))
        engine.submit(used, Request(url, headers), listener)
        return used

    return on(engine, submit)


def stalling(until: threading.Event) -> RangeHandler:
    """Returns a handler that sends 1,000 bytes of DATA and the rest once the event is set."""
    return RangeHandler(DATA[:60_000], faults=lambda _: Fault(stall_at=1000, until=until))


# ---- requests ----


def test_an_answer_is_heard_with_its_head_its_body_and_one_end(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA[:50_000])) as server:
        heard = Hears()
        send(engine, server.url(), heard, None, "X-Test: yes")
        heard.wait()
        assert server.requests[0].headers["x-test"] == "yes"
    assert heard.ends == [None]
    assert heard.body == DATA[:50_000]
    (head,) = heard.heads
    assert (head.status, head.http_version) == (200, "1.1")
    assert head.headers.get("content-length") == "50000"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_kept_connection_with_bytes_that_nobody_asked_for_is_not_used_again(
    engine: Engine, host: str
) -> None:
    """libcurl would take them for the answer to what it asks next."""
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    more = threading.Event()

    def serve(request: Asked, connection: Connection) -> None:
        connection.respond(200, body=b"right")
        if request.connection == 0:
            connection.stall(more)
            connection.send(forged)
            connection.wait_until_gone()

    with RawServer(serve, host) as server:
        heard, again = Hears(), Hears()
        exchange = send(engine, server.url(), heard)
        heard.wait()
        (kept,) = engine._sockets.values()
        more.set()
        assert select.select([kept], [], [], DEADLINE_S)[0]
        send(engine, server.url(), again, exchange)
        assert again.wait().body == b"right"
        assert server.connections == 2


class Unregisters:
    """Notes which descriptors an engine lets go of, and how often it renews its epoll."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fds: list[int] = []
        self.renewed = 0
        self.over = threading.Event()
        self._engine = engine
        self._unregister, self._renew = engine._unregister, engine._renew_poll
        monkeypatch.setattr(engine, "_unregister", self._note)
        monkeypatch.setattr(engine, "_renew_poll", self._note_renewed)

    def _note(self, fd: int) -> None:
        self.fds.append(fd)
        self._unregister(fd)
        self.over.set()

    def _note_renewed(self) -> None:
        self.renewed += 1
        self._renew()

    def wait(self) -> list[int]:
        """Returns those let go, when there is one and the engine has gone on for many rounds."""
        assert self.over.wait(DEADLINE_S)
        for _ in range(20):
            on(self._engine, lambda: None)
        return self.fds


def test_a_kept_connection_that_ends_is_looked_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()

    def serve(request: Asked, connection: Connection) -> None:
        connection.respond(200, body=b"right")
        if request.connection == 0:
            connection.stall(ends)
            connection.close()

    unregisters = Unregisters(engine, monkeypatch)
    with RawServer(serve) as server:
        heard, again = Hears(), Hears()
        exchange = send(engine, server.url(), heard)
        heard.wait()
        (kept,) = engine._sockets.values()
        assert kept in engine._registered and unregisters.fds == []
        ends.set()
        assert unregisters.wait() == [kept] and kept not in engine._registered
        send(engine, server.url(), again, exchange)
        assert again.wait().body == b"right"
        assert (server.connections, unregisters.renewed) == (2, 0)


def test_a_closed_connection_that_a_forked_process_has_still_is_no_burden(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel then goes on to tell of it, by a number that is nobody's or another's."""
    more, running = threading.Event(), threading.Event()

    def serve(request: Asked, connection: Connection) -> None:
        if request.target == "/slow":
            connection.stall(running)
            connection.respond(200, body=b"slow")
            return
        last = request.target == "/last"
        connection.respond(200, {"Connection": "close"} if last else None, b"right")
        if last:
            connection.stall(more)
            connection.send(b"x")
            connection.stall(running)

    unregisters = Unregisters(engine, monkeypatch)
    with RawServer(serve) as server:
        first, last, slow = Hears(), Hears(), Hears()
        exchange = send(engine, server.url(), first)
        first.wait()
        (kept,) = engine._sockets.values()
        sleeper = os.fork()
        if not sleeper:
            select.select([], [], [])  # it has the connection until it is ended
        try:
            send(engine, server.url("/last"), last, exchange)
            assert last.wait().body == b"right"
            more.set()
            assert unregisters.wait() == [kept] and unregisters.renewed == 1
            send(engine, server.url("/slow"), slow)
            server.wait_for_requests(3)
            running.set()
            assert slow.wait().body == b"slow"
        finally:
            os.kill(sleeper, signal.SIGKILL)
            os.waitpid(sleeper, 0)


def test_an_exchange_is_used_again_on_the_same_connection(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA[:1000])) as server:
        exchange = None
        for _ in range(5):
            heard = Hears()
            exchange = send(engine, server.url(), heard, exchange)
            assert heard.wait().body == DATA[:1000]
        assert (server.connections, len(server.requests)) == (1, 5)


def test_timings_tell_each_step_of_a_new_connection_and_of_a_kept_one(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA[:1000])) as server:
        heard = Hears()
        exchange = send(engine, server.url(), heard)
        heard.wait()
        first = exchange.timings
        assert 0 < first.connected_s <= first.sent_s < first.first_byte_s < DEADLINE_S
        assert (first.resolved_s <= first.connected_s, first.tls_s) == (True, 0)
        heard = Hears()
        send(engine, server.url(), heard, exchange)
        heard.wait()
        assert server.connections == 1
        assert exchange.timings.connected_s < first.connected_s


def test_many_exchanges_are_out_at_once(engine: Engine) -> None:
    until = threading.Event()
    with RawServer(stalling(until)) as server:
        heard = [Hears() for _ in range(40)]
        for each in heard:
            send(engine, server.url(), each)
        server.wait_for_requests(40)
        for each in heard:
            assert each.begun.wait(DEADLINE_S)
        assert not any(each.over.is_set() for each in heard)
        until.set()
        for each in heard:
            assert each.wait().body == DATA[:60_000]
        assert server.connections == 40


def test_a_refused_connection_is_a_network_error(engine: Engine) -> None:
    with RawServer(RangeHandler(b"")) as server:
        url = server.url()
    heard = Hears()
    send(engine, url, heard)
    assert isinstance(heard.wait().ends[0], NetworkError)
    assert heard.heads == []


def test_a_body_that_breaks_off_is_a_network_error_after_its_bytes(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA, faults=lambda _: Fault(cut_after=1234))) as server:
        heard = Hears()
        send(engine, server.url(), heard)
        assert isinstance(heard.wait().ends[0], NetworkError)
        assert heard.body == DATA[:1234]


def test_informational_answers_are_not_the_answer(engine: Engine) -> None:
    def handler(_: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nETag: early\r\n\r\n" * 3)
        connection.respond(200, {"ETag": "late"}, b"body")

    with RawServer(handler) as server:
        heard = Hears()
        send(engine, server.url(), heard)
        assert heard.wait().body == b"body"
    assert [(h.status, h.headers.all("etag"), h.headers.get("link")) for h in heard.heads] == [
        (200, ["late"], None)
    ]


def test_trailers_do_not_change_the_head(engine: Engine) -> None:
    def handler(_: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: ETag\r\n\r\n")
        connection.send(b"4\r\nbody\r\n0\r\nETag: late\r\n\r\n")

    with RawServer(handler) as server:
        heard = Hears()
        send(engine, server.url(), heard)
        assert heard.wait().body == b"body"
    assert len(heard.heads) == 1
    assert heard.heads[0].headers.get("etag") is None


def test_a_flood_of_header_fields_ends_the_request(engine: Engine) -> None:
    def handler(_: Asked, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n")
        connection.send(b"X: y\r\n" * 5000)
        connection.send(b"Content-Length: 0\r\n\r\n")

    with RawServer(handler) as server:
        heard = Hears()
        send(engine, server.url(), heard)
        assert heard.wait().ends[0] is not None
    assert heard.heads == []


def test_a_held_body_waits_for_its_place(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA[:60_000])) as server:
        heard = Hears(lambda exchange: exchange.writer.hold())
        exchange = send(engine, server.url(), heard)
        assert heard.begun.wait(DEADLINE_S)
        assert on(engine, heard.over.is_set) is False

        def go_on() -> None:
            exchange.writer.collect()
            engine.unpause(exchange)

        on(engine, go_on)
        assert heard.wait().body == DATA[:60_000]


def test_a_refused_body_fails_the_request(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA)) as server:
        heard = Hears(lambda exchange: exchange.writer.refuse())
        send(engine, server.url(), heard)
        assert heard.wait().ends[0] is not None
        assert heard.body == b""


# ---- wake-ups and timers ----


def test_a_call_wakes_an_idle_loop_at_once(engine: Engine) -> None:
    on(engine, lambda: engine.call_later(3600, lambda: None))
    slowest = 0.0
    for _ in range(20):
        began = time.monotonic()
        on(engine, lambda: None)
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 5.0


def test_calls_of_many_threads_run_all_and_in_their_order(engine: Engine) -> None:
    ran: list[tuple[int, int]] = []
    busy = threading.Event()
    engine.call_soon(lambda: busy.wait(DEADLINE_S))

    def note(each: tuple[int, int]) -> Callable[[], None]:
        return lambda: ran.append(each)

    def call(thread: int) -> None:
        # More wake-ups than the pipe holds: they must not block the caller.
        for number in range(20_000):
            engine.call_soon(note((thread, number)))

    threads = [threading.Thread(target=call, args=(thread,)) for thread in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(DEADLINE_S)
        assert not each.is_alive()
    busy.set()
    on(engine, lambda: None)
    assert len(ran) == 80_000
    for thread in range(4):
        assert [number for who, number in ran if who == thread] == list(range(20_000))


def test_timers_run_in_their_order_and_not_early(engine: Engine) -> None:
    ran: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.put((name, time.monotonic()))

    def set_all() -> float:
        engine.call_later(0.06, note("late"))
        engine.call_later(0.02, note("early"))
        engine.call_later(0.0, note("now"))
        engine.call_later(0.02, note("early too"))
        return time.monotonic()

    began = on(engine, set_all)
    heard = [ran.get(timeout=DEADLINE_S) for _ in range(4)]
    assert [name for name, _ in heard] == ["now", "early", "early too", "late"]
    assert heard[1][1] - began >= 0.015
    assert heard[3][1] - began >= 0.055


def test_a_cancelled_timer_does_not_run(engine: Engine) -> None:
    ran: list[str] = []
    last = threading.Event()

    def set_both() -> Timer:
        timer = engine.call_later(0.01, lambda: ran.append("cancelled"))
        engine.call_later(0.02, last.set)
        return timer

    on(engine, set_both).cancel()
    assert last.wait(DEADLINE_S)
    assert ran == []


# ---- abort and stop ----


def test_an_abort_reports_the_end_once_after_it_returned(engine: Engine) -> None:
    with RawServer(stalling(threading.Event())) as server:
        heard = Hears()
        exchange = send(engine, server.url(), heard)
        assert heard.begun.wait(DEADLINE_S)
        error = InterruptedTransferError("by the test")

        def abort_twice() -> int:
            engine.abort(exchange, error)
            engine.abort(exchange, error)
            return len(heard.ends)

        assert on(engine, abort_twice) == 0
        heard.wait()
        on(engine, lambda: engine.abort(exchange))
        on(engine, lambda: None)
        assert heard.ends == [error]


def test_an_abort_of_what_is_over_says_nothing_more(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA[:100])) as server:
        heard = Hears()
        exchange = send(engine, server.url(), heard)
        heard.wait()
        on(engine, lambda: engine.abort(exchange))
        on(engine, lambda: None)
        assert heard.ends == [None]


def test_an_aborted_exchange_is_used_again(engine: Engine) -> None:
    until = threading.Event()
    with RawServer(stalling(until)) as server:
        first, second = Hears(), Hears()
        exchange = send(engine, server.url(), first)
        assert first.begun.wait(DEADLINE_S)
        on(engine, lambda: engine.abort(exchange))
        first.wait()
        until.set()
        send(engine, server.url(), second, exchange)
        assert second.wait().body == DATA[:60_000]
        assert (first.ends, second.ends) == ([None], [None])


def test_an_abort_before_the_connection_stands_is_no_different(engine: Engine) -> None:
    with RawServer(RangeHandler(DATA)) as server:
        heard = Hears()

        def send_and_abort() -> None:
            exchange = Exchange(TransferOptions.build())
            engine.submit(exchange, Request(server.url()), heard)
            engine.abort(exchange)

        on(engine, send_and_abort)
        assert heard.wait().ends == [None]
        assert heard.heads == []


def test_stopping_ends_what_is_out_as_interrupted() -> None:
    engine = Engine()
    with RawServer(stalling(threading.Event())) as server:
        heard = [Hears() for _ in range(3)]
        for each in heard:
            send(engine, server.url(), each)
            assert each.begun.wait(DEADLINE_S)
        engine.stop()
        for each in heard:
            assert [type(error) for error in each.ends] == [InterruptedTransferError]


def test_the_shared_engine_is_one() -> None:
    assert shared_engine() is shared_engine()


# ---- in a process of its own ----

PRELUDE = """
import os, resource, sys, threading
from fastxfer.engine.loop import before_exit, shared_engine
from fastxfer.engine.request import Exchange, Request
from fastxfer.options import TransferOptions

class Hears:
    def __init__(self):
        self.ends, self.body = [], b""
        self.begun, self.over = threading.Event(), threading.Event()
    def head(self, exchange, head):
        exchange.writer.collect()
        self.begun.set()
    def ended(self, exchange, error):
        self.ends.append(error)
        self.body = exchange.writer.body
        self.over.set()

def send(url):
    heard, engine = Hears(), shared_engine()
    engine.call_soon(lambda: engine.submit(Exchange(TransferOptions.build()), Request(url), heard))
    return heard

url = sys.argv[1]
"""


def run_script(script: str, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_works_in_a_process_that_holds_over_1024_descriptors() -> None:
    script = PRELUDE + (
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))\n"
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(1500)]\n"
        "heard = [send(url) for _ in range(8)]\n"
        "assert all(each.over.wait(30) for each in heard)\n"
        "print(max(held) > 1024, {len(each.body) for each in heard}, {str(each.ends) for each in heard})\n"
    )
    with RawServer(RangeHandler(DATA[:60_000])) as server:
        run = run_script(script, server.url())
    assert run.stdout == "True {60000} {'[None]'}\n", run


def test_a_forked_child_has_a_fresh_engine_while_the_parents_transfer_goes_on() -> None:
    script = PRELUDE + (
        "mine = shared_engine()\n"
        "heard = send(url + '/slow')\n"
        "assert heard.begun.wait(30)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    child = send(url + '/fast')\n"
        "    good = child.over.wait(30) and child.ends == [None] and len(child.body) == 5\n"
        "    os._exit(0 if good and shared_engine() is not mine else 1)\n"
        "status = os.waitpid(pid, 0)[1]\n"
        "go = send(url + '/go')\n"
        "assert go.over.wait(30) and heard.over.wait(30)\n"
        "print(status, shared_engine() is mine, heard.ends, len(heard.body))\n"
    )
    until = threading.Event()
    slow = stalling(until)

    def handler(request: Asked, connection: Connection) -> None:
        if request.target == "/slow":
            slow(request, connection)
            return
        if request.target == "/go":
            until.set()
        connection.respond(200, {}, b"ready")

    with RawServer(handler) as server:
        run = run_script(script, server.url(""))
        targets = [request.target for request in server.requests]
    assert run.stdout == "0 True [None] 60000\n", run
    assert targets == ["/slow", "/fast", "/go"]


def test_a_child_that_ends_in_order_leaves_the_parents_connection_alone() -> None:
    script = PRELUDE + (
        "heard = send(url + '/slow')\n"
        "assert heard.begun.wait(30)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "go = send(url + '/go')\n"
        "assert heard.over.wait(30)\n"
        "print(heard.ends, len(heard.body))\n"
    )
    until = threading.Event()
    slow = stalling(until)

    def handler(request: Asked, connection: Connection) -> None:
        if request.target == "/slow":
            slow(request, connection)
        else:
            until.set()
            connection.respond(200, {}, b"ready")

    with RawServer(handler) as server:
        run = run_script(script, server.url(""))
    assert run.stdout == "[None] 60000\n", run


def test_the_end_of_the_interpreter_stops_what_is_out() -> None:
    script = PRELUDE + (
        "heard = send(url)\n"
        "assert heard.begun.wait(30)\n"
        "before_exit(lambda: print('saved', len(heard.ends)))\n"
        "def ended(exchange, error):\n"
        "    print(type(error).__name__)\n"
        "heard.ended = ended\n"
    )
    with RawServer(stalling(threading.Event())) as server:
        run = run_script(script, server.url())
    assert (run.returncode, run.stdout) == (0, "saved 0\nInterruptedTransferError\n"), run


@pytest.mark.parametrize(
    ("release", "libcurl", "told"),
    [
        ("PycURL/7.45.6", 0x080B00, "pycurl 7.45.6"),
        ("PycURL/7.46.0", 0x081000, "pycurl 7.46.0"),
        ("PycURL/7.47.0", 0x075800, "libcurl 7.88.0"),
    ],
)
def test_an_old_pycurl_or_libcurl_is_refused_with_the_way_to_a_new_one(
    tmp_path: Path, release: str, libcurl: int, told: str
) -> None:
    (tmp_path / "pycurl.py").write_text(
        f"version = '{release} libcurl/x OpenSSL/3'\n"
        f"def version_info():\n    return (11, 'x', {libcurl}, 'linux')\n",
        encoding="utf-8",
    )
    run = run_script("import fastxfer.engine", path=tmp_path)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastxfer needs pycurl 7.47 and libcurl 8.0")
    assert told in last
    assert "pip install" in last


def test_the_least_versions_are_good_enough(tmp_path: Path) -> None:
    (tmp_path / "pycurl.py").write_text(
        "version = 'PycURL/7.47.0 libcurl/8.0.0'\n"
        "def version_info():\n    return (11, '8.0.0', 0x080000, 'linux')\n",
        encoding="utf-8",
    )
    script = "import sys, types\nsys.modules['fastxfer'] = types.ModuleType('fastxfer')\n"
    script += "sys.modules['fastxfer'].__path__ = [sys.argv[1]]\nimport fastxfer.engine\nprint('good')"
    run = run_script(script, str(Path(__file__).parents[2] / "fastxfer"), path=tmp_path)
    assert run.stdout == "good\n", run

"""How runs to object stores end: refused, stopped, killed; and the options that they take."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.dataset.report import MirrorItem
from fastxfer.errors import (
    InterruptedTransferError,
    NotFoundError,
    OptionError,
    StoreAuthError,
    TargetBusyError,
)
from fastxfer.mirroring import begin_mirror
from tests.cli.command import COMMAND, environment, events
from tests.cli.command import fastxfer as command
from tests.dataset.to_stores import Tree, counts, objects_of, to
from tests.servers.gateway import Call
from tests.servers.objects import make_bytes
from tests.servers.oss_facade import OssFacade
from tests.servers.proxy import INTERNAL_ERROR, Harm, Proxy
from tests.servers.store import Store
from tests.stores.putting import OSS_PART, options, url

DEADLINE_S = 60.0


# ---- what ends it ----


def test_a_bucket_that_there_is_not(store: Store, web: Tree, state: Path) -> None:
    web.write({"a": b"a"})
    with pytest.raises(NotFoundError):
        fastxfer.mirror(web.url, f"{url(store, '')[:-1]}-none/x", state_dir=state, **options(store))
    assert web.nginx.requests() == []


@pytest.mark.parametrize("name", ["rgw", "seaweedfs"])
def test_without_permission(request: pytest.FixtureRequest, name: str, web: Tree, state: Path) -> None:
    store = request.getfixturevalue(name).store().make_bucket()
    web.write({"a": b"a"})
    stranger = f"{store.stranger.access_key}:{store.stranger.secret_key}"
    with pytest.raises(StoreAuthError):
        to(store, web.url, state, credentials=stranger)
    assert store.keys() == [] and web.nginx.requests() == []


def test_what_the_store_refuses_fails_alone(weed: Store, web: Tree, state: Path) -> None:
    web.write({str(n): b"x" for n in range(10)})

    def harm(call: Call, _: int) -> Harm | None:
        bad = call.operation == "PutObject" and call.key.endswith("/3")
        return Harm(status=500, body=INTERNAL_ERROR) if bad else None

    with Proxy(weed, harm) as proxy:
        report = to(proxy.store, web.url, state, retries=0)
        assert counts(report) == (9, 0, 1, 0) and report.failures[0].error == "StoreServerError"
        assert counts(to(proxy.store, web.url, state, retries=0, max_errors=1))[2] == 1
    assert weed.keys() == [f"to/here/{n}" for n in range(10) if n != 3]


def test_two_at_once_are_refused(weed: Store, web: Tree, state: Path) -> None:
    web.write({"a": b"a"})
    hold, begun = threading.Event(), threading.Event()

    def harm(call: Call, _: int) -> Harm | None:
        if call.operation != "PutObject":
            return None
        begun.set()
        return Harm(hold=hold)

    with Proxy(weed, harm) as proxy:
        given = {**options(proxy.store), "state_dir": state}
        running = begin_mirror(web.url, url(weed, "p"), **given)
        try:
            assert begun.wait(DEADLINE_S)
            with pytest.raises(TargetBusyError):
                fastxfer.mirror(web.url, url(weed, "p/"), **given)
        finally:
            hold.set()
        assert running.wait().fetched == 1


def test_it_is_stopped_and_goes_on(weed: Store, web: Tree, state: Path) -> None:
    web.write({str(n): make_bytes(100, n) for n in range(200)})
    given = {**options(weed), "state_dir": state, "jobs": 4}
    enough = threading.Event()
    told: list[MirrorItem] = []

    def hear(each: MirrorItem) -> None:
        told.append(each)
        if len(told) >= 20:
            enough.set()

    running = begin_mirror(web.url, url(weed, "to/here"), told=hear, **given)
    assert enough.wait(DEADLINE_S)
    running.cancel()
    with pytest.raises(InterruptedTransferError):
        running.wait()
    report = to(weed, web.url, state)
    # All that was told is written down, also what came after the stop.
    assert report.fetched == 200 - len(told) and report.failed == 0
    assert len(objects_of(weed)) == 200


# ---- kills ----


class Puts:
    """Counts requests that put something, by the time that they come."""

    def __init__(self) -> None:
        self.begun = 0
        self._changed = threading.Condition()

    def __call__(self, call: Call, _: int) -> Harm | None:
        if call.operation in ("PutObject", "UploadPart"):
            with self._changed:
                self.begun += 1
                self._changed.notify_all()
        return None

    def wait(self, count: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while not self._changed.wait_for(lambda: self.begun >= count, 0.5):
                assert process.poll() is None and time.monotonic() < deadline, f"{self.begun} came"


def stored(proxy: Proxy, puts: Puts) -> list[str]:
    """Returns what was put since the last call and taken by the store, when all is quiet."""
    ended = [*proxy.calls("PutObject"), *proxy.calls("UploadPart")]
    deadline = time.monotonic() + DEADLINE_S
    while len(ended) < puts.begun:
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
        ended = [*proxy.calls("PutObject"), *proxy.calls("UploadPart")]
    taken = [each for each in ended if each.store_status == 200]
    return [f"{each.call.key}#{each.call.part}" for each in taken]


def test_a_kill_has_nothing_copied_twice_but_what_was_on_its_way(
    oss: OssFacade, web: Tree, state: Path
) -> None:
    behind = oss.store().behind
    assert behind is not None
    store, jobs, puts = behind.make_bucket(), 4, Puts()
    files = {f"d/{n}": make_bytes(3000, n) for n in range(300)}
    files["large"] = make_bytes(60 * OSS_PART + 1, 7)
    web.write(files)
    with Proxy(store, puts) as proxy:
        given = {**options(proxy.store), "state_dir": state, "jobs": jobs, "part_size": OSS_PART}
        argv = [*COMMAND, "mirror", web.url, url(store, "to/here"), "--json", "--order=largest"]
        argv += [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        kills = [20, 45, 100, 200, 290]
        for count in kills:
            with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment()) as process:
                try:
                    puts.wait(count, process)
                finally:
                    process.kill()
            stored(proxy, puts)
        done = subprocess.run(argv, capture_output=True, env=environment(), timeout=DEADLINE_S, check=True)
        sent = stored(proxy, puts)
        assert counts(to(proxy.store, web.url, state, part_size=OSS_PART)) == (0, 301, 0, 0)
        again = [name for name, times in Counter(sent).items() for _ in range(times - 1)]
    result = events(done.stdout.decode())[-1]
    assert result["failed"] == 0 and result["fetched"] < 150
    # A kill catches four parts of the large object, and of the small ones those of the other three jobs.
    assert len(again) <= len(kills) * (jobs + 2)
    assert objects_of(store) == files and store.list_uploads() == []
    assert not list(state.rglob("*.fxput"))


# ---- options ----


def test_options_that_mean_nothing_there_are_refused(tmp_path: Path) -> None:
    there, here, source = "s3://bucket/x", str(tmp_path), "http://127.0.0.1:9/x/"
    refused: list[tuple[str, dict[str, Any]]] = [
        (there, {"max_rate": "5M"}),
        (there, {"durability": "none"}),
        (there, {"verify": True}),
        (here, {"state_dir": "/x"}),
        (here, {"part_size": "5M"}),
        (here, {"source_endpoint": "http://127.0.0.1:9"}),
        (here, {"server_side": True}),
    ]
    for dest, given in refused:
        (name,) = given
        with pytest.raises(OptionError, match=f"option {name}: it means nothing"):
            begin_mirror(source, dest, **given)
    with pytest.raises(TypeError, match="no option 'sizee'"):
        begin_mirror(source, there, sizee=5)
    with pytest.raises(OptionError, match="memory"):
        begin_mirror(source, there, memory="16M", jobs=9)


@pytest.mark.parametrize(
    ("source", "dest"), [("s3://b/a", "s3://b/a/"), ("s3://b/a", "s3://b/a/x"), ("s3://b/a/x", "s3://b")]
)
def test_a_prefix_does_not_go_into_itself(source: str, dest: str) -> None:
    with pytest.raises(OptionError, match="within the other"):
        begin_mirror(source, dest, endpoint="http://127.0.0.1:9")


def test_the_command(weed: Store, web: Tree, tmp_path: Path) -> None:
    web.write({f"{n}": b"x" * n for n in range(10)})
    where = {"XDG_STATE_HOME": str(tmp_path / "xdg"), "FASTXFER_DURABILITY": "none"}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options(weed).items()]
    done = command("mirror", web.url, url(weed, "to/here"), *given, env=where)
    assert done.returncode == 0 and "10 listed, 10 fetched" in done.stdout + done.stderr
    (ledger,) = (tmp_path / "xdg/fastxfer/mirrors").glob("*/.fastxfer/mirror.db")
    assert ledger.stat().st_mode & 0o077 == 0
    assert objects_of(weed) == {f"{n}": b"x" * n for n in range(10)}

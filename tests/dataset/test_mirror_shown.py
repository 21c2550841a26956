"""What a mirror run tells its caller in Python: items, moments, and values that print and turn into JSON."""

from __future__ import annotations

import dataclasses
import json
import pickle
import threading
from collections import Counter
from pathlib import Path

import pytest

import fastxfer
from fastxfer.dataset.report import Failure
from fastxfer.errors import NotFoundError
from tests.servers.raw import Connection, RawServer, Request


@pytest.fixture
def names() -> list[str]:
    return [f"f{number}" for number in range(40)]


def answer(request: Request, connection: Connection) -> None:
    if request.target == "/f7":
        connection.respond(404)
    else:
        connection.respond(200, {"ETag": f'"{request.target}"'}, request.target.encode())


def written(server: RawServer, names: list[str], folder: Path) -> str:
    path = folder / "set.csv"
    rows = [f"{server.url('/' + name)},{name},{len(name) + 1}" for name in names]
    path.write_text("\n".join(["url,path,size", *rows, ""]))
    return str(path)


def test_each_object_and_each_moment_are_told(names: list[str], tmp_path: Path) -> None:
    items: list[fastxfer.MirrorItem] = []
    moments: list[fastxfer.MirrorProgress] = []
    with RawServer(answer) as server:
        report = fastxfer.mirror(
            written(server, names, tmp_path), tmp_path / "out", told=items.append, progress=moments.append
        )
        url = server.url("/f7")
    assert (report.ok, report.fetched, report.failed) == (False, 39, 1)
    assert Counter(item.path for item in items) == Counter(names)
    (failed,) = (item for item in items if item.state == "failed")
    assert isinstance(failed.error, NotFoundError)
    assert failed.url == url
    assert str(failed) == "f7: failed, the server answered 404 Not Found: there is no such object"
    assert report.failures == (Failure("f7", "NotFoundError", failed.message, 3, url),)
    last = moments[-1]
    assert (last.phase, last.listed, last.done, last.failed) == ("done", 40, 40, 1)
    assert [moment.elapsed for moment in moments] == sorted(moment.elapsed for moment in moments)


def test_values_are_frozen_and_turn_into_json(names: list[str], tmp_path: Path) -> None:
    items: list[fastxfer.MirrorItem] = []
    with RawServer(answer) as server:
        report = fastxfer.mirror(written(server, names, tmp_path), tmp_path / "out", told=items.append)
    moment = fastxfer.MirrorProgress(slowest=(("x", 6.0),))
    frozen: list[fastxfer.MirrorReport | fastxfer.MirrorProgress] = [report, moment]
    for each in frozen:
        with pytest.raises(dataclasses.FrozenInstanceError):
            each.failed = 0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        items[0].path = "other"  # type: ignore[misc]
    told = [report.to_dict(), moment.to_dict(), *(item.to_dict() for item in items)]
    for value in told:
        assert json.loads(json.dumps(value)) == value
    assert pickle.loads(pickle.dumps(report)) == report
    assert set(report.to_dict()) == {"ok", *(own.name for own in dataclasses.fields(report))}


def test_a_callable_that_raises_does_not_end_the_run(names: list[str], tmp_path: Path) -> None:
    def bad(_item: fastxfer.MirrorItem) -> None:
        raise RuntimeError("mine")

    with RawServer(answer) as server, pytest.warns(UserWarning, match=r"told raised RuntimeError\('mine'\)"):
        report = fastxfer.mirror(written(server, names, tmp_path), tmp_path / "out", told=bad)
    assert (report.fetched, report.failed) == (39, 1)


def test_the_figures_name_an_object_that_takes_long() -> None:
    moment = fastxfer.MirrorProgress(
        "fetching", 10, 4, 1, 4 << 20, 1 << 20, 1 << 20, 1 << 19, 6.0, 9.0, (("a/b", 5.0), ("c", 4.0))
    )
    assert moment.title == "fetching: 4 of 10 objects, 1 failed"
    assert moment.figures == "1 MiB of 4 MiB  512 KiB/s  ETA 6 s  5 s so far: a/b"
    quick = dataclasses.replace(moment, slowest=(("a/b", 4.9),))
    assert quick.figures == "1 MiB of 4 MiB  512 KiB/s  ETA 6 s"
    listing = fastxfer.MirrorProgress("listing", 7, elapsed=3.0)
    assert (listing.title, listing.figures, listing.as_progress().size) == ("listing: 7 found", "3 s", None)
    over = dataclasses.replace(moment, phase="cancelled")
    assert (over.figures, over.as_progress().state) == ("1 MiB of 4 MiB  cancelled", "cancelled")
    unsized = dataclasses.replace(moment, size=None).as_progress()
    assert (unsized.size, unsized.done) == (10, 4)  # objects


def test_an_interrupted_run_says_what_is_kept_and_counts_it_the_next_time(
    names: list[str], tmp_path: Path
) -> None:
    from fastxfer.mirroring import begin_mirror

    go, answered = threading.Event(), threading.Semaphore(0)
    asked: Counter[str] = Counter()

    def some(request: Request, connection: Connection) -> None:
        asked[request.target] += 1
        if not go.is_set() and sum(asked.values()) > 20:
            connection.wait_until_gone()
        else:
            answer(request, connection)

    items: list[fastxfer.MirrorItem] = []

    def told(item: fastxfer.MirrorItem) -> None:
        items.append(item)
        answered.release()

    with RawServer(some) as server:
        source = written(server, names, tmp_path)
        running = begin_mirror(source, tmp_path / "out", told=told)
        for _ in range(20):
            assert answered.acquire(timeout=60)
        running.cancel()
        with pytest.raises(fastxfer.InterruptedTransferError) as caught:
            running.wait()
        there = sum(item.state == "fetched" for item in items)
        assert caught.value.kept == f"{there} of 40 objects are there"
        assert running.known.stopped == str(caught.value) and running.known.fetched == there
        assert running.known.failed == sum(item.state == "failed" for item in items)
        go.set()
        before = Counter(asked)
        report = fastxfer.mirror(source, tmp_path / "out")
        assert (report.same, report.fetched, report.failed) == (there, 39 - there, 1)
        came = {"/" + item.path for item in items if item.state == "fetched"}
        assert {target for target in came if asked[target] != before[target]} == set()

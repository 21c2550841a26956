"""The ledger: what is listed and what is kept, over kills, collisions and power cuts."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.dataset import ledger as ledger_module
from fastxfer.dataset.collisions import refuse_collisions
from fastxfer.dataset.compare import Known, Verdict
from fastxfer.dataset.entries import Entry, checked_path
from fastxfer.dataset.exports import manifest_lines, sha256sums_lines
from fastxfer.dataset.filters import Filters
from fastxfer.dataset.ledger import Done, Ledger, Page
from fastxfer.dataset.ledger_file import NAME
from fastxfer.dataset.planning import Deletion, Here, deletions, tasks
from fastxfer.errors import LedgerError, OptionError, StorageError, TargetBusyError
from fastxfer.inputs.entry import Fault
from fastxfer.names import check_collisions, folded
from tests.dataset.sets import SOURCE, Tally, entry, fetched, listed

SUM = (("sha256", "a" * 64),)


def verdicts(ledger: Ledger, dest: Path, filters: Filters | None = None) -> dict[str, Verdict]:
    return {task.entry.path: task.finding.verdict for task in tasks(ledger, Here(dest), filters=filters)}


def refused(ledger: Ledger) -> dict[str, str]:
    return {each.name: each.reason for each in ledger.refusals()}


# ---- listings ----


def test_an_entry_comes_back_as_it_was_listed(tmp_path: Path) -> None:
    whole = Entry(
        "d/é.bin", "http://u:p@h/d/%C3%A9.bin?q", ("http://m/1", "http://m/2"), 7, 1.5, False, '"v"',
        (("sha256", "ab"), ("md5", "cd")), "7", {"headers": ["A: b"]}, 3,
    )  # fmt: skip
    bare = Entry("z", "http://h/z")
    with Ledger(tmp_path) as ledger:
        listed(ledger, [bare, whole])
        assert [step.entry for step in ledger.steps()] == [whole, bare]


def test_the_largest_come_first_now_and_the_next_time(tmp_path: Path) -> None:
    sizes = {"a": 1, "b": 30, "c": None, "d": 200}
    for _ in range(2):
        with Ledger(tmp_path) as ledger:
            listed(ledger, [entry(path, size) for path, size in sizes.items()])
            assert [step.entry.path for step in ledger.steps(largest=True)] == ["d", "b", "a", "c"]


def test_a_listing_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert not ledger.begin_listing(SOURCE, "root", "terms")
        (root,) = ledger.waiting(9)
        ledger.record(root, Page([entry("a", line=1)], places=["x", "y"], cursor="17"))
        x, y = ledger.waiting(9, [root.id])
        ledger.listed(x)
        ledger.place_failed(y, "503")
        assert list(ledger.failures()) == [("y", "503")]
        assert not ledger.end_listing() and not ledger.complete
    with Ledger(tmp_path) as ledger:
        assert ledger.begin_listing(SOURCE, "root", "terms")
        assert [(p.name, p.depth, p.cursor) for p in ledger.waiting(9)] == [("root", 0, "17"), ("y", 1, None)]
        with pytest.raises(LedgerError, match="not complete"):
            list(ledger.vanished())


@pytest.mark.parametrize(
    ("source", "terms", "age_s"), [("other", "t", 60.0), (SOURCE, "o", 60.0), (SOURCE, "t", -1.0)]
)
def test_another_source_or_filter_or_an_old_listing_begins_anew(
    tmp_path: Path, source: str, terms: str, age_s: float
) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_listing(SOURCE, "root", "t")
        (root,) = ledger.waiting(1)
        ledger.record(root, Page([entry("a")], [Fault("..", "dots")], cursor="1"))
        assert not ledger.begin_listing(source, "root", terms, max_age_s=age_s)
        assert [p.cursor for p in ledger.waiting(9)] == [None]
        assert list(ledger.steps()) == [] and refused(ledger) == {}


def test_a_page_that_is_recorded_again_changes_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_listing(SOURCE, "root")
        (root,) = ledger.waiting(1)
        page = Page([entry("a", line=1), entry("b", line=2)], [Fault("..", "dots", 3)], ["x"])
        ledger.record(root, page)
        ledger.record(root, replace(page, entries=[entry("a", size=9, line=1), entry("b", line=2)]))
        assert [(s.entry.path, s.entry.size) for s in ledger.steps()] == [("a", 9), ("b", 5)]
        assert refused(ledger) == {"..": "dots"}
        assert len(ledger.waiting(9)) == 2


def test_two_entries_of_one_path_are_both_refused_unless_they_say_the_same(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        other = replace(entry("a", line=3), url="http://h/other")
        listed(ledger, [entry("a", line=1), entry("b", line=2), other, entry("b", line=4)])
        assert [step.entry.path for step in ledger.steps()] == ["b"]
        assert refused(ledger) == {"a": "two different entries have this path"}


def test_a_place_that_repeats_those_above_it_is_counted(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_listing(SOURCE, "0")
        for depth in range(3):
            (place,) = ledger.waiting(1)
            assert ledger.repeats(place, "same") == depth
            ledger.record(place, Page(places=[str(depth + 1)], digest="same"))
            ledger.listed(place)


# ---- collisions ----


@pytest.mark.parametrize(
    ("paths", "gone"),
    [
        (["a", "A", "b"], {"a", "A"}),
        (["é", "e\u0301"], {"é", "e\u0301"}),
        (["d", "d/x", "d/y/z"], {"d"}),
        (["d/e", "D/E/x"], {"d/e"}),
        (["d-", "d.x", "d/x", "d"], {"d"}),
        (["f", "f.part"], {"f.part"}),
        (["f", "f.part.ckpt/x"], {"f"}),
        (["f.part.ckpt/x", "f.part"], {"f.part"}),
        (["f.part", "f.fxsum"], {"f.part", "f.fxsum"}),
        (["f.part", "g"], set()),
        (["d/a", "D/b"], set()),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused_in_any_order(
    tmp_path: Path, paths: list[str], gone: set[str]
) -> None:
    for turn, order in enumerate((paths, paths[::-1])):
        with Ledger(tmp_path / str(turn)) as ledger:
            listed(ledger, map(entry, order))
            refuse_collisions(ledger)
            assert set(refused(ledger)) == gone
            assert {step.entry.path for step in ledger.steps()} == set(paths) - gone
            assert not ledger.unchecked()


NAMES = st.sampled_from(["a", "A", "b", "a.part", "a.part.ckpt", "ﬁ", "fi", "B.fxsum"])
SETS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=8, unique=True)


@given(SETS)
def test_what_is_left_can_stand_side_by_side_and_nothing_is_refused_without_need(paths: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, Ledger(folder) as ledger:
        listed(ledger, map(entry, paths))
        refuse_collisions(ledger)
        check_collisions(step.entry.path for step in ledger.steps())
        if refused(ledger):
            with pytest.raises(OptionError):
                check_collisions(paths)


def test_the_ledgers_own_folder_is_no_place_for_an_entry() -> None:
    for name in (".fastxfer/mirror.db", ".FastXfer/x", ".fastxfer", ".fa\u017ftxfer/x"):
        with pytest.raises(OptionError, match="where the ledger is"):
            checked_path(name)
    assert checked_path("x/.fastxfer/y") == "x/.fastxfer/y"


# ---- what is to be done ----


def test_a_second_listing_of_an_unchanged_set_has_nothing_to_do(tmp_path: Path) -> None:
    entries = [entry(f"d{n % 7}/f{n}") for n in range(2500)]
    with Ledger(tmp_path) as ledger:
        listed(ledger, entries)
        assert set(verdicts(ledger, tmp_path).values()) == {Verdict.NEW}
        fetched(ledger, tmp_path, entries)
        assert verdicts(ledger, tmp_path) == {}
        listed(ledger, entries)
        found = verdicts(ledger, tmp_path)
        assert len(found) == 2500 and set(found.values()) == {Verdict.SAME}


def test_what_changed_here_or_there_is_seen(tmp_path: Path) -> None:
    entries = [entry(name) for name in ("same", "bigger", "later", "gone", "edited", "a/link")]
    with Ledger(tmp_path) as ledger:
        listed(ledger, entries)
        fetched(ledger, tmp_path, entries)
        (tmp_path / "gone").unlink()
        (tmp_path / "edited").write_bytes(b"BYTES")
        (tmp_path / "a").rename(tmp_path / "elsewhere")
        (tmp_path / "a").symlink_to("elsewhere")
        again = [entry("same"), entry("bigger", 6), entry("later", mtime=2e9), *entries[3:], entry("more")]
        listed(ledger, again)
        tally = Tally()
        for task in tasks(ledger, Here(tmp_path)):
            tally.add(task)
        assert verdicts(ledger, tmp_path) == {
            "same": Verdict.SAME, "bigger": Verdict.CHANGED, "later": Verdict.CHANGED, "gone": Verdict.NEW,
            "edited": Verdict.UNSURE, "a/link": Verdict.NEW, "more": Verdict.NEW,
        }  # fmt: skip
        assert tally == Tally(new=3, changed=2, same=1, unsure=1, bytes=26)


def test_filters_leave_alone(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        listed(ledger, [entry("a.csv"), entry("b.txt")])
        assert set(verdicts(ledger, tmp_path, Filters(exclude=["*.txt"]))) == {"a.csv"}


def test_what_failed_is_tried_again_and_its_error_kept(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        listed(ledger, [entry("a"), entry("b")])
        ledger.failed([("a", "404")])
        assert list(ledger.failures()) == [("a", "404")]
        assert ledger.counts() == {"listed": 1, "failed": 1, "places_listed": 1}
        assert {step.entry.path for step in ledger.steps()} == {"a", "b"}


# ---- what vanished ----


def test_what_vanished_is_deleted_only_if_nobody_touched_it_and_filters_allow_it(tmp_path: Path) -> None:
    entries = [entry(name) for name in ("a", "b", "c", "d.log", "e", "Case")]
    with Ledger(tmp_path) as ledger:
        listed(ledger, entries)
        fetched(ledger, tmp_path, entries)
        (tmp_path / "mine").write_text("not of the set")
        (tmp_path / "c").write_bytes(b"edited by hand")
        (tmp_path / "e").unlink()
        listed(ledger, [entry("a"), entry("case")])
        assert list(deletions(ledger, Here(tmp_path), filters=Filters(exclude=["*.log"]))) == [
            Deletion("b", 5, True),
            Deletion("c", 14, False),
            Deletion("e", 5, False, gone=True),
        ]
        ledger.forget(["b", "e"])
        assert [path for path, _ in ledger.vanished()] == ["c", "d.log"]


def test_nothing_is_deleted_on_the_word_of_a_listing_that_failed_or_is_empty(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        listed(ledger, [entry("a")])
        fetched(ledger, tmp_path, [entry("a")])
        ledger.begin_listing(SOURCE, "root")
        (root,) = ledger.waiting(1)
        ledger.place_failed(root, "reset")
        assert not ledger.end_listing()
        with pytest.raises(LedgerError, match="not complete"):
            list(deletions(ledger, Here(tmp_path)))
        assert ledger.begin_listing(SOURCE, "root")
        ledger.listed(root)
        assert ledger.end_listing()
        with pytest.raises(LedgerError, match="nothing at all"):
            list(deletions(ledger, Here(tmp_path)))


def test_another_source_of_the_same_destination_loses_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        listed(ledger, [entry("a")])
        fetched(ledger, tmp_path, [entry("a")])
        ledger.begin_listing("http://other/", "root")
        (root,) = ledger.waiting(1)
        ledger.record(root, Page([entry("b")]))
        ledger.listed(root)
        assert ledger.end_listing()
        assert list(deletions(ledger, Here(tmp_path))) == []


def test_what_was_not_synced_before_the_machine_stopped_is_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_run(SOURCE)
        listed(ledger, [entry("a"), entry("b")])
        fetched(ledger, tmp_path, [entry("a")])
        monkeypatch.setattr(ledger, "synced", lambda: None)
        fetched(ledger, tmp_path, [entry("b")])
        ledger.begin_run(SOURCE)
        assert [known.doubted for _, _, known in ledger.kept()] == [False, False]
        monkeypatch.setattr(ledger_module, "boot_id", lambda: "another boot")
        ledger.begin_run(SOURCE)
        assert [(path, known.doubted) for path, _, known in ledger.kept()] == [("a", False), ("b", True)]


def test_what_a_killed_run_has_left_is_not_taken_for_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin_run(SOURCE)
        listed(ledger, [entry("a"), entry("b")])
        with monkeypatch.context() as killed:
            killed.setattr(ledger, "synced", lambda: None)
            fetched(ledger, tmp_path, [entry("a")])
        (before,) = [known for _, _, known in ledger.kept()]
        ledger.begin_run(SOURCE)
        fetched(ledger, tmp_path, [entry("b")])
        after = {path: known for path, _, known in ledger.kept()}
        assert after["a"] == before, "its file has no other time than it had"
        monkeypatch.setattr(ledger_module, "boot_id", lambda: "another boot")
        ledger.begin_run(SOURCE)
        assert [(path, known.doubted) for path, _, known in ledger.kept()] == [("a", True), ("b", False)]


# ---- exports ----


def test_what_is_exported_is_read_by_sha256sum_and_has_no_secrets(tmp_path: Path) -> None:
    digest = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    known = replace(
        entry("d/a"), url="http://user:canary@h/d/a?token=canary", checksums=(("sha256", digest),)
    )
    with Ledger(tmp_path) as ledger:
        listed(ledger, [known, entry("b")])
        fetched(ledger, tmp_path, [known, entry("b")])
        sums, manifest = "".join(sha256sums_lines(ledger)), "".join(manifest_lines(ledger))
        assert "canary" in "".join(manifest_lines(ledger, secrets=True))
    (tmp_path / "SHA256SUMS").write_text(sums)
    checked = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert checked.stdout == "d/a: OK\n"
    assert "canary" not in manifest
    assert [json.loads(line) for line in manifest.splitlines()] == [
        {"url": SOURCE + "b", "path": "b", "size": 5, "etag": '"v1"', "mtime": 1e9},
        {
            "url": "http://h/d/a", "path": "d/a", "size": 5, "checksum": {"sha256": digest},
            "etag": '"v1"', "mtime": 1e9,
        },
    ]  # fmt: skip


# ---- the file ----


def test_one_process_has_it_and_only_its_owner_may_read(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        with pytest.raises(TargetBusyError):
            Ledger(tmp_path)
        assert os.stat(ledger.file.path).st_mode & 0o077 == 0
    Ledger(tmp_path).close()


def test_a_folder_or_file_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".fastxfer").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="symbolic link"):
        Ledger(tmp_path / "d")
    (tmp_path / "e" / ".fastxfer").mkdir(parents=True)
    (tmp_path / "e" / ".fastxfer" / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="symbolic link"):
        Ledger(tmp_path / "e")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "e"]


def test_a_file_that_is_damaged_or_of_another_version_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    path = tmp_path / ".fastxfer" / NAME
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(LedgerError, match="version 2"):
        Ledger(tmp_path)
    path.write_bytes(b"not a database at all, and long enough to be taken for one" * 100)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(tmp_path)


KILLED = """
import sys
from fastxfer.dataset.ledger import Done, Ledger, Page
from fastxfer.dataset.entries import Entry

with Ledger(sys.argv[1]) as ledger:
    ledger.begin_listing("source", "root")
    (place,) = ledger.waiting(1)
    at = int(place.cursor or 0)
    print(at, flush=True)
    while at < 20000:
        page = [Entry(f"f{n:07}", f"http://h/{n}", size=n, line=n) for n in range(at, at + 100)]
        at += 100
        ledger.record(place, Page(page, cursor=str(at)))
        print(at, flush=True)
    ledger.listed(place)
    ledger.end_listing()
"""


def test_a_listing_that_is_killed_again_and_again_loses_nothing_and_has_nothing_twice(tmp_path: Path) -> None:
    reached, kills = 0, 0
    while reached < 20000:
        with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            begun = int(child.stdout.readline())
            assert begun >= reached, "what was committed is lost"
            for line in child.stdout:
                reached = int(line)
                if kills < 10 and reached - begun >= 1700:
                    child.send_signal(signal.SIGKILL)
                    kills += 1
                    break
    assert kills == 10
    with Ledger(tmp_path) as ledger:
        assert ledger.complete
        assert [step.entry.size for step in ledger.steps()] == list(range(20000))


@given(st.text(max_size=20).filter(lambda text: "\0" not in text))
def test_the_folded_form_is_one_that_sqlite_keeps(name: str) -> None:
    try:
        checked_path(name)
    except OptionError:
        return
    assert folded(name).encode().decode() == folded(name)


@pytest.mark.parametrize(
    ("again", "left"),
    [
        (Known(5, 7, '"v1"'), SUM),
        (Known(5, 7, '"v1"', checksums=(("md5", "b" * 32),)), (("md5", "b" * 32),)),
        (Known(5, 8, '"v1"'), ()),
        (Known(6, 7, '"v1"'), ()),
    ],
)
def test_what_is_found_unchanged_keeps_its_checksums(
    tmp_path: Path, again: Known, left: tuple[tuple[str, str], ...]
) -> None:
    with Ledger(tmp_path) as ledger:
        listed(ledger, [entry("a")])
        ledger.keep([Done(entry("a"), Known(5, 7, '"v1"', checksums=SUM))])
        ledger.keep([Done(entry("a"), again)])
        ((_, _, known),) = ledger.kept()
        assert (known.size, known.mtime_ns, known.checksums) == (again.size, again.mtime_ns, left)


def test_what_was_doubted_loses_its_checksums_with_what_comes(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        listed(ledger, [entry("a")])
        ledger.keep([Done(entry("a"), Known(5, 7, checksums=SUM))])
        ledger.doubt(["a"])
        ledger.keep([Done(entry("a"), Known(5, 7))])
        ((_, _, known),) = ledger.kept()
        assert (known.checksums, known.doubted) == ((), False)

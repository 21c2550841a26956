"""What is the same, what has changed, and when nobody can say: by everything that may be told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastxfer.dataset.compare import TOLD, By, Known, Local, Verdict, compare
from fastxfer.dataset.entries import Entry

SUM = (("sha256", "aa"),)
ENTRY = Entry("a", "http://h/a", size=5, mtime=1e9, etag='"v1"', checksums=SUM)
LOCAL = Local(5, 10**18)
KNOWN = Known(5, 10**18, '"v1"', 1e9, SUM, 5, 1e9, '"v1"')
BARE = Entry("a", "http://h/a")
NEW, CHANGED, SAME, UNSURE = Verdict.NEW, Verdict.CHANGED, Verdict.SAME, Verdict.UNSURE


@pytest.mark.parametrize("by", By)
def test_what_is_not_here_is_new_whatever_the_ledger_says(by: By) -> None:
    assert compare(ENTRY, None, None, by).verdict is NEW
    assert compare(ENTRY, KNOWN, None, by).verdict is NEW


@pytest.mark.parametrize("by", By)
def test_another_size_is_a_change_in_every_way(by: By) -> None:
    bigger = replace(ENTRY, size=6)
    assert compare(bigger, KNOWN, LOCAL, by).verdict is CHANGED
    assert compare(bigger, None, LOCAL, by).verdict is CHANGED


def test_a_checksum_that_was_only_told_then_tells_whether_it_is_told_again() -> None:
    bare = Entry("a", "http://h/a", checksums=SUM)
    known = Known(5, 10**18, checksums=((TOLD + "sha256", "aa"), ("crc64nvme", "77")))
    assert compare(bare, known, LOCAL).verdict is SAME
    assert compare(replace(bare, checksums=(("sha256", "bb"),)), known, LOCAL).verdict is CHANGED
    proven = replace(known, checksums=(("sha256", "cc"), *known.checksums))
    assert compare(bare, proven, LOCAL).verdict is CHANGED


@pytest.mark.parametrize("by", By)
def test_an_unchanged_object_is_the_same_in_every_way_but_always(by: By) -> None:
    assert compare(ENTRY, KNOWN, LOCAL, by).verdict is (CHANGED if by is By.ALWAYS else SAME)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"checksums": (("sha256", "bb"),)}, {By.CHECKSUM: CHANGED, By.AUTO: CHANGED}),
        ({"etag": '"v2"'}, {By.ETAG: CHANGED}),
        ({"etag": '"v2"', "checksums": ()}, {By.ETAG: CHANGED, By.AUTO: CHANGED, By.CHECKSUM: UNSURE}),
        ({"mtime": 2e9}, {By.TIME: CHANGED}),
        ({"mtime": 2e9, "etag": None, "checksums": ()}, {By.TIME: CHANGED, By.AUTO: CHANGED}),
        ({"mtime": None}, {By.TIME: UNSURE, By.SIZE: SAME}),
        ({"etag": None}, {By.ETAG: UNSURE, By.TIME: SAME}),
        ({"etag": "W/v1"}, {By.ETAG: SAME}),
    ],
)
def test_each_way_looks_at_its_own_and_auto_at_the_best(
    changed: dict[str, object], found: dict[By, Verdict]
) -> None:
    entry = replace(ENTRY, **changed)  # type: ignore[arg-type]
    assert {by: compare(entry, KNOWN, LOCAL, by).verdict for by in found} == found


def test_only_a_size_is_enough_for_auto_and_nothing_at_all_is_not() -> None:
    assert compare(replace(BARE, size=5), KNOWN, LOCAL).verdict is SAME
    assert compare(BARE, KNOWN, LOCAL).verdict is UNSURE


def test_the_same_words_in_an_index_are_the_same_object_whatever_its_clock() -> None:
    shown = replace(BARE, mtime=5e8, mtime_exact=False, shown="1.2K")
    known = replace(KNOWN, listed_size=None, listed_mtime=5e8, listed_shown="1.2K", listed_etag=None)
    assert compare(shown, known, LOCAL).verdict is SAME
    assert compare(replace(shown, shown="1.3K"), known, LOCAL).verdict is CHANGED
    assert compare(replace(shown, mtime=5e8 + 60), known, LOCAL).verdict is CHANGED


@pytest.mark.parametrize("local", [Local(5, 10**18 + 1), Local(5, 0)])
def test_a_file_that_was_touched_since_is_not_what_the_ledger_says(local: Local) -> None:
    assert compare(replace(ENTRY, checksums=()), KNOWN, local, By.TIME).verdict is (
        SAME if local.mtime_ns > 0 else CHANGED
    )
    assert compare(ENTRY, KNOWN, local).verdict is UNSURE
    assert compare(ENTRY, KNOWN, local, By.SIZE).verdict is SAME


def test_a_file_without_a_ledger_is_taken_by_size_and_exact_time_only() -> None:
    timed = replace(BARE, size=5, mtime=1e9)
    assert compare(timed, None, LOCAL).verdict is SAME
    assert compare(replace(timed, mtime_exact=False), None, LOCAL).verdict is UNSURE
    assert compare(replace(timed, mtime=2e9), None, LOCAL).verdict is UNSURE
    assert compare(replace(timed, mtime=2e9), None, LOCAL, By.TIME).verdict is CHANGED
    assert compare(replace(timed, size=None), None, LOCAL).verdict is UNSURE


def test_what_was_not_on_the_disk_before_the_machine_stopped_is_doubted() -> None:
    assert compare(ENTRY, replace(KNOWN, doubted=True), LOCAL).verdict is CHANGED

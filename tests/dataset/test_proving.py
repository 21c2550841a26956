"""A set is proven by its ledger: damage of each kind is found, named, and marked for the next run to mend."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastxfer
from fastxfer.dataset.compare import By, Verdict
from fastxfer.dataset.exports import manifest_lines, sha256sums_lines
from fastxfer.dataset.ledger import Ledger
from fastxfer.dataset.ledger_file import NAME
from fastxfer.dataset.planning import Here, deletions, tasks
from fastxfer.dataset.proving import ALGORITHMS, NAMED, prove
from fastxfer.errors import LedgerError, OptionError, StorageError, TargetBusyError
from fastxfer.inputs.manifest import rows
from fastxfer.options import DIGEST_HEX_LENGTHS
from fastxfer.progress.snapshot import Progress
from fastxfer.verify_results import SetVerifyResult
from tests.dataset.sets import SOURCE, Tally, entry, flip, listed, mirrored

MIB = 1024**2
FILES = {
    "a": b"first",
    "d/empty": b"",
    "d/e/large": bytes(range(256)) * (10 * MIB // 256) + b"tail",
    "d/e/small": b"bytes" * 99,
    "d/é": b"\x00" * 5000,
}


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    dest = tmp_path / "the set"
    mirrored(dest, FILES)
    return dest


def proven(dest: Path, **options: Any) -> SetVerifyResult:
    with Ledger(dest) as ledger:
        return prove(ledger, dest, **options)


def verdicts(dest: Path, by: By = By.AUTO) -> dict[str, Verdict]:
    """What the next run would find, of a listing that is as it was."""
    with Ledger(dest) as ledger:
        listed(ledger, [entry(path, len(data)) for path, data in FILES.items()])
        return {task.entry.path: task.finding.verdict for task in tasks(ledger, Here(dest), by=by)}


# ---- what holds ----


@pytest.mark.parametrize("jobs", [None, 1, 2, 7])
def test_all_files_are_read_and_hold(dest: Path, jobs: int | None) -> None:
    result = proven(dest, jobs=jobs)
    assert result.ok and not result.interrupted and not result.marked
    assert (result.files, result.good, result.seen, result.unproven) == (5, 5, 5, 0)
    assert (result.damaged, result.missing) == ((), ())
    assert result.bytes == sum(map(len, FILES.values()))
    assert str(result).startswith(f"{dest}: 5 of 5 files proven; 10.0 MiB read in ")


@pytest.mark.parametrize("algorithm", sorted(DIGEST_HEX_LENGTHS))
def test_any_checksum_proves(tmp_path: Path, algorithm: str) -> None:
    assert set(ALGORITHMS) == set(DIGEST_HEX_LENGTHS)
    mirrored(tmp_path, FILES, [algorithm])
    assert proven(tmp_path).good == 5
    flip(tmp_path / "d/e/large", 9 * MIB)
    ((path, why),) = proven(tmp_path).damaged
    assert path == "d/e/large"
    assert why.startswith(f"its {algorithm} is ")


def test_a_file_without_a_checksum_is_unproven_and_its_size_counts(tmp_path: Path) -> None:
    mirrored(tmp_path, FILES, [])
    flip(tmp_path / "a", 1)
    result = proven(tmp_path)
    assert (result.ok, result.good, result.unproven, result.bytes) == (True, 0, 5, 0)
    assert "5 have their size, and no checksum is known of them" in str(result)
    with (tmp_path / "a").open("a") as file:
        file.write("!")
    assert proven(tmp_path).damaged == (("a", "it has 6 bytes, not 5"),)


def test_another_time_and_other_files_are_no_damage(dest: Path) -> None:
    os.utime(dest / "a", (1, 1))
    (dest / "of nobody").write_bytes(b"x")
    (dest / "d" / "link").symlink_to("empty")
    assert proven(dest).good == 5
    assert verdicts(dest, By.CHECKSUM)["a"] is Verdict.UNSURE


def test_an_empty_set_holds(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        result = prove(ledger, tmp_path)
    assert result.ok and result.files == 0


# ---- what does not ----


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def to_a_link(path: Path) -> None:
    """The file is as it was, but for a link that leads to it."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def to_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def under_a_link(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


def under_a_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"")


KINDS: dict[Callable[[Path], None], str] = {
    lambda path: flip(path, 17): "its crc64nvme is ",
    cut: "it has 494 bytes, not 495",
    grow: "it has 496 bytes, not 495",
    to_a_link: "is a symbolic link",
    to_a_folder: "is a directory",
    to_a_pipe: "is a pipe",
}
ABOVE: dict[Callable[[Path], None], str] = {
    under_a_link: "a symbolic link to one",
    under_a_file: "not a directory",
}


@pytest.mark.parametrize("harm", KINDS, ids=lambda harm: str(harm.__name__))
def test_damage_is_named_and_marked(dest: Path, harm: Callable[[Path], None]) -> None:
    harm(dest / "d/e/small")
    found = proven(dest)
    assert (found.ok, found.good, found.damaged_count, found.missing_count) == (False, 4, 1, 0)
    ((path, why),) = found.damaged
    assert path == "d/e/small" and KINDS[harm] in why
    assert "4 of 5 files proven, 1 damaged; " in str(found)
    marked = proven(dest, mark=True)
    assert marked.marked and marked.damaged == found.damaged
    wrong = {path for path, verdict in verdicts(dest).items() if verdict is not Verdict.SAME}
    assert wrong == {"d/e/small"}


@pytest.mark.parametrize("harm", ABOVE, ids=lambda harm: str(harm.__name__))
def test_folders_count_as_well(dest: Path, harm: Callable[[Path], None]) -> None:
    harm(dest / "d/e/small")
    found = proven(dest, mark=True)
    assert [path for path, _ in found.damaged] == ["d/e/large", "d/e/small"]
    assert all(ABOVE[harm] in why for _, why in found.damaged)


@pytest.mark.parametrize("whole_folder", [False, True])
def test_what_is_gone_is_missing(dest: Path, whole_folder: bool) -> None:
    if whole_folder:
        shutil.rmtree(dest / "d/e")
    else:
        (dest / "d/e/small").unlink()
    found = proven(dest, mark=True)
    gone = ["d/e/large", "d/e/small"][not whole_folder :]
    assert (list(found.missing), found.missing_count, found.damaged_count) == (gone, len(gone), 0)
    assert not found.ok
    assert {path for path, verdict in verdicts(dest).items() if verdict is Verdict.NEW} == set(gone)


def test_a_file_that_may_not_be_read_is_damaged(dest: Path) -> None:
    (dest / "a").chmod(0)
    rights = "-dac_override,-dac_read_search"
    as_others = ["setpriv", "--bounding-set", rights] if os.geteuid() == 0 else []
    script = "import fastxfer, sys; print(fastxfer.verify(sys.argv[1]).damaged)"
    done = subprocess.run(
        [*as_others, sys.executable, "-c", script, str(dest)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "(('a', 'it cannot be read: Permission denied'),)\n"


@pytest.mark.parametrize("path", ["../a", "d/../../a", "/etc/passwd", "d//a", "a\x00b", ".."])
def test_a_path_that_leads_elsewhere_is_followed_nowhere(dest: Path, path: str) -> None:
    (dest.parent / "a").write_bytes(FILES["a"])
    with Ledger(dest) as ledger, ledger.file.change() as db:
        db.execute("UPDATE kept SET path = ? WHERE path = 'a'", (path,))
    found = proven(dest)
    assert (found.good, found.damaged_count, [name for name, _ in found.damaged]) == (4, 1, [path])


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=8),
    st.data(),
    st.sampled_from(["flip", "cut", "grow", "remove", "touch"]),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_exactly_what_was_harmed_is_found(bodies: list[bytes], data: Any, how: str, jobs: int) -> None:
    files = {f"d{i % 3}/f{i}": body for i, body in enumerate(bodies)}
    which = data.draw(st.sampled_from(sorted(files)))
    with tempfile.TemporaryDirectory() as folder:
        dest = Path(folder)
        mirrored(dest, files)
        path, body = dest / which, files[which]
        harmed = how not in ("touch", "flip", "cut") or (how != "touch" and body != b"")
        if how == "flip" and body:
            flip(path, data.draw(st.integers(0, len(body) - 1)))
        elif how == "cut" and body:
            cut(path)
        elif how == "grow":
            grow(path)
        elif how == "remove":
            path.unlink()
        elif how == "touch":
            os.utime(path, (7, 7))
        found = proven(dest, jobs=jobs, mark=True)
        named = {name for name, _ in found.damaged} | set(found.missing)
        assert named == ({which} if harmed else set())
        assert (found.ok, found.good) == (not harmed, len(files) - harmed)


# ---- what is marked ----


def mended(dest: Path, path: str) -> None:
    (dest / path).write_bytes(FILES[path])


def test_a_listing_that_is_gone_on_with_has_it_again(dest: Path) -> None:
    flip(dest / "a", 0)
    with Ledger(dest) as ledger:
        assert list(ledger.steps()) == [], "all was done"
        prove(ledger, dest, mark=True)
        assert [step.entry.path for step in ledger.steps()] == ["a"]


def test_a_mark_stays_until_the_file_holds(dest: Path) -> None:
    flip(dest / "a", 0)
    assert verdicts(dest)["a"] is Verdict.SAME, "nothing else tells"
    proven(dest)
    assert verdicts(dest)["a"] is Verdict.SAME, "it was not to be marked"
    proven(dest, mark=True)
    for by in (By.AUTO, By.SIZE, By.TIME, By.ETAG, By.CHECKSUM):
        assert verdicts(dest, by)["a"] is Verdict.CHANGED
    with Ledger(dest) as ledger:
        ledger.synced()
        ledger.begin_run(SOURCE)
    assert verdicts(dest)["a"] is Verdict.CHANGED
    mended(dest, "a")
    assert proven(dest, mark=True).ok
    assert set(verdicts(dest).values()) == {Verdict.SAME}, "with the time that it has now"


def test_fetching_it_again_takes_the_mark_away(dest: Path) -> None:
    flip(dest / "a", 0)
    proven(dest, mark=True)
    assert verdicts(dest)["a"] is Verdict.CHANGED
    mirrored(dest, FILES)
    assert set(verdicts(dest).values()) == {Verdict.SAME}


def test_a_marked_file_that_vanishes_is_still_known(dest: Path) -> None:
    flip(dest / "a", 0)
    proven(dest, mark=True)
    with Ledger(dest) as ledger:
        listed(ledger, [entry(path, len(data)) for path, data in FILES.items() if path != "a"])
        assert [(each.path, each.untouched) for each in deletions(ledger, Here(dest))] == [("a", True)]


def test_what_was_doubted_after_a_power_cut_is_proven_by_its_bytes(dest: Path) -> None:
    with sqlite3.connect(dest / ".fastxfer" / NAME) as db:
        db.execute("UPDATE kept SET synced = -1")
    db.close()
    assert set(verdicts(dest).values()) == {Verdict.CHANGED}
    flip(dest / "a", 0)
    proven(dest, mark=True)
    found = verdicts(dest)
    assert found.pop("a") is Verdict.CHANGED
    assert set(found.values()) == {Verdict.SAME}


def test_a_run_that_proves_within_its_own_ledger_fetches_what_is_damaged(dest: Path) -> None:
    flip(dest / "d/e/large", 10 * MIB)
    with Ledger(dest) as ledger:
        prove(ledger, dest, mark=True)
        listed(ledger, [entry(path, len(data)) for path, data in FILES.items()])
        tally = Tally()
        for task in tasks(ledger, Here(dest)):
            tally.add(task)
    assert (tally.changed, tally.same, tally.bytes) == (1, 4, len(FILES["d/e/large"]))


# ---- many ----


def test_of_many_files_a_thousand_are_named_and_memory_does_not_grow(tmp_path: Path) -> None:
    def peak(count: int) -> tuple[int, SetVerifyResult]:
        dest = tmp_path / str(count)
        mirrored(dest, {f"d{i % 50}/f{i:05}": b"%d" % i for i in range(count)})
        for i in range(0, count, 4):
            flip(dest / f"d{i % 50}/f{i:05}", 0)
        tracemalloc.start()
        try:
            result = proven(dest, jobs=2, mark=True)
            return tracemalloc.get_traced_memory()[1], result
        finally:
            tracemalloc.stop()

    few, _ = peak(2000)
    many, result = peak(5000)
    assert (result.files, result.good, result.damaged_count) == (5000, 3750, 1250)
    assert len(result.damaged) == NAMED
    assert list(result.damaged) == sorted(result.damaged)
    assert len(result.to_dict()["damaged"]) == NAMED
    assert many < few * 1.5 + MIB
    again = proven(tmp_path / "5000")
    assert again.damaged_count == 1250
    with Ledger(tmp_path / "5000") as ledger:
        assert sum(known.doubted for _, _, known in ledger.kept()) == 1250


def test_it_stops_within_a_batch_and_says_what_it_saw(tmp_path: Path) -> None:
    mirrored(tmp_path, {f"f{i:04}": b"%d" % i for i in range(2000)})
    flip(tmp_path / "f0000", 0)
    calls = iter(range(10**9))
    result = proven(tmp_path, jobs=1, mark=True, stopped=lambda: next(calls) >= 2)
    assert result.interrupted and not result.ok
    assert 0 < result.seen < result.files == 2000
    assert f"stopped with {2000 - result.seen} still to look at" in str(result)
    assert [path for path, _ in result.damaged] == ["f0000"]
    with Ledger(tmp_path) as ledger:
        assert [path for path, _, known in ledger.kept() if known.doubted] == ["f0000"]


def test_progress_reaches_all_the_bytes(dest: Path) -> None:
    (dest / "d/e/small").unlink()
    told: list[Progress] = []
    assert not fastxfer.verify(dest, jobs=2, progress=told.append).ok
    assert told[-1].state == "done"
    assert told[-1].size == told[-1].done == sum(map(len, FILES.values()))
    assert told[-1].url == dest.as_uri()


# ---- the call ----


def test_the_public_call_takes_a_folder(dest: Path) -> None:
    result = fastxfer.verify(dest)
    assert isinstance(result, fastxfer.SetVerifyResult)
    assert result.ok and result.to_dict()["ok"] is True
    flip(dest / "a", 0)
    marked = fastxfer.verify(str(dest), jobs=1, mark=True)
    assert isinstance(marked, fastxfer.SetVerifyResult)
    assert marked.damaged_count == 1
    assert verdicts(dest)["a"] is Verdict.CHANGED


@pytest.mark.parametrize(
    "options", [{"jobs": 0}, {"jobs": 65}, {"jobs": True}, {"mark": 1}, {"repair": SOURCE}, {"retries": 3}]
)
def test_options_that_cannot_be_are_refused(dest: Path, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        fastxfer.verify(dest, **options)
    with pytest.raises(OptionError):
        fastxfer.verify(dest / "a", jobs=1)
    with pytest.raises(OptionError):
        fastxfer.verify(dest / "a", mark=True)


def test_a_ledger_that_is_busy_or_of_another_kind_is_refused(dest: Path, tmp_path: Path) -> None:
    with Ledger(dest), pytest.raises(TargetBusyError, match="mirrors to"):
        fastxfer.verify(dest)
    for statement in ("PRAGMA user_version = 2", "PRAGMA application_id = 1"):
        other = tmp_path / "other"
        shutil.copytree(dest, other)
        with sqlite3.connect(other / ".fastxfer" / NAME) as db:
            db.execute(statement)
        db.close()
        with pytest.raises(LedgerError):
            fastxfer.verify(other)
        shutil.rmtree(other)
    (dest / ".fastxfer" / NAME).write_bytes(b"this is no database" * 999)
    with pytest.raises(LedgerError):
        fastxfer.verify(dest)


def test_a_folder_without_a_ledger_stays_without(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="so that no set was mirrored to it"):
        fastxfer.verify(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- exports ----


def test_each_file_gets_its_sha256_while_it_is_read(tmp_path: Path) -> None:
    mirrored(tmp_path, FILES)
    mirrored_with = proven(tmp_path, sha256=True)
    assert mirrored_with.ok
    with Ledger(tmp_path) as ledger:
        lines = "".join(sha256sums_lines(ledger))
        found = [row.told for row in rows([*map(str.encode, manifest_lines(ledger))], "jsonl")]
    sums = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    assert lines == "".join(f"{sums[path]}  {path}\n" for path in sorted(sums))
    assert len(found) == len(FILES)
    assert proven(tmp_path, sha256=True).good == 5
    with Ledger(tmp_path) as ledger:
        assert {dict(known.checksums)["sha256"] for _, _, known in ledger.kept()} == set(sums.values())
    flip(tmp_path / "a", 0)
    proven(tmp_path, sha256=True)
    with Ledger(tmp_path) as ledger:
        assert "".join(sha256sums_lines(ledger)) == lines, "of what it should be"


def test_what_is_damaged_gets_no_sha256_of_what_it_is(tmp_path: Path) -> None:
    mirrored(tmp_path, FILES)
    flip(tmp_path / "a", 0)
    assert proven(tmp_path, sha256=True).damaged_count == 1
    with Ledger(tmp_path) as ledger:
        assert [line[66:-1] for line in sha256sums_lines(ledger)] == sorted(FILES.keys() - {"a"})


def test_a_sha256_that_was_made_is_held_against_the_listing(tmp_path: Path) -> None:
    mirrored(tmp_path, FILES, [], told=["sha256"])
    flip(tmp_path / "a", 0)
    assert proven(tmp_path, sha256=True).unproven == 5
    told = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    with Ledger(tmp_path) as ledger:
        listed(
            ledger,
            [replace(entry(p, len(FILES[p])), checksums=(("sha256", told[p]),)) for p in FILES],
        )
        found = {task.entry.path: task.finding for task in tasks(ledger, Here(tmp_path))}
    assert found["a"] == (Verdict.CHANGED, "another checksum")
    assert {each.verdict for path, each in found.items() if path != "a"} == {Verdict.SAME}

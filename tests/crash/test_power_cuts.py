"""Power cuts: whatever a cut leaves, no wrong byte is trusted, nothing that was durable is lost, and the next
run goes on.

The states come from recorded runs (tests/crash/__init__.py has the way); each sync of the storage has a test
that takes it out and sees the checker find what it was for.
"""

from __future__ import annotations

import os
import pickle
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastxfer.storage.checkpoint import Checkpoint, CheckpointFile
from fastxfer.storage.owner_record import decode
from fastxfer.storage.part_file import PartFile, Partials
from tests.crash import runs
from tests.crash.check import Checker
from tests.crash.events import Sync, Trace
from tests.crash.model import MODES, Disk, Mode
from tests.crash.states import State, states
from tests.crash.trace import DAMAGED, NAME, OLD

SOAK = bool(os.environ.get("FASTXFER_SOAK"))  # make soak
SINGLES = 1000 if SOAK else 2
AT_LEAST = 3000 if SOAK else 170  # of 132 traces and modes: 22,440, without those of the other tests
FEW = 1000 if SOAK else 60
RESUMES = 0.03 if SOAK else 0.008  # of the states are also fetched over

POLICIES = [(durability, sink) for durability in ("none", "periodic", "chunk") for sink in ("mmap", "pwrite")]
POLICIES += [("periodic", "direct")]

# Each place that syncs, what is run to see what it is for, and what goes wrong without it.
TEETH: dict[str, tuple[str, Mode, str]] = {
    "sync > _synced: data": ("to_the_end", "ordered", "its bytes are wrong"),
    "sync > write: checkpoint": ("to_the_end", "ordered", "were durable and are lost"),
    "_new_checkpoint > create > write: checkpoint": ("to_the_end", "ordered", "neither of its slots holds"),
    "allocate > _sync_names: names": ("to_the_end", "strict", "were durable and are lost"),
    "allocate > _empty: data": ("changes", "strict", "it was moved to data.bin.part.orphan"),
    "discard > _empty: data": ("is_discarded", "strict", "it was moved to data.bin.part.orphan"),
    "publish > publish > _synced: data": ("to_the_end", "ordered", "under the final name stands ?"),
    "publish > publish: names": ("to_the_end", "ordered", "under the final name stands None"),
    "publish > publish > rename: names": ("may_not_replace", "strict", "were durable and are lost"),
    "sync > _sync_names: names": ("killed at 6 none", "strict", "were durable and are lost"),
    "write > _make_sure: checkpoint": ("killed at 6 periodic", "strict", "were durable and are lost"),
    "_end_publication: names": (
        "killed at link periodic",
        "strict",
        "were durable and are lost",
    ),
    "_write: record": ("shared to_the_end", "ordered", "were durable and are lost"),
    "claim > _gather: names": ("shared killed at link periodic", "strict", "were durable and are lost"),
    "publish > stage > _write: ledger": ("keeps_its_ledger", "ordered", "the kept ledger cannot be read"),
    "publish > stage: names": ("keeps_its_ledger", "strict", "the kept ledger is of another file"),
    "publish > install: names": ("keeps_its_ledger", "ordered", "the kept ledger has lost its name"),
    "reopen > _move: data": ("is_repaired_in_the_cache", "ordered", "its bytes are wrong"),
    "reopen > _move > _claim > create > write: checkpoint": (
        "is_repaired",
        "ordered",
        "neither of its slots",
    ),
    "reopen > _move > _claim: names": ("is_repaired", "strict", "were durable and are lost"),
    "reopen > _move: names": ("is_repaired", "ordered", "under the final name stands ?"),
    "take_back > rename: names": ("is_repaired", "strict", "were durable and are lost"),
    "replace_one > _write: ledger": ("keeps_its_ledger", "ordered", "the kept ledger cannot be read"),
    "replace_one > install: names": ("keeps_its_ledger", "ordered", "the kept ledger has lost its name"),
}


@pytest.fixture
def checked(shared_memory: Path) -> Path:
    """The directory that the states are put into."""
    path = shared_memory / "state"
    path.mkdir()
    return path


def wrong(trace: Trace, directory: Path, mode: Mode) -> Iterator[str]:
    """Yields what is wrong, in very many states."""
    checker = Checker(trace, directory)
    for state in states(trace, mode, singles=50, at_least=3000, combined=7):
        yield from checker.wrong(state)


def must_hold(trace: Trace, state: State, found: list[str]) -> None:
    """Fails when something was found, and says how to look at it again."""
    if found:
        kept = Path(tempfile.gettempdir(), f"fastxfer-{trace.name}.trace")
        kept.write_bytes(pickle.dumps(trace))
        pytest.fail("\n".join([*found, f"again: python -m tests.crash.check {kept} '{state}'"]))


def recorded(directory: Path, what: str, **recorder: str) -> Trace:
    """Returns the trace of a scenario, or of a killed run, that is power-safe; of a `shared` one where locks
    prove nothing.
    """
    shared = what.startswith("shared ")
    what = what.removeprefix("shared ")
    if what.startswith("killed at "):
        _, _, when, durability = what.split()
        return runs.record_killed(
            directory / "run", when, durability=(durability, "periodic"), shared=shared, **recorder
        )
    return runs.record(directory / "run", what, "periodic", "mmap", shared=shared, **recorder)


# ---- every state of every run ----


@pytest.mark.parametrize("scenario", runs.SCENARIOS)
def test_a_cut_at_any_moment_leaves_what_was_promised(
    shared_memory: Path, checked: Path, scenario: str
) -> None:
    rng = random.Random(scenario)
    for durability, sink in POLICIES:
        trace = runs.record(shared_memory / f"{durability}-{sink}", scenario, durability, sink)
        checker = Checker(trace, checked)
        for mode in MODES:
            for state in states(trace, mode, singles=SINGLES, at_least=AT_LEAST):
                found = checker.wrong(state)
                if durability != "none" and state.promise.final and rng.random() < RESUMES:
                    found += checker.resumes(state, rng.choice([runs.V1, runs.V2]))
                    if DAMAGED in trace.objects:
                        found += checker.repairs(state)
                must_hold(trace, state, found)


@pytest.mark.parametrize("sink", ["mmap", "pwrite"])
@pytest.mark.parametrize("durability", [("periodic", "periodic"), ("chunk", "periodic"), ("none", "chunk")])
@pytest.mark.parametrize("when", ["3", "9", "link"])
def test_a_cut_after_a_kill_leaves_what_was_promised(
    shared_memory: Path, checked: Path, when: str, durability: tuple[str, str], sink: str
) -> None:
    trace = runs.record_killed(shared_memory / "run", when, durability=durability, sink=sink)
    checker = Checker(trace, checked)
    for mode in MODES:
        for state in states(trace, mode, singles=SINGLES, at_least=FEW):
            must_hold(trace, state, checker.wrong(state))


@pytest.mark.parametrize("scenario", [each.__name__ for each in runs.SHARED])
def test_a_cut_where_locks_prove_nothing_leaves_what_was_promised(
    shared_memory: Path, checked: Path, scenario: str
) -> None:
    rng = random.Random(scenario)
    for durability, sink in (("none", "mmap"), ("periodic", "pwrite"), ("chunk", "pwrite")):
        trace = runs.record(shared_memory / durability, scenario, durability, sink, shared=True)
        checker = Checker(trace, checked)
        for mode in MODES:
            for state in states(trace, mode, singles=SINGLES, at_least=FEW):
                found = checker.wrong(state)
                if durability != "none" and rng.random() < RESUMES:
                    found += checker.resumes(state, rng.choice([runs.V1, runs.V2]))
                must_hold(trace, state, found)


@pytest.mark.parametrize("durability", [("periodic", "periodic"), ("none", "chunk")])
@pytest.mark.parametrize("when", ["3", "link"])
def test_a_cut_while_somebody_takes_over_leaves_what_was_promised(
    shared_memory: Path, checked: Path, when: str, durability: tuple[str, str]
) -> None:
    trace = runs.record_killed(shared_memory / "run", when, durability=durability, sink="pwrite", shared=True)
    checker = Checker(trace, checked)
    for mode in MODES:
        for state in states(trace, mode, singles=SINGLES, at_least=FEW):
            must_hold(trace, state, checker.wrong(state))


# ---- each sync is needed ----


@pytest.mark.parametrize("site", TEETH)
def test_a_sync_that_is_taken_out_is_found(shared_memory: Path, checked: Path, site: str) -> None:
    what, mode, expected = TEETH[site]
    trace = recorded(shared_memory, what, without=site)
    assert any(each.endswith(site) for each in trace.sites)
    assert any(expected in line for line in wrong(trace, checked, mode))


def test_no_place_syncs_that_is_not_tried(shared_memory: Path) -> None:
    found: set[str] = set()
    shared = {f"shared {each.__name__}" for each in runs.SHARED} | {"shared killed at 3 periodic"}
    for number, what in enumerate({what for what, _, _ in TEETH.values()} | {*runs.SCENARIOS} | shared):
        (shared_memory / str(number)).mkdir()
        found |= recorded(shared_memory / str(number), what).sites
    assert {site for site in found if not site.endswith(tuple(TEETH))} == set()
    assert [site for site in TEETH if not any(each.endswith(site) for each in found)] == []


def counts_that_others_see(trace: Trace) -> set[int]:
    """Returns what the count of the owner's record was, on the disk, which is what another machine reads."""
    disk, counts = Disk("strict"), set()
    for event in trace.events:
        disk.play(event)
        if isinstance(event, Sync) and (file := disk.durable.files.get(event.file)) is not None:
            record = decode(bytes(file.data))
            counts |= {record.count} if record is not None else set()
    return counts


def test_others_see_the_owner_live_since_each_renewal_is_synced(shared_memory: Path) -> None:
    trace = recorded(shared_memory, "shared to_the_end")
    assert len(counts_that_others_see(trace)) > 3
    (shared_memory / "without").mkdir()
    trace = recorded(shared_memory / "without", "shared to_the_end", without="_renew > _write: record")
    assert counts_that_others_see(trace) == {1}


# ---- other ways to be wrong ----


def slot_before_data(part: PartFile, partials: Partials = (), *, paused: bool = False) -> None:
    """`PartFile.sync` in the wrong order."""
    assert part._checkpoint is not None
    snapshot = part._snapshot(partials, paused, b"")
    part._checkpoint.write(replace(snapshot, durable=snapshot.claimed), durable=True)
    os.fdatasync(part.fd)
    part._durable = snapshot.claimed


def claims_called_durable(part: PartFile, partials: Partials = (), *, paused: bool = False) -> None:
    """`PartFile.claim` that calls durable what it claims."""
    assert part._checkpoint is not None
    snapshot = part._snapshot(partials, paused, b"")
    part._checkpoint.write(replace(snapshot, durable=snapshot.claimed), durable=False)


_write = CheckpointFile.write


def in_one_slot(file: CheckpointFile, checkpoint: Checkpoint, *, durable: bool) -> None:
    """`CheckpointFile.write` without a second slot."""
    file._index, file._durable_index = 1, None
    _write(file, checkpoint, durable=durable)


@pytest.mark.parametrize(
    ("owner", "name", "mistake", "expected"),
    [
        (PartFile, "sync", slot_before_data, "its bytes are wrong"),
        (PartFile, "claim", claims_called_durable, "its bytes are wrong"),
        (CheckpointFile, "write", in_one_slot, "neither of its slots holds"),
    ],
)
def test_a_mistake_is_found(
    shared_memory: Path,
    checked: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    mistake: Callable[..., None],
    expected: str,
) -> None:
    monkeypatch.setattr(owner, name, mistake)
    trace = recorded(shared_memory, "to_the_end")
    monkeypatch.undo()
    assert any(expected in line for line in wrong(trace, checked, "ordered"))


def test_without_syncs_wrong_bytes_may_come_under_the_final_name(shared_memory: Path, checked: Path) -> None:
    """What `durability="none"` does not promise: the page says so, and the checker sees it."""
    trace = runs.record(shared_memory / "run", "to_the_end", "none", "mmap")
    checker = Checker(trace, checked)
    versions = {
        checker._version(state.image.of(NAME))
        for state in states(trace, "strict", singles=SINGLES, at_least=FEW)
    }
    assert {None, runs.V1, "?"} == versions


# ---- a sync that fails ----

FAILING = [
    ("sync > _synced: data", 1),
    ("sync > _synced: data", 3),
    ("sync > write: checkpoint", 2),
    ("create > write: checkpoint", 1),
    ("_sync_names: names", 1),
    ("publish > publish > _synced: data", 1),
    ("publish > publish: names", 1),
]


@pytest.mark.parametrize("evict", ["early", "late"])
@pytest.mark.parametrize(("site", "at"), FAILING)
def test_what_a_failed_sync_lost_is_not_trusted_again(
    shared_memory: Path, checked: Path, site: str, at: int, evict: str
) -> None:
    trace = runs.record(
        shared_memory / "run",
        "meets_a_sync_that_fails",
        "periodic",
        "mmap",
        failing=site,
        failing_at=at,
        evict=evict,
    )
    assert (shared_memory / "run" / NAME).read_bytes() == trace.objects[runs.V1]
    checker = Checker(trace, checked)
    for mode in MODES:
        for state in states(trace, mode, singles=SINGLES, at_least=FEW):
            must_hold(trace, state, checker.wrong(state))


def test_chunks_that_are_kept_after_a_failed_sync_are_found(
    shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they only verified, from the cache, wrong bytes would come under the final name."""
    monkeypatch.setattr(PartFile, "_synced", lambda part, sync: sync(part.fd))
    trace = runs.record(
        shared_memory / "run",
        "meets_a_sync_that_fails",
        "periodic",
        "mmap",
        failing="sync: data",
        failing_at=3,
        evict="late",
    )
    assert (shared_memory / "run" / NAME).read_bytes() != trace.objects[runs.V1]


def test_an_older_object_is_there_until_the_new_one_is(shared_memory: Path, checked: Path) -> None:
    trace = runs.record(shared_memory / "run", "changes", "periodic", "pwrite")
    checker = Checker(trace, checked)
    versions = {
        checker._version(state.image.of(NAME))
        for mode in MODES
        for state in states(trace, mode, singles=SINGLES, at_least=FEW)
    }
    assert versions == {OLD, runs.V2}

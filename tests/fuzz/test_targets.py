"""Every target over its kept corpus, over what has its structure, and over what is long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import storage_targets
from tests.fuzz.strategies import STRATEGIES
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())
LONG = 64 * 1024
LONG_S = 5.0

assert storage_targets.checkpoint in TARGETS.values()


def test_every_target_has_a_strategy_and_a_corpus_and_the_corpus_is_small() -> None:
    assert TARGETS.keys() == STRATEGIES.keys() == {path.name for path in CORPUS.iterdir()}
    assert {path.parent.name for path in KEPT} == TARGETS.keys()
    assert sum(path.stat().st_size for path in KEPT) < 1024**2 // 2


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_stays_mended(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_has_the_structure_but_for_a_flaw_is_read_or_refused(name: str) -> None:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(STRATEGIES[name])
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_any_bytes_are_read_or_refused(name: str) -> None:
    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


# What makes a reader that goes back and forth slow: the same again and again, and a last byte that does not
# fit.
PIECES = [
    b"0",
    b" ",
    b"a",
    b"-",
    b",",
    b"bytes ",
    b"1-1,",
    b"(",
    b"[",
    b"%",
    b"\xc3\xa9",
    b"a.",
    b"\n",
    b"a: b\n",
    b"\0",
]
BEGINNINGS = [
    b"",
    b"1",
    b"bytes 0",
    b"bytes=",
    b"Sun, 06 Nov 1994 ",
    b"http://h/",
    b"http://",
    b"sha256:",
    b"K",
]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_input_of_64_kib_takes_long(name: str) -> None:
    for beginning in BEGINNINGS:
        for piece in PIECES:
            data = beginning + piece * ((LONG - len(beginning) - 1) // len(piece)) + b"!"
            before = time.thread_time()
            TARGETS[name](data)
            took_s = time.thread_time() - before
            assert took_s < LONG_S, f"{beginning!r} and {piece!r} took {took_s:.1f} s"

"""Six mirrors of known kinds: the order and each diagnosis are right, run after run."""

from __future__ import annotations

import os
from pathlib import Path

import fastxfer
from tests.mirrorbench.six import six_mirrors

SOAK = bool(os.environ.get("FASTXFER_SOAK"))  # make soak
RUNS, ROUNDS, DURATION_S = (20, 8, 1.6) if SOAK else (2, 5, 1.0)


def test_the_order_and_each_diagnosis_are_right_in_every_run(tmp_path: Path) -> None:
    wrong, missed = {}, {}
    with six_mirrors(tmp_path) as mirrors:
        for seed in range(RUNS):
            urls = mirrors.urls(seed)
            report = fastxfer.bench(urls, connections=(1, 4), duration=DURATION_S, rounds=ROUNDS, seed=seed)
            faults, misses = mirrors.faults(report), mirrors.misses(report)
            print(f"run {seed}: {report.elapsed:.1f} s, {'; '.join([*faults, *misses]) or 'all right'}")
            if faults:
                wrong[seed] = faults
            if misses:
                missed[seed] = misses
            if faults or misses:
                print(report.to_json())
    assert wrong == {}
    # Beside other tests a machine may be too busy for rates, but hardly twice.
    assert len(missed) < (1 if SOAK else RUNS), missed

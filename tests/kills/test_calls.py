"""A kill before each system call that changes something: nothing wrong is there, and all that was claimed is
kept.
"""

from __future__ import annotations

import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kills import AT_ONCE, SOAK, aftermath
from tests.kills.calls import run_with
from tests.kills.victims import Recorded

SAMPLE = 10_000 if SOAK else 6  # of each kind of call

KINDS = [
    ("openat", "dir"),
    ("flock", "part"),
    ("flock", "target"),
    ("ftruncate", "part"),
    ("ftruncate", "checkpoint"),
    ("fallocate", "part"),
    ("mmap", "part"),
    ("madvise", ""),
    ("pwrite64", "part"),
    ("pwrite64", "checkpoint"),
    ("fdatasync", "part"),
    ("fdatasync", "checkpoint"),
    ("utimensat", "part"),
    ("fsetxattr", "part"),
    ("fremovexattr", "target"),
    ("fsync", "part"),
    ("renameat", "dir"),
    ("linkat", "dir"),
    ("unlinkat", "dir"),
    ("fsync", "dir"),
]


def test_every_kind_of_call_is_known(recorded: Recorded) -> None:
    assert sorted(recorded) == sorted(KINDS)


@pytest.mark.parametrize(("name", "on"), KINDS)
def test_killed_before_a_call_it_goes_on(recorded: Recorded, tmp_path: Path, name: str, on: str) -> None:
    there = recorded[name, on]
    chosen = random.Random(f"kills {name} {on}").sample(there, min(SAMPLE, len(there)))

    def kill(number: int) -> bool:
        victim, call = chosen[number]
        victim = victim.at(tmp_path / f"{number}")
        victim.prepare()
        ended, killed = run_with("signal=SIGKILL", call, victim.command(), victim.out)
        assert ended.returncode == (-signal.SIGKILL if killed else 0), ended.stderr
        try:
            aftermath.check(victim, by_command=number == 0)
        except BaseException as error:
            raise AssertionError(f"{victim}, killed before {call}: {error}") from error
        shutil.rmtree(victim.directory)
        return killed

    with ThreadPoolExecutor(AT_ONCE) as pool:
        in_time = list(pool.map(kill, range(len(chosen))))
    assert any(in_time), "no kill came in time"

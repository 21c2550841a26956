"""Each system call that changes something is refused, with each error that file systems give: what the fetch
says, what it keeps, and that it goes on afterwards.

An error of these calls is taken without a word, on purpose:

fsetxattr, fremovexattr the record of an ETag, and the mark of a small part file: without the one, size and
                        time still tell; without the other, what a crash left is moved aside, or what is
                        whole stays marked, which nobody looks at
utimensat, with EPERM   of a part file that belongs to someone else: its time stays what it is
flock, with ENOLCK      a file system without locks
fallocate, EOPNOTSUPP   one that cannot reserve; sink=mmap needs it, and says so
linkat, EPERM, EMLINK   one without hard links: a look, and a rename
"""

from __future__ import annotations

import errno
import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastxfer.cli.status import read_status
from fastxfer.units import format_size
from tests.kills import AT_ONCE, SOAK, aftermath
from tests.kills.calls import Call, run_with
from tests.kills.victims import Recorded, Victim

SAMPLE = 10_000 if SOAK else 1  # of each kind of call, for each error

FULL = ("ENOSPC", "EDQUOT")
DISK = (*FULL, "EIO", "EROFS")
ERRORS = {
    ("openat", "dir"): (*DISK, "EACCES"),
    ("flock", "part"): ("EIO", "ENOLCK"),
    ("flock", "target"): ("EIO",),
    ("ftruncate", "part"): (*DISK, "EFBIG"),
    ("ftruncate", "checkpoint"): (*DISK, "EFBIG"),
    ("fallocate", "part"): (*DISK, "EFBIG", "EOPNOTSUPP"),
    ("mmap", "part"): ("ENOMEM", "ENODEV"),
    ("madvise", ""): ("ENOMEM",),
    ("pwrite64", "part"): (*FULL, "EIO", "EFBIG"),
    ("pwrite64", "checkpoint"): (*FULL, "EIO", "EFBIG"),
    ("fdatasync", "part"): (*FULL, "EIO"),
    ("fdatasync", "checkpoint"): (*FULL, "EIO"),
    ("utimensat", "part"): ("EIO", "EROFS", "EPERM"),
    ("fsetxattr", "part"): (*DISK, "EOPNOTSUPP"),
    ("fremovexattr", "target"): ("EIO", "EROFS"),
    ("fsync", "part"): (*FULL, "EIO"),
    ("renameat", "dir"): DISK,
    ("linkat", "dir"): (*DISK, "EPERM", "EMLINK"),
    ("unlinkat", "dir"): ("EIO", "EROFS", "EACCES"),
    ("fsync", "dir"): (*FULL, "EIO"),
}
TAKEN = {
    *(("fsetxattr", "part", name) for name in ERRORS["fsetxattr", "part"]),
    *(("fremovexattr", "target", name) for name in ERRORS["fremovexattr", "target"]),
    ("utimensat", "part", "EPERM"),
    ("flock", "part", "ENOLCK"),
    ("flock", "target", "EIO"),  # closing it gives the lock back too
    ("fallocate", "part", "EOPNOTSUPP"),
    ("linkat", "dir", "EPERM"),
    ("linkat", "dir", "EMLINK"),
}
WHAT_TO_DO = {
    "ENOSPC": "free some space and run it again",
    "EDQUOT": "free some of the quota and run it again",
    "EIO": "the disk, or the way to it, fails: look at",
    "EROFS": "mounted read-only: have it",
    "EACCES": "check the permissions",
    "EFBIG": "a limit (ulimit -f)",
    "ENOMEM": "use sink=pwrite",
    "ENODEV": "sink=auto or pwrite",
    "EOPNOTSUPP": "sink=auto or pwrite",
}


def refuse(victim: Victim, call: Call, name: str) -> None:
    """Refuses a call of a victim with an error, looks at what it says, and runs it again."""
    victim.prepare()
    ended, refused = run_with(f"error={name}", call, victim.command(), victim.out)
    last = json.loads(ended.stdout.splitlines()[-1])
    if ended.returncode:
        typed(victim, last, ended.returncode, name)
    elif refused:
        assert (call.name, call.on, name) in TAKEN or call.name == "madvise", "nothing was said"
    aftermath.check(victim)
    shutil.rmtree(victim.directory)


def typed(victim: Victim, told: dict[str, Any], code: int, name: str) -> None:
    """The error is of the right type, says what to do, and what is kept."""
    full = name in FULL
    assert (told["type"], code) == (("DiskFullError", 9) if full else ("StorageError", 17)), told
    assert told["errno"] == getattr(errno, name), told
    assert WHAT_TO_DO[name] in told["message"], told
    claimed = aftermath.status_works(victim)
    if "cannot open the directory" in told["message"]:
        assert told["kept"] is None, "what is in it cannot be known"
    elif not victim.part.exists() and victim.out.exists() and victim.out.read_bytes() == victim.content:
        assert told["kept"] is None, "it is whole, under its name"
    elif claimed:
        whole = format_size(read_status(str(victim.out)).size or 0)
        kept = f"{format_size(claimed)} of {whole} in {victim.part}"
        assert told["kept"] in (kept, str(victim.part)), (told, kept)
    elif told["kept"] is not None:
        assert victim.part.read_bytes() == victim.content, "all of it is there, and has no name"


def test_every_kind_of_call_is_refused(recorded: Recorded) -> None:
    assert sorted(recorded) == sorted(ERRORS)


@pytest.mark.parametrize(("name", "on"), ERRORS)
def test_a_call_that_is_refused_is_told_and_it_goes_on(
    recorded: Recorded, tmp_path: Path, name: str, on: str
) -> None:
    there = recorded[name, on]
    rng = random.Random(f"refusals {name} {on}")
    cases = [
        (victim, call, error)
        for error in ERRORS[name, on]
        for victim, call in rng.sample(there, min(SAMPLE, len(there)))
    ]

    def run(number: int) -> None:
        victim, call, error = cases[number]
        victim = victim.at(tmp_path / f"{number}")
        try:
            refuse(victim, call, error)
        except BaseException as failure:
            raise AssertionError(f"{victim}, {call} refused with {error}: {failure}") from failure

    with ThreadPoolExecutor(AT_ONCE) as pool:
        errors = [f.exception() for f in [pool.submit(run, n) for n in range(len(cases))]]
    assert not any(errors), "\n".join(str(e)[:600] for e in errors if e)

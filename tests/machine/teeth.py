"""Does the state machine notice when the package is wrong? Each break below is made in a copy of the tree,
one at a time, and the machine is run on it until it fails, or has passed:

    python -m tests.machine.teeth [WORD...]        only those breaks whose name has all words

Prints a line for each break and ends with 1 when one was missed. `make teeth` runs them all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 1800.0
PYTEST = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", "build", "dist", "mutants", ".*_cache", "bench"
)


@dataclass(frozen=True, slots=True)
class Break:
    """What is wrong then, and what is replaced in which file."""

    name: str
    path: str
    right: str
    wrong: str


BREAKS = [
    Break(
        "claims that do not hold their CRC are kept",
        "fastxfer/storage/left.py",
        "if crc_of(fd, path, start, stop) == ledger.crc(chunk):",
        "if crc_of(fd, path, start, stop) is not None:",
    ),
    Break(
        "the beginnings of chunks are kept unread",
        "fastxfer/storage/left.py",
        "if pos > start and chunk not in ledger and crc_of(fd, path, start, pos) == crc:",
        "if pos > start and chunk not in ledger:",
    ),
    Break(
        "synced chunks are trusted in another file",
        "fastxfer/storage/left.py",
        "if trust and same_boot and same_file and whole:",
        "if trust and same_boot and whole:",
    ),
    Break(
        "a file that was cut and grew again is trusted",
        "fastxfer/storage/left.py",
        "whole = size_now == size <= stat.st_blocks * 512",
        "whole = size_now == size",
    ),
    Break(
        "progress is dropped when a transfer ends early",
        "fastxfer/safekeeping.py",
        "nothing = part.ledger is not None and not part.ledger.done and not marks and not self.paused",
        "nothing = True",
    ),
    Break(
        "a change of ETag or date is not seen",
        "fastxfer/plan/response.py",
        "    reason = difference(known, told, ignore_etag=ignore_etag)\n    return Changed(",
        "    reason = None\n    return Changed(",
    ),
    Break(
        "a pause is ended unasked",
        "fastxfer/safekeeping.py",
        "return self.left is not None and self.left.checkpoint.paused and not self.options.unpause",
        "return False",
    ),
    Break(
        "a wrong checksum is no obstacle",
        "fastxfer/safekeeping.py",
        "wrong = [name for name, expected in wanted.items() if checksums[name] != expected]",
        "wrong: list[str] = []",
    ),
    Break(
        "progress of an object without validators is gone on from",
        "fastxfer/safekeeping.py",
        "return bool(decides or etag or (same_url and identity.has_validator))",
        "return True",
    ),
    Break(
        "a complete part file is published without a question",
        "fastxfer/download.py",
        "if left is not None and left.ledger.complete and self.options.checksum:",
        "if left is not None and left.ledger.complete:",
    ),
    Break(
        "a CRC-64 is reckoned from checksums of chunks that nobody read",
        "fastxfer/safekeeping.py",
        'trust = "crc64nvme" not in dict(self.options.checksum)',
        "trust = True",
    ),
    Break(
        "bytes of two versions go under the ETag of the later",
        "fastxfer/safekeeping.py",
        "identity if options.ignore_etag else agreed(known, identity)",
        "identity",
    ),
    Break(
        "a ledger stays beside a file that it is not of",
        "fastxfer/ledgers.py",
        "if not (options.keep_ledger or any(kept.is_one(target.directory, name) for name in names)):",
        "if not options.keep_ledger:",
    ),
    Break(
        "exists=error replaces",
        "fastxfer/safekeeping.py",
        'if options.exists == "error":',
        'if options.exists == "never":',
    ),
    Break(
        "a finished file of the right size is taken to be current",
        "fastxfer/storage/publish.py",
        "return int(there.st_mtime) == int(modified)",
        "return True",
    ),
    Break(
        "verify looks whether a chunk has a checksum, not whether it holds",
        "fastxfer/examining.py",
        "holds = chunk in found and found.crc(chunk) == crc",
        "holds = chunk in found",
    ),
]


def is_noticed(broken: Break) -> tuple[bool, str]:
    """Runs the machine on a copy with this break; returns whether it failed, and by which error."""
    with tempfile.TemporaryDirectory(prefix="fastxfer-teeth-") as directory:
        copy = Path(directory) / "tree"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        path = copy / broken.path
        path.write_text(path.read_text().replace(broken.right, broken.wrong))
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "--tb=line",
                "-p",
                "no:cacheprovider",
                "tests/machine",
            ],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "FASTXFER_TEETH": "1"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    if ended.returncode not in (0, 1):
        raise RuntimeError(f"{broken.name}: the tests could not be run\n{ended.stdout}{ended.stderr}")
    errors = [line for line in ended.stdout.splitlines() if "Error" in line]
    return ended.returncode == 1, errors[0].rpartition("/")[2][:160] if errors else ""


def main(words: list[str]) -> int:
    """Runs the breaks whose names have all words; returns the exit status."""
    missed = 0
    for broken in BREAKS:
        if all(word in broken.name for word in words):
            began = time.monotonic()
            noticed, how = is_noticed(broken)
            missed += not noticed
            took = time.monotonic() - began
            print(f"{'noticed' if noticed else 'MISSED'} {took:4.0f} s  {broken.name}  {how}", flush=True)
    return min(missed, 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

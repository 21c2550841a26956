"""A disk that is full or cannot be written ends a run, and what came before stays right."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from fastxfer.errors import StorageError
from fastxfer.small import Wanted
from tests.servers import find_program
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.small.fetching import fetch

DEADLINE_S = 120.0


# On a disk of its own, of 256 KiB.
FULL = """
import subprocess, sys
from pathlib import Path
from fastxfer.errors import DiskFullError
from fastxfer.small import Wanted
from tests.small.fetching import fetch, files_below
url, place, source = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=True)
root, data = Path(place), Path(source).read_bytes()
wanted = [Wanted(url, str(number)) for number in range(500)]
try:
    fetch(root, wanted)
except DiskFullError as error:
    print(error.exit_code, error.errno)
there = files_below(root)
print(0 < len(there) < 33, set(there.values()) == {data})
for name in list(there)[10:]:
    (root / name).unlink()
came, failed = fetch(root, wanted[:20])
print(len(came), failed, set(files_below(root).values()) == {data})
"""


def test_a_full_disk_ends_the_run_and_leaves_nothing_wrong(
    nginx: Nginx, objects: Objects, root: Path
) -> None:
    made = objects.make(8192, seed=77)
    unshare = find_program("unshare", install="apt-get install util-linux")
    done = subprocess.run(
        [
            *(unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])),
            *(sys.executable, "-c", FULL, nginx.url(made.name), str(root), str(made.path)),
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    expected = [f"9 {errno.ENOSPC}", "True True", "20 {} True"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_a_directory_that_a_file_stands_for_fails_only_what_is_in_it(
    nginx: Nginx, objects: Objects, root: Path
) -> None:
    made = objects.make(8192, seed=77)
    (root / "file").write_bytes(b"theirs")
    came, failed = fetch(root, [Wanted(nginx.url(made.name), name) for name in ("file/x", "y")])
    assert set(came) == {"y"} and isinstance(failed["file/x"], StorageError)
    assert (root / "file").read_bytes() == b"theirs"

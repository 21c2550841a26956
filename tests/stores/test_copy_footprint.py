"""What a copy takes of the machine: bounded memory, and of the disk nothing but its checkpoint."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, environment, events
from tests.servers import find_program
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import Store
from tests.stores.putting import MIB, OSS_PART, options, url

DEADLINE_S = 300.0
SIZE = 1 << 30
# Runs the command in a process whose peak is told at the end; rusage would tell that of the tests, too.
MEASURED = r"""
import re, sys
from fastxfer.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)
"""


def words(store: Store, **more: object) -> list[str]:
    given = {**options(store), **more}
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def peak_of(*arguments: str) -> tuple[int, dict[str, object]]:
    """Returns the most memory that a copy had, in bytes, and its result."""
    argv = [sys.executable, "-c", MEASURED, *arguments, "--json"]
    done = subprocess.run(argv, capture_output=True, env=environment(), timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) << 10, events(done.stdout.decode())[-1]


@pytest.mark.parametrize("prefix", ["", "/noranges"])
def test_memory_is_bounded_however_large_the_object(
    nginx: Nginx, objects: Objects, seaweedfs: SeaweedFs, tmp_path: Path, prefix: str
) -> None:
    store = seaweedfs.store().make_bucket()
    small = objects.make(1, seed=50)
    sparse = objects.root / "sparse-1g"
    with sparse.open("wb") as file:
        file.truncate(SIZE)
    try:
        given = words(store, memory="48M", part_size="8M", checkpoint_dir=tmp_path / "kept")
        least, _ = peak_of("copy", nginx.url(small.name), url(store, "small"), *given)
        most, result = peak_of("copy", nginx.url(sparse.name, prefix=prefix), url(store), *given)
        assert (result["parts"], result["verified"]) == (128, "server")
        assert result["by"] == ("stream" if prefix else "relay")
        head = store.head("o")
        assert head is not None and head["ContentLength"] == SIZE
        # Beside the parts: libcurl's buffers of some connections, and the interpreter's own.
        assert most - least < 48 * MIB + 32 * MIB, f"{most >> 20} MiB, of a small one {least >> 20} MiB"
        print(json.dumps({"peak_mib": most >> 20, "small_mib": least >> 20}))
    finally:
        sparse.unlink()
        store.delete("o")


@pytest.mark.parametrize("size", [1000, 20 * OSS_PART])
def test_nothing_is_written_to_the_disk_but_the_checkpoint(
    nginx: Nginx, objects: Objects, small: Store, tmp_path: Path, size: int
) -> None:
    thing, kept, log = objects.make(size, seed=51), tmp_path / "kept", tmp_path / "calls"
    given = words(small, part_size=OSS_PART, checkpoint_dir=kept)
    strace = find_program("strace", install="apt-get install strace (or run .ci/install-packages)")
    calls = "trace=creat,open,openat,openat2,write,pwrite64,pwritev,writev,memfd_create"
    argv = [strace, "-f", "-y", "-s", "0", "-o", str(log), "-e", calls, *COMMAND]
    env = environment({"PYTHONDONTWRITEBYTECODE": "1"})
    done = subprocess.run(
        [*argv, "copy", nginx.url(thing.name), url(small), *given],
        capture_output=True, env=env, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert small.get("o") == thing.path.read_bytes()
    lines = log.read_text().splitlines()
    opened = [line for line in lines if re.search(r" (creat|open|openat|openat2)\(", line)]
    assert len(opened) > 50 and not any("memfd_create" in line for line in lines)
    to_write = [line for line in opened if re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE|creat\(", line)]
    names = {found[1] for line in to_write if (found := re.search(r"= \d+<([^>]*)>", line))}
    assert names <= {str(each) for each in _allowed(kept, names)}, names
    checkpoints = {name for name in names if name.startswith(str(kept))}
    assert bool(checkpoints) == (size > OSS_PART)
    written = [re.search(r" (?:write|pwrite64|writev|pwritev)\(\d+<([^>]*)>", line) for line in lines]
    files = {found[1] for found in written if found is not None and found[1].startswith("/")}
    assert files <= {*checkpoints, *filter(_is_of_the_hosts, names), "/dev/null"}, files


def _allowed(kept: Path, names: set[str]) -> list[str]:
    """Returns those names that are devices, a checkpoint's, or of what is known of hosts, in memory."""
    working = re.compile(re.escape(str(kept)) + r"/\.copy\.[0-9a-f]+\.fxput(\.new|\.lock)?( \(deleted\))?")
    devices = ("/dev/null", "/dev/tty")
    return [name for name in names if working.fullmatch(name) or name in devices or _is_of_the_hosts(name)]


def _is_of_the_hosts(name: str) -> bool:
    return name.startswith(f"{os.environ['XDG_RUNTIME_DIR']}/fastxfer/hosts")

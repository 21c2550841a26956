"""Disks that are full, limited, read-only or not ours, for real: typed errors, nothing leaks, and once it is
mended the fetch goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kills import loop_disks
from tests.kills.real_disks import DEADLINE_S, MOUNTING, OF_LOOP_DEVICES, UNMOUNTED
from tests.servers import find_program


def loop_devices() -> bool:
    """Returns whether an image can be mounted: not every container's root may do that."""
    if os.geteuid() != 0:
        return False
    losetup = find_program("losetup", install="apt-get install util-linux")
    return (
        subprocess.run([losetup, "-f"], capture_output=True, timeout=DEADLINE_S, check=False).returncode == 0
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that any user can reach."""
    with tempfile.TemporaryDirectory(prefix="fastxfer-disk-") as directory:
        os.chmod(directory, 0o755)
        (Path(directory) / "place").mkdir()
        yield Path(directory) / "place"


def run(case: str, place: Path, sink: str, *, mounting: bool, cases: str = "real_disks") -> None:
    command = [sys.executable, "-m", f"tests.kills.{cases}", case, str(place), sink]
    if mounting:
        unshare = find_program("unshare", install="apt-get install util-linux")
        command = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr


# Where no image can be mounted, what the case needs one for is refused by strace alone (test_refusals).
WITH_MOUNTS = [(case, sink) for case in MOUNTING for sink in ("auto", "direct", "mmap")]
WITH_MOUNTS += [(case, "auto") for case in OF_LOOP_DEVICES if loop_devices()]
IN_IMAGES = [(case, sink) for case, (_, sinks) in loop_disks.CASES.items() for sink in sinks]


@pytest.mark.parametrize(("case", "sink"), IN_IMAGES if loop_devices() else [])
def test_a_disk_in_an_image_refuses_and_it_goes_on(place: Path, case: str, sink: str) -> None:
    run(case, place, sink, mounting=True, cases="loop_disks")


@pytest.mark.parametrize(("case", "sink"), WITH_MOUNTS)
def test_a_disk_that_refuses_is_told_and_it_goes_on(place: Path, case: str, sink: str) -> None:
    run(case, place, sink, mounting=True)


@pytest.mark.parametrize("sink", ["auto", "direct", "mmap"])
@pytest.mark.parametrize("case", UNMOUNTED)
def test_a_limit_or_a_missing_right_is_told_and_it_goes_on(place: Path, case: str, sink: str) -> None:
    run(case, place, sink, mounting=False)

"""What a kill leaves: no wrong byte under a final name, and nothing that the next run does not remove; and
that a run's memory does not grow with its length.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastxfer.errors import TargetBusyError
from tests.servers.nginx import Nginx
from tests.small.fetching import fetch, files_below, make_set, wanted_of

SOAK = bool(os.environ.get("FASTXFER_SOAK"))  # make soak
KILLS = 300 if SOAK else 8
COUNT = 600
ENTRIES = 200_000 if SOAK else 24_000
DEADLINE_S = 900.0 if SOAK else 240.0
GROWTH = 6 << 20


@pytest.fixture(scope="module")
def content(document_root: Path) -> dict[str, bytes]:
    """The objects, by name."""
    return make_set(document_root, "killed", COUNT)


@pytest.fixture
def urls(nginx: Nginx, content: dict[str, bytes], tmp_path: Path) -> Path:
    """The list for the victim."""
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{nginx.url(name)} {name}\n" for name in content))
    return path


def victim(urls: Path, root: Path, durability: str, *more: str) -> subprocess.Popen[bytes]:
    """Starts a run in a process of its own."""
    command = [sys.executable, "-m", "tests.small.victim", str(urls), str(root), durability, *more]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)


def told(root: Path) -> list[str]:
    path = root.with_name(root.name + ".told")
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("durability", ["none", "periodic"])
def test_a_kill_leaves_no_wrong_byte_and_the_next_run_ends_it(
    nginx: Nginx, root: Path, urls: Path, content: dict[str, bytes], durability: str
) -> None:
    chance = random.Random(durability)
    for _ in range(KILLS):
        names, already = chance.randrange(1, COUNT), len(files_below(root))
        nginx.forget()
        with victim(urls, root, durability) as process:
            # After so many answers of the server: in the middle of what is done with them.
            nginx.requests(count=min(names, 1 + (COUNT - already) // 2), deadline_s=60)
            process.send_signal(signal.SIGKILL)
        there = files_below(root)
        for name, data in there.items():
            assert name.endswith(".fxnew") or data == content[name], name
        assert all(there[name] == content[name] for name in told(root))
    came, failed = fetch(root, wanted_of(nginx, content), durability=durability)
    assert failed == {} and len(came) == COUNT
    assert files_below(root) == content


def test_what_a_kill_left_under_a_working_name_goes(
    nginx: Nginx, root: Path, content: dict[str, bytes]
) -> None:
    for name in content:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.fxnew").write_bytes(b"half")
    _, failed = fetch(root, wanted_of(nginx, content))
    assert failed == {} and files_below(root) == content


@pytest.mark.parametrize("others", [0, 5000], ids=["a small folder", "a large folder"])
def test_a_single_one_is_found_wherever_it_stands_and_whenever_its_turn_comes(
    nginx: Nginx, root: Path, content: dict[str, bytes], others: int
) -> None:
    names = [name for name in content if name.startswith("killed/4/")]
    folder = (root / names[0]).parent
    folder.mkdir(parents=True)
    for number in range(others):
        (folder / f"other{number}").touch()
    left = root / f"{names[-1]}.fxnew"
    left.write_bytes(b"half")
    _, failed = fetch(root, wanted_of(nginx, names))
    assert failed == {} and not left.exists()
    assert all((root / name).read_bytes() == content[name] for name in names)


def test_what_somebody_may_be_writing_is_left_alone(
    nginx: Nginx, root: Path, content: dict[str, bytes]
) -> None:
    name = next(name for name in content if name.startswith("killed/4/"))
    folder = (root / name).parent
    folder.mkdir(parents=True)
    left = root / f"{name}.fxnew"
    left.write_bytes(b"theirs")
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        _, failed = fetch(root, wanted_of(nginx, [name]))
        assert isinstance(failed[name], TargetBusyError)
        assert left.read_bytes() == b"theirs" and not (root / name).exists()
    finally:
        os.close(lock)
    _, failed = fetch(root, wanted_of(nginx, [name]))
    assert failed == {} and files_below(root) == {name: content[name]}


def test_two_runs_at_once_end_well(nginx: Nginx, root: Path, urls: Path, content: dict[str, bytes]) -> None:
    runs = [victim(urls, root, "none") for _ in range(2)]
    for process in runs:
        process.communicate(timeout=DEADLINE_S)
    there = files_below(root)
    assert {name for name in there if name.endswith(".fxnew")} == set()
    assert there == content
    # Both may want to write one object at a time: then one of them says so.
    assert {process.returncode for process in runs} <= {0, 1}


def test_the_memory_of_a_run_does_not_grow_with_it(
    nginx: Nginx, shared_memory: Path, tmp_path: Path, content: dict[str, bytes]
) -> None:
    names = [name for name, data in content.items() if len(data) == 100][:100]
    urls = tmp_path / "urls.txt"
    urls.write_text("".join(f"{nginx.url(name)} {name}\n" for name in names))
    root = shared_memory / "many"
    root.mkdir()
    with victim(urls, root, "none", str(ENTRIES // len(names))) as process:
        printed, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    early, late = map(int, printed.split())
    assert late - early < GROWTH
    assert sum(1 for path in root.rglob("*") if path.is_file()) == ENTRIES

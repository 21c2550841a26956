"""The SIGBUS guard in C (guard_check.c): built plainly, with the sanitizers of memory and undefined behaviour
and with that of threads; the second also looks for leaks.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.servers import find_program

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("guard_check.c")
KERNELS = [
    "guard",
    "pages",
    "writer",
    "direct",
    "bitmap",
    "crc64",
    "crc64_portable",
    "crc64_x86",
    "crc64_arm",
]
FACTS = re.findall(r"^    FACT\((\w+)\),$", SOURCE.read_text(), re.MULTILINE)
BUILDS = {
    "plain": ["-O2"],
    "memory": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "threads": ["-O1", "-g", "-fsanitize=thread"],
}
# The sanitizers have handlers of their own; nothing else of this process's settings for them counts.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    "ASAN_OPTIONS": "handle_sigbus=0:detect_leaks=1",
    "TSAN_OPTIONS": "handle_sigbus=0:halt_on_error=1",
}
DEADLINE_S = 120


@pytest.fixture(scope="module", params=BUILDS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of a build."""
    made = tmp_path_factory.mktemp("guard") / "guard_check"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'src_c'}"]
    sources = [SOURCE, *(ROOT / "src_c" / f"{kernel}.c" for kernel in KERNELS)]
    compiler = find_program("cc", install="apt-get install gcc libc6-dev")
    subprocess.run(
        [compiler, *flags, *BUILDS[request.param], *sources, "-pthread", "-lm", "-o", made],
        check=True,
        env=ENVIRONMENT,
        timeout=DEADLINE_S,
    )
    return made


@pytest.mark.parametrize("fact", FACTS)
def test_the_guard(program: Path, fact: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [program, fact, tmp_path / "part"],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=DEADLINE_S,
    )
    assert run.returncode == (-signal.SIGBUS if fact.startswith("dies") else 0), run
    assert not run.stderr, run


def test_there_are_facts() -> None:
    assert len(FACTS) >= 18
    assert any(fact.startswith("dies") for fact in FACTS)

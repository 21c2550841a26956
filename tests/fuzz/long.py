"""Fuzzing for long, one target after another: `python -m tests.fuzz.long [TARGET...] [--seconds N] [--keep]`.

With atheris, guided by coverage, where it is installed; else hypothesis, with many examples. The inputs of a
run are kept in .fuzz/TARGET and taken up by the next one. A finding is written into the target's corpus,
where the next test run meets it, and ends the run with status 1. With --keep what reaches code that the
corpus does not reach goes into the corpus as well, where it is small.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
WORK = ROOT / ".fuzz"
MAX_INPUT = 4096
KEPT_INPUT = 600
KEPT_FILES = 60
UNIT_TIMEOUT_S = 20
MEMORY_MIB = 2048


def write(name: str, data: bytes) -> Path:
    """Puts an input into a target's corpus, under a name made from its bytes."""
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
    path.write_bytes(data)
    return path


def by_coverage(name: str, seconds: float, keep: bool) -> bool:
    """Runs a target under atheris; returns whether it held."""
    work, findings = WORK / name, WORK / f"{name}-findings"
    for directory in (work, findings):
        directory.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={max(1, round(seconds))}", f"-max_len={MAX_INPUT}", f"-timeout={UNIT_TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={findings}{os.sep}", "-print_final_stats=1",
        str(work), str(CORPUS / name),
    ]  # fmt: skip
    held = _atheris(name, options, seconds + 300)
    print(f"{name}: {_executed(name)}")
    for finding in sorted(findings.iterdir()):
        print(f"{name}: {write(name, finding.read_bytes())} ({finding.name.partition('-')[0]})")
        finding.unlink()
    if keep and held:
        _keep(name, work)
    return held


def _atheris(name: str, options: list[str], deadline_s: float) -> bool:
    """Runs libFuzzer, with what it says in .fuzz/TARGET.log; returns whether it ended well."""
    command = [sys.executable, "-m", "tests.fuzz.guided", name, *options]
    with (WORK / f"{name}.log").open("wb") as log:
        return not subprocess.run(
            command, cwd=ROOT, timeout=deadline_s, check=False, stdout=log, stderr=subprocess.STDOUT
        ).returncode


def _executed(name: str) -> str:
    log = (WORK / f"{name}.log").read_text(errors="replace")
    found = re.search(r"stat::number_of_executed_units: *(\d+)", log)
    return f"{int(found[1]):,} inputs" if found else f"see .fuzz/{name}.log"


def _keep(name: str, work: Path) -> None:
    """Takes the smallest inputs that together reach what the work of a run reached into the corpus."""
    cover = WORK / f"{name}-cover"
    cover.mkdir(exist_ok=True)
    for old in cover.iterdir():
        old.unlink()
    for known in (CORPUS / name).iterdir():
        (cover / known.name).write_bytes(known.read_bytes())
    before = {path.name for path in cover.iterdir()}
    _atheris(name, ["-merge=1", f"-max_len={KEPT_INPUT}", str(cover), str(work)], 600)
    fresh = sorted((p for p in cover.iterdir() if p.name not in before), key=lambda p: p.stat().st_size)
    for path in fresh[: max(0, KEPT_FILES - len(before))]:
        write(name, path.read_bytes())


def by_structure(name: str, seconds: float) -> bool:
    """Runs a target with hypothesis, where there is no atheris; returns whether it held."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from tests.fuzz.strategies import STRATEGIES
    from tests.fuzz.targets import TARGETS

    failing: list[bytes] = []
    end = time.monotonic() + seconds

    @settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(STRATEGIES[name], st.binary(max_size=MAX_INPUT)))
    def holds(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except BaseException:
            failing[:] = [data]
            raise

    while time.monotonic() < end:
        try:
            holds()
        except Exception as error:  # noqa: BLE001 (anything at all is a finding)
            print(f"{name}: {write(name, failing[0])} ({type(error).__name__})")
            return False
    return True


def main() -> int:
    """Runs the targets that are named, or all."""
    from tests.fuzz.strategies import STRATEGIES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *STRATEGIES], help="default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: 60)")
    parser.add_argument("--keep", action="store_true", help="keep what reaches new code in the corpus")
    given = parser.parse_args()
    guided = importlib.util.find_spec("atheris") is not None
    print(
        "by coverage, with atheris" if guided else "by structure, with hypothesis: there is no atheris here"
    )
    broken = []
    for name in given.targets or sorted(STRATEGIES):
        held = by_coverage(name, given.seconds, given.keep) if guided else by_structure(name, given.seconds)
        print(f"{name}: {'held' if held else 'BROKEN'}", flush=True)
        broken += [] if held else [name]
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())

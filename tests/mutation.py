"""Mutation testing of fastxfer/plan: `python -m tests.mutation` (make mutate) runs it and prints the score.

mutmut changes one thing at a time in a copy of the package (a comparison, a number, a word, an argument) and
runs tests/plan on it. A mutant that no test notices is listed with its change: a rule is missing from the
tests, or the code says something that makes no difference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTMUT = str(Path(sys.executable).with_name("mutmut"))
KILLED = {"killed", "timeout"}
DEADLINE_S = 4 * 3600


def told(*arguments: str) -> str:
    """Returns what mutmut prints."""
    ran = subprocess.run(
        [MUTMUT, *arguments], cwd=ROOT, timeout=DEADLINE_S, stdout=subprocess.PIPE, text=True, check=True
    )
    return ran.stdout


def verdicts() -> dict[str, str]:
    """Returns what became of each mutant, by its name."""
    lines = (line.strip().partition(": ") for line in told("results", "--all", "true").splitlines())
    return {name: verdict for name, colon, verdict in lines if colon}


def change(mutant: str) -> list[str]:
    """Returns the lines that a mutant takes out and puts in."""
    lines = told("show", mutant).splitlines()
    return [line for line in lines if line[:1] in ("-", "+") and line[:3] not in ("---", "+++")]


def main() -> int:
    """Runs all mutants and prints which survived and how many did not; 1 when too many did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="at once (default: 2)")
    parser.add_argument("--at-least", type=float, default=90.0, help="percent killed (default: 90)")
    given = parser.parse_args()
    subprocess.run(
        [MUTMUT, "run", "--max-children", str(given.processes)], cwd=ROOT, timeout=DEADLINE_S, check=True
    )
    found = verdicts()
    made: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    for mutant, verdict in found.items():
        module = mutant.rpartition(".")[0]
        made[module] += 1
        if verdict in KILLED:
            killed[module] += 1
        else:
            print(f"{mutant}: {verdict}", *change(mutant), sep="\n  ")
    for module, count in sorted(made.items()):
        print(f"{module}: {count} mutants, {killed[module]} killed")
    percent = 100 * killed.total() / max(1, made.total())
    print(f"{made.total()} mutants, {killed.total()} killed ({percent:.1f}%)")
    return 0 if percent >= given.at_least else 1


if __name__ == "__main__":
    raise SystemExit(main())

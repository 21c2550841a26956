"""One target under atheris, by coverage: `python -m tests.fuzz.guided TARGET [libFuzzer's options]`."""

from __future__ import annotations

import shlex
import sys

import atheris

# Comparisons inside expressions and methods of str count as coverage: so the fuzzer learns what they want.
# The hook for expressions breaks json, which calls them in a way that it does not know.
READS_JSON = {"checkpoint", "checkpoint_payload", "part_file", "record"}
if sys.argv[1] not in READS_JSON:
    atheris.enabled_hooks.add("RegEx")
atheris.enabled_hooks.add("str")
with atheris.instrument_imports(include=["fastxfer", "email", "urllib"]):
    from tests.fuzz import storage_targets
    from tests.fuzz.targets import TARGETS

assert storage_targets.checkpoint in TARGETS.values()

if __name__ == "__main__":
    name = sys.argv[1]
    # The first argument is what libFuzzer runs again, by a shell, to merge corpora.
    again = shlex.join([sys.executable, "-m", "tests.fuzz.guided", name])
    atheris.Setup([again, *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()

"""A state machine over the life of one target: fetches, kills, pauses, remote changes, damage, verification.

`stage` is the server, which can stop after so many bytes; `actors` are the processes that fetch, each forked
and killed at will; `model` is what the documents promise about what lies on the disk; `world` knows what each
step has to come to; `test_machine` are the steps. FASTXFER_SOAK=1 (make soak) runs it for many more examples;
`teeth` tells whether it notices what is wrong.
"""

from __future__ import annotations

import os

SOAK = bool(os.environ.get("FASTXFER_SOAK"))
TEETH = bool(os.environ.get("FASTXFER_TEETH"))
DEADLINE_S = 60.0

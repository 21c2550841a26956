"""Kills and disk errors: a real fetch, ended or refused at a known system call or at a random moment, and
what is left.

`calls` watches a command by strace and has one of its calls killed or refused; `victims` are the fetches that
it is done to; `aftermath` is what must hold afterwards. FASTXFER_SOAK=1 (make soak) does it at each call of
each victim and at 2,000 moments; without it a seeded sample is taken.
"""

from __future__ import annotations

import os

SOAK = bool(os.environ.get("FASTXFER_SOAK"))
AT_ONCE = 10  # fetches: they wait for their rate, mostly

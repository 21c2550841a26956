"""When this machine's clock is wrong: what to add to it for a signature, from the server's Date field.

A store takes a signature for 15 minutes before and after its own time. A correction is only made after it has
refused for that reason, and only by so much that a server cannot have requests signed for days to come.
"""

from __future__ import annotations

import math

from fastxfer.plan.dates import http_time
from fastxfer.sources.store_errors import Refusal

LEAST_S = 60.0
"""A smaller difference cannot be the reason."""
MOST_S = 86400.0
"""A larger one is not corrected: the clock is to be set. What is signed may be kept by who gets it, and used
when its time has come.
"""

SURE_S = 900.0
"""A larger one is refused always, so it is a reason also where none is told, as in an answer to HEAD, or
where AccessDenied is all that a server says.
"""

_CODES = frozenset(("RequestTimeTooSkewed", "InvalidRequestTime", "RequestExpired"))


def correction_s(date: str | None, now_epoch_s: float) -> float | None:
    """Returns how many seconds the server's clock is ahead of ours, by its Date field (RFC 9110 section
    6.6.1), all three forms of it; None for no date.
    """
    theirs = http_time(date)
    return None if theirs is None else theirs - now_epoch_s


def is_about_time(refusal: Refusal) -> bool:
    """Returns whether a store refused since the clocks differ.

    By its code; or as AccessDenied with the server's time in the document, as both stores answer an expired
    signature.
    """
    expired = refusal.code == "AccessDenied" and bool(refusal.server_time)
    return refusal.code in _CODES or expired


def new_correction_s(
    refusal: Refusal, date: str | None, now_epoch_s: float, used_s: float = 0.0
) -> float | None:
    """Returns what to add to our time for another try, or None where that cannot help: it was refused for
    another reason, the server tells no time, or it was signed with just about that time (`used_s` was added)
    already, or the clocks differ by more than MOST_S. Where no reason is told a difference of more than
    SURE_S is one.
    """
    found = correction_s(date, now_epoch_s)
    if found is None or abs(found) > MOST_S:
        return None
    untold = refusal.code in ("", "AccessDenied") and refusal.status in (400, 403)
    least_s = LEAST_S if is_about_time(refusal) else SURE_S if untold else math.inf
    return found if abs(found - used_s) > least_s else None

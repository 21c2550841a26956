"""HTTP-dates (RFC 9110 section 5.6.7)."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import lru_cache
from time import gmtime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# The form that servers send; the obsolete ones are left to a module that takes 4 ms to import.
_USUAL = re.compile(
    rf"[A-Z][a-z][a-z], (\d\d) ({'|'.join(_MONTHS)}) ([1-9]\d{{3}}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
)


@lru_cache(maxsize=1024)
def http_time(value: str | None) -> float | None:
    """Returns an HTTP-date, all three forms of it, in seconds since the epoch, or None when it is absent or
    unreadable.
    """
    if value is None:
        return None
    usual = _USUAL.fullmatch(value)
    try:
        if usual is not None:
            month = _MONTHS.index(usual[2]) + 1
            day, year, hour, minute, second = map(int, usual.group(1, 3, 4, 5, 6))
            date = datetime(year, month, day, hour, minute, second)
        else:
            from email.utils import parsedate_to_datetime

            date = parsedate_to_datetime(value)
        # The form without a zone, asctime's, is in GMT too.
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def http_date(epoch_s: float) -> str:
    """Returns a time in seconds since the epoch as an HTTP-date, in the form to be sent."""
    at = gmtime(epoch_s)
    day = f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04}"
    return f"{day} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"

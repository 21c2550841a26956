"""When to try again: capped exponential back-off with jitter, and a server's Retry-After."""

from __future__ import annotations

from fastxfer.plan.dates import http_time

BASE_S = 0.25
CAP_S = 30.0
RETRY_AFTER_CAP_S = 300.0


def backoff_s(failures: int, jitter: float) -> float:
    """Returns the seconds to wait after the n-th failure in a row, n >= 1; `jitter` in [0, 1) spreads it
    over the upper half.
    """
    ceiling = min(CAP_S, BASE_S * 2.0 ** (min(failures, 20) - 1))
    return ceiling * (0.5 + jitter / 2)


def parse_retry_after(value: str | None, now_epoch_s: float) -> float | None:
    """Returns a Retry-After field in seconds from now, 0 to RETRY_AFTER_CAP_S, or None when it is absent or
    makes no sense.

    Both forms are read, seconds and an HTTP-date (RFC 9110 section 10.2.3). Absurd values are capped,
    negative ones are 0.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.removeprefix("-").isdigit():
        seconds = float(text)
    else:
        then = http_time(text)
        if then is None:
            return None
        seconds = then - now_epoch_s
    return min(max(0.0, seconds), RETRY_AFTER_CAP_S)

"""How many connections are made ahead: before the first answer has told whether they are of use. Pure.

To a server that is far a connection takes a round trip, and so does the first answer. Connections that are
made while that answer is on its way are there when it has come. They carry nothing, so a server that has no
use for them saw a few connections come and go, never a request. A server is taken for far, too, where the
answer is late: what took the connection may only stand before it (a tunnel, a forwarded port, a proxy).
"""

from __future__ import annotations

from fastxfer.plan.growth import QUICK

# From this round trip on a server is far: it is worth a few connections more, and no LAN has it.
FAR_S = 0.05
# An answer that has not begun after so long is late.
LATE_S = 0.1
MIN_SHARE_BYTES = 256 * 1024
# A connection that waits for the first answer longer is closed: servers wait for requests 10 s and more.
KEEP_S = 5.0
# What the requests that follow the first answer have not taken after so long is not needed.
AFTER_S = 0.5
# So long nothing is made ahead to where the last connections were of no use.
USELESS_S = 60.0
# A connection that was not there after so many round trips is not waited for: its first packet was lost.
OVERDUE = 2


def connections_ahead(connections: int, room: int, missing: int | None) -> int:
    """Returns how many connections to make beside the first, for a transfer of at most so many requests,
    with room for so many; `missing` is how many bytes are to come, or None when that is not known yet.
    """
    most = min(connections, room, QUICK)
    if missing is not None:
        most = min(most, -(-missing // MIN_SHARE_BYTES))
    return max(0, most - 1)


def is_far(round_trip_s: float, late_s: float = 0.0) -> bool:
    """Returns whether connections to a server are worth to be made ahead, of which the first has shown this
    round trip and no answer for `late_s` seconds.
    """
    return round_trip_s >= FAR_S or late_s >= LATE_S

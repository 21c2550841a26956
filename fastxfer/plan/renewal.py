"""When a connection is so much slower than the others that a new one is worth a try. Pure.

Connections to one server differ by the path that they took or by what is behind a load balancer; a new one is
likely to be as fast as most are. Times are in seconds, rates in bytes a second.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastxfer.plan.tail import LEAST_GAIN_S, time_for

# A connection is judged when it has been at work for so long, and for so many times what an answer takes to
# begin: until then it may be on its way to its rate.
JUDGED_S = 0.5
WAITS = 8
# So much slower than the median of so many others at least.
SLOWER = 4
OTHERS = 3
# A slot gets so many new ones at the most, and the next one not before so long.
MOST = 2
AGAIN_S = 4.0


def slow_ones(means: Mapping[int, float], left: int, cost_s: float) -> list[int]:
    """Returns the slots whose connections are worth new ones, given the mean rate of each that can be judged,
    over all its time: servers that limit a rate send in bursts, up to a second apart.

    `left` bytes are still to come over all of them, and a new connection costs `cost_s`.
    """
    if len(means) <= OTHERS:
        return []
    usual, total = sorted(means.values())[len(means) // 2], sum(means.values())
    then_s = time_for(left, total)
    return [
        slot
        for slot, rate in means.items()
        if rate * SLOWER < usual and then_s - time_for(left, total - rate + usual) > LEAST_GAIN_S + cost_s
    ]

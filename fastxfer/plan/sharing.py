"""How processes share a host: a board on which each says what it has and wants, and takes its fair part.

Pure: `take_part(board, me, mine, now)` returns the board as this process leaves it, and its `View` of each
host. Whoever calls it holds the board's lock meanwhile. A process *holds* permits, one for each request that
it may have out. It takes free ones up to its part, which is max-min fair among the processes, and lets go of
what is over its part as its requests end: so there are never more out than the most, while every process
that wants some gets some. Where there are fewer permits than processes they take turns of TURN_S or more.

A process that does not write for STALE_S is no more. Times are of the machine's monotonic clock; what lies in
the future is from before a reboot and is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from fastxfer.plan.fairness import shares
from fastxfer.plan.governor import USUAL_CAP, Learned
from fastxfer.plan.retry import RETRY_AFTER_CAP_S
from fastxfer.values import dataclass

STALE_S = 5.0
FORGOTTEN_S = 120.0
TURN_S = 4.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What one process says of one host: requests that it has out, wants to have out, and that are being
    answered, the permits that it holds, since when it holds any or none, the lowest cap that its transfers
    set, and the most that one of them asks for.
    """

    out: int
    wants: int
    served: int = 0
    held: int = 0
    since: float = 0.0
    cap: int | None = None
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A process on the board: its id, the namespace of the id, and when it wrote last."""

    pid: int
    namespace: int
    at: float
    claims: Mapping[str, Claim] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Board:
    """What all processes of a user share, by names: of processes and of hosts."""

    members: Mapping[str, Member] = field(default_factory=dict)
    hosts: Mapping[str, Learned] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """What a process learns of a host: how many requests it may have out, how many of others are being
    answered, and what the host taught.
    """

    allowed: int
    foreign: int
    learned: Learned


def alive(board: Board, now: float) -> Board:
    """Returns the board without what is too old, or not of this time."""
    members = {name: each for name, each in board.members.items() if 0 <= now - each.at <= STALE_S}
    used = {host for each in members.values() for host in each.claims}
    hosts = {
        host: learned
        for host, learned in board.hosts.items()
        if learned.changed_at <= now
        and learned.held_until <= now + RETRY_AFTER_CAP_S
        and (host in used or now < max(learned.changed_at + FORGOTTEN_S, learned.held_until))
    }
    return Board(members, hosts)


def take_part(
    board: Board, me: str, mine: Member, learned: Mapping[str, Learned], now: float
) -> tuple[Board, dict[str, View]]:
    """Returns the board with `mine` in place of what `me` wrote before, and the views of the hosts it claims.

    `learned` is what this process knows of them. Without claims it leaves the board.
    """
    board = alive(board, now)
    members = {name: each for name, each in board.members.items() if name != me}
    hosts = dict(board.hosts)
    claims: dict[str, Claim] = {}
    views: dict[str, View] = {}
    for host, claim in mine.claims.items():
        known = learned.get(host, Learned())
        hosts[host] = known.merged(hosts[host]) if host in hosts else known
        claims[host], views[host] = _part(claim, me, board, host, hosts[host], now)
    if claims:
        members[me] = replace(mine, at=now, claims=claims)
    return Board(members, {host: each for host, each in hosts.items() if each != Learned()}), views


def _part(claim: Claim, me: str, board: Board, host: str, learned: Learned, now: float) -> tuple[Claim, View]:
    """Returns what the process holds of one host from now on, and its view."""
    everyone = {name: each.claims[host] for name, each in board.members.items() if host in each.claims}
    before = everyone.get(me, Claim(0, 0, since=now))
    own = everyone[me] = replace(claim, held=before.held, since=before.since)
    order = sorted(everyone, key=lambda name: _rank(name, everyone[name], now))
    most = _most(list(everyone.values()), learned)
    part = shares(most, [max(everyone[name].wants, everyone[name].out) for name in order])[order.index(me)]
    del everyone[me]
    free = most - sum(other.held for other in everyone.values())
    held = max(own.out, min(part, max(0, free)))
    view = View(min(held, part), sum(other.served for other in everyone.values()), learned)
    return replace(own, held=held, since=own.since if bool(held) == bool(own.held) else now), view


def _rank(name: str, claim: Claim, now: float) -> tuple[int, float, str]:
    """Returns by what processes are ordered where there is one permit too few: whose turn has only begun is
    first, then who waits, the longest first. Who has more is before who has less, so that an odd permit stays
    where it is.
    """
    if not claim.held:
        return 1, claim.since, name
    return 0 if now - claim.since < TURN_S else 2, -claim.held, name


def _most(claims: list[Claim], learned: Learned) -> int:
    caps = [claim.cap for claim in claims if claim.cap is not None]
    cap = min(caps) if caps else max(USUAL_CAP, *(claim.floor for claim in claims))
    return cap if learned.limit is None else min(cap, learned.limit)

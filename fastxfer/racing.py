"""The end of a download: a second request for the slowest piece, whose bytes stay in memory until it has won.

The racer's lane never touches the sink while the raced one writes there. Once that has ended, at a byte and
with a checksum that are known exactly, the racer's bytes from there on go through its own writer, as any
run's do; what it has not brought by then follows.
"""

from __future__ import annotations

from fastxfer.errors import BadResponseError, FastxferError, storage_error
from fastxfer.lanes import Lane
from fastxfer.plan.response import Partial, Verdict


def take(lane: Lane, verdict: Verdict) -> None:
    """Has the body of a racer's accepted answer kept aside. Raises BadResponseError when it is no range."""
    if not isinstance(verdict, Partial) or verdict.start != lane.start:
        raise BadResponseError("the server answered a second request for a range with something else")
    lane.exchange.writer.stash(verdict.stop - verdict.start)


def ended(lane: Lane, error: FastxferError | None) -> tuple[int, FastxferError | None]:
    """Returns up to where a racer whose request is over has the bytes at hand, and what it failed with."""
    pos = lane.start + lane.exchange.writer.stashed
    if pos == lane.stop:
        return pos, None
    if lane.failure is None and lane.verdict is not None and not isinstance(lane.verdict, Partial):
        return pos, BadResponseError("a second request for a range was not answered with it")
    return pos, lane.failure or error


def adopt(lane: Lane, pos: int, crc: int, path: object) -> None:
    """Makes a racer's run the ordinary one, from `pos` on; `crc` is of the chunk's bytes before it. Raises
    StorageError.
    """
    assert lane.stop is not None
    lane.racing = False
    if lane.waited_s is None:
        return  # its answer has not begun: it is an ordinary request from here on
    try:
        lane.exchange.writer.unstash(pos, lane.stop, pos - lane.start, crc)
    except OSError as error:
        raise storage_error(f"write {path}", error) from error
    lane.start, lane.writing = pos, True

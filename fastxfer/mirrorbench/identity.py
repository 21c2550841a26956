"""Which mirrors have the same object, and which have another or an older one: pure.

As for a fetch from several mirrors it is the size and sampled bytes that tell; validators are made by each
server in its own way, so other ones are told of and prove nothing. What most have is held to be right; of as
many on two sides, what was modified last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fastxfer.plan.dates import http_time
from fastxfer.plan.ranges import Span
from fastxfer.plan.response import Identity, difference


@dataclass(frozen=True, slots=True)
class Copy:
    """What was found of one mirror's object. `samples` are its bytes in the sampled ranges, of which the
    first begins the object; a mirror without ranges has only that one. None where they could not be had,
    `changed` where they were of another object than it had told of.
    """

    told: Identity
    samples: tuple[bytes, ...] | None = None
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How a mirror's object is beside the others'. `same` is None where it cannot be said; `validators`
    whether it has the ETag and the date that most of the same object have; `finding` is "stale", "differs",
    "date" or "".
    """

    same: bool | None = None
    validators: bool | None = None
    finding: str = ""
    note: str = ""


def common_size(copies: Sequence[Copy | None]) -> int | None:
    """Returns the size that most have, None where none is told."""
    sizes = [copy for copy in copies if copy is not None and copy.told.size is not None]
    return _reference([((copy.told.size,), copy) for copy in sizes])[0] if sizes else None


def _reference(found: Sequence[tuple[tuple[int | None, ...], Copy]]) -> tuple[int | None, ...]:
    counts = Counter(key for key, _ in found)
    newest: dict[tuple[int | None, ...], float] = {}
    for key, copy in found:
        newest[key] = max(newest.get(key, 0.0), http_time(copy.told.last_modified) or 0.0)
    order = list(dict.fromkeys(key for key, _ in found))
    return max(order, key=lambda key: (counts[key], newest[key], -order.index(key)))


def compare(copies: Sequence[Copy | None], spans: Sequence[Span]) -> list[Standing]:
    """Returns how each mirror stands; None in place of a copy is a mirror that did not answer."""
    whole = [copy for copy in copies if copy is not None and _is_whole(copy, spans)]
    if sum(copy is not None for copy in copies) < 2:
        return [Standing() for _ in copies]
    lead = _leader(copies, whole, spans)
    if lead is None:
        return [Standing() for _ in copies]
    standings = [_standing(copy, lead, spans) if copy is not None else Standing() for copy in copies]
    return _with_validators(copies, standings)


def _is_whole(copy: Copy, spans: Sequence[Span]) -> bool:
    return copy.samples is not None and len(copy.samples) == len(spans) and not copy.changed


def _leader(copies: Sequence[Copy | None], whole: Sequence[Copy], spans: Sequence[Span]) -> Copy | None:
    """Returns the copy that the others are held against."""
    size = common_size(copies)
    kinds: dict[tuple[bytes, ...], int] = {}
    found = []
    for copy in whole:
        if copy.told.size == size and copy.samples is not None:
            kind = kinds.setdefault(copy.samples, len(kinds))
            found.append(((kind,), copy))
    if not found:
        # Nobody's samples are whole: the sizes alone, and what begins the objects, tell.
        rest = [copy for copy in copies if copy is not None and copy.told.size == size]
        return rest[0] if rest and size is not None else None
    best = _reference(found)
    return max(
        (copy for key, copy in found if key == best),
        key=lambda copy: http_time(copy.told.last_modified) or 0.0,
    )


def _standing(copy: Copy, lead: Copy, spans: Sequence[Span]) -> Standing:
    if copy.told.size is not None and lead.told.size is not None and copy.told.size != lead.told.size:
        return _other(copy, lead, f"{copy.told.size} bytes, most have {lead.told.size}")
    if copy.samples is None or lead.samples is None:
        return Standing(note="its bytes could not be compared with the others'", finding="unknown")
    for (start, stop), mine, theirs in zip(spans, copy.samples, lead.samples, strict=False):
        if mine != theirs:
            return _other(copy, lead, f"other bytes than most in [{start}, {stop})")
    if copy.changed:
        return Standing(False, finding="differs", note="its object changed while it was looked at")
    return Standing(True)


def _other(copy: Copy, lead: Copy, what: str) -> Standing:
    mine, theirs = http_time(copy.told.last_modified), http_time(lead.told.last_modified)
    dates = f", last modified {copy.told.last_modified}, theirs {lead.told.last_modified}"
    if mine is not None and theirs is not None and mine != theirs:
        if mine < theirs:
            return Standing(False, finding="stale", note=f"stale: it has an older object: {what}{dates}")
        return Standing(False, finding="differs", note=f"it has another, newer object: {what}{dates}")
    return Standing(False, finding="differs", note=f"it has another object: {what}")


def _with_validators(copies: Sequence[Copy | None], standings: list[Standing]) -> list[Standing]:
    """Says of those with the same bytes which have other validators than most of them."""
    same = [copy for copy, each in zip(copies, standings, strict=True) if copy is not None and each.same]
    usual = Counter((copy.told.etag, copy.told.last_modified) for copy in same).most_common(1)
    if not usual:
        return standings
    etag, date = usual[0][0]
    found = []
    for copy, each in zip(copies, standings, strict=True):
        if copy is None or not each.same:
            found.append(each)
            continue
        differs = difference(
            Identity(None, etag, date), Identity(None, copy.told.etag, copy.told.last_modified)
        )
        note = finding = ""
        mine, theirs = http_time(copy.told.last_modified), http_time(date)
        if mine is not None and theirs is not None and mine < theirs:
            finding = "date"
            note = f"its date is older than most, {copy.told.last_modified}; its sampled bytes are theirs"
        found.append(Standing(True, differs is None, finding, note))
    return found

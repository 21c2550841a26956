"""From what was found of mirrors to the report: statistics, findings and the ranking."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime, timezone

from fastxfer.bench_options import BenchOptions
from fastxfer.mirrorbench.findings import (
    Finding,
    advised,
    beside_others,
    best_of,
    chunk_size,
    ranked,
    slope,
    verdicts,
)
from fastxfer.mirrorbench.report import BenchReport, BenchRow, ConnectionRate
from fastxfer.mirrorbench.statistics import estimate
from fastxfer.mirrorbench.target import Target
from fastxfer.units import format_size

SMALL_BYTES = 256 * 1024
"""An object under this size is over before it has a rate."""


def report_of(
    targets: Sequence[Target],
    own: BenchOptions,
    *,
    seed: int,
    began_at: float,
    elapsed: float,
    interrupted: bool,
) -> BenchReport:
    """Returns the report of what was found so far."""
    rows = ranked(beside_others([_row(target, seed) for target in targets]))
    return BenchReport(
        tuple(rows),
        verdicts=verdicts(rows),
        measured_at=datetime.fromtimestamp(began_at, timezone.utc).isoformat(timespec="seconds"),
        elapsed=round(elapsed, 3),
        connections=own.connections,
        duration=own.duration,
        rounds=own.rounds,
        max_bytes=own.max_bytes,
        seed=seed,
        interrupted=interrupted,
    )


def _row(target: Target, seed: int) -> BenchRow:
    rates = tuple(
        rate for count in sorted(target.tallies) if (rate := _rate(target, count, seed)) is not None
    )
    best, enough = best_of(rates), advised(rates)
    phases = _phases(target)
    sooner = estimate([each.first_byte_s for each in target.looks], seed)
    found = _findings(target, best)
    display = target.mirror.display
    return BenchRow(
        display,
        rate=best.rate if best is not None else None,
        rate_low=best.rate_low if best is not None else None,
        rate_high=best.rate_high if best is not None else None,
        connections=best.connections if best is not None else None,
        advised_connections=enough.connections if enough is not None else None,
        chunk_size=chunk_size(enough.rate, enough.connections, phases.get("wait", 0.0)) if enough else None,
        first_byte_low=sooner.low if sooner is not None else None,
        first_byte_high=sooner.high if sooner is not None else None,
        errors=target.errors,
        requests=target.requests,
        bytes=sum(each.bytes for each in target.tallies.values()),
        error=_one_line(str(target.failed)) if target.failed is not None else None,
        exit_code=target.failed.exit_code if target.failed is not None else None,
        ranges=target.ranges,
        http_version=_one_line(target.http_version) or None,
        address=target.address or None,
        redirects=target.redirects,
        size=target.told.size,
        etag=target.told.etag,
        last_modified=target.told.last_modified,
        same_object=target.standing.same,
        same_validators=target.standing.validators,
        findings=tuple(code for code, _ in found),
        notes=tuple(_one_line(text) for _, text in found),
        by_connections=rates,
        whole=display == target.mirror.original.url or display == target.url.strip(),
        full_url=target.url,
        **phases,
    )


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def _rate(target: Target, count: int, seed: int) -> ConnectionRate | None:
    tally = target.tallies[count]
    found = estimate([each.rate for each in tally.samples], seed)
    if found is None:
        return None
    samples = tuple((round(each.at_s, 3), round(each.rate, 1)) for each in tally.samples)
    return ConnectionRate(
        count,
        found.mean,
        found.low,
        found.high,
        found.spread,
        samples,
        tally.bytes,
        tally.requests,
        tally.errors,
    )


def _phases(target: Target) -> dict[str, float]:
    """Returns how long each step to the first byte takes, and all of them."""
    looks = target.looks
    if not looks:
        return {}
    steps = {
        "dns": [looks[0].resolved_s],
        "connect": [each.connected_s - each.resolved_s for each in looks],
        "tls": [max(0.0, each.tls_s - each.connected_s) for each in looks],
        "wait": [each.first_byte_s - max(each.connected_s, each.tls_s) for each in looks],
        "first_byte": [each.first_byte_s for each in looks],
    }
    return {name: max(0.0, statistics.median(values)) for name, values in steps.items()}


def _findings(target: Target, best: ConnectionRate | None) -> list[Finding]:
    """Returns what is to be said of one mirror alone."""
    found: list[Finding] = []
    if target.failed is not None:
        found.append(("unreachable", f"not used: {target.failed}"))
    if target.standing.finding:
        found.append((target.standing.finding, target.standing.note))
    if target.changed:
        found.append(("changed", "its object changed while it was measured"))
    size = target.told.size
    if target.ranges is False and size != 0:
        found.append(("no-ranges", "it gives no ranges: a fetch is one stream, and cannot go on"))
    if size is not None and size < SMALL_BYTES and target.looks:
        found.append(("small", f"the object has {format_size(size)}: it has no rate, only latency"))
    if target.overloads:
        times = "once" if target.overloads == 1 else f"{target.overloads} times"
        found.append(("overloaded", f"it said {times} that it is overloaded, and was asked less"))
    failed = target.errors - target.overloads
    if failed > 0 and target.failed is None:
        often = max(target.failures, key=lambda words: target.failures[words])
        found.append(("errors", f"{failed} of {target.requests + failed} requests failed: {often}"))
    if best is not None:
        bent = slope(target.tallies[best.connections].samples)
        if bent is not None:
            found.append(bent)
    return found

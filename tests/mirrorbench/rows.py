"""Rows of a report, as tests need them."""

from __future__ import annotations

from typing import Any

from fastxfer.mirrorbench.report import BenchReport, BenchRow, ConnectionRate

MIB = 1024.0**2


def rate(connections: int, mib: float, around: float = 0.05, **more: Any) -> ConnectionRate:
    """Returns a rate in MiB/s, and its interval so much around it."""
    low, high = mib * (1 - around) * MIB, mib * (1 + around) * MIB
    return ConnectionRate(
        connections, mib * MIB, low, high, around, ((0.5, mib * MIB), (1.5, mib * MIB)), **more
    )


def row(url: str, *rates: ConnectionRate, first_byte: float = 0.01, **more: Any) -> BenchRow:
    """Returns a row with these rates."""
    best = max(rates, key=lambda each: each.rate, default=None)
    values: dict[str, Any] = {
        "first_byte": first_byte,
        "first_byte_low": first_byte,
        "first_byte_high": first_byte,
    }
    values |= {"dns": 0.001, "connect": 0.002, "tls": 0.003, "wait": 0.004}
    if best is not None:
        values |= {
            "rate": best.rate,
            "rate_low": best.rate_low,
            "rate_high": best.rate_high,
            "connections": best.connections,
            "advised_connections": best.connections,
            "chunk_size": 1 << 20,
        }
    return BenchRow(url, by_connections=rates, **{**values, **more})


def report(*rows: BenchRow, **more: Any) -> BenchReport:
    """Returns a report of these rows, in this order."""
    given: dict[str, Any] = {
        "measured_at": "2026-01-02T03:04:05+00:00",
        "elapsed": 12.5,
        "connections": (1, 4),
        "duration": 5.0,
        "rounds": 5,
        "max_bytes": 512 << 20,
        "seed": 7,
    }
    return BenchReport(rows, **{**given, **more})

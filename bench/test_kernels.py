"""How fast the checksum kernels are, next to plain copying.

Run with: pytest bench/test_kernels.py -o addopts= --benchmark-only

The source is hot in the cache. Copies go to memory that is hot too, or walk through a shared mapping larger
than the cache, as a transfer does. The peer is memcpy (assigning to a slice of a memoryview), to the same
place. Each row is a call from Python, whose own cost, printed at the top, weighs on the short ones; callers
in C do not pay it.
"""

from __future__ import annotations

import itertools
import mmap
import platform
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastxfer._native import checksum

KIB, MIB = 1 << 10, 1 << 20
WALK_BYTES = 128 * MIB

EXTEND: dict[str, Callable[..., int]] = {
    "crc64nvme": checksum.crc64nvme,
    "crc64xz": checksum.crc64xz,
    "crc32c": checksum.crc32c,
}
EXTEND_KERNELS = [(name, kernel) for name in EXTEND for kernel in checksum.kernels(name)]
COPY_KERNELS = ["memcpy", *checksum.kernels("crc64nvme")]

each_size = pytest.mark.parametrize("size", [16 * KIB, MIB], ids=["16KiB", "1MiB"])
short = pytest.mark.benchmark(max_time=0.2, min_rounds=20, warmup=False)


@dataclass(frozen=True, slots=True)
class Row:
    group: str
    name: str
    rate: float  # GB/s of the median call
    spread: float  # interquartile range, as a part of the median


def processor() -> str:
    """Returns the processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def report(rows: list[Row]) -> str:
    """Returns the rows as a table with the ratio of each to memcpy, where its group has one."""
    call = min(
        timeit.repeat(lambda: checksum.crc64nvme_copy(bytearray(), b"", kernel="portable"), number=10_000)
    )
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    lines = [f"\n{processor()}, {system}; a call without bytes takes {call * 1e5:.0f} ns"]
    for row in rows:
        peer = next((other for other in rows if other.group == row.group and other.name == "memcpy"), None)
        ratio = f"  {row.rate / peer.rate:5.2f} of memcpy" if peer else ""
        lines.append(f"{row.group:22} {row.name:20} {row.rate:7.1f} GB/s  +-{row.spread:4.0%}{ratio}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """Collects the rows of this file and prints them when its last benchmark is done."""
    found: list[Row] = []
    yield found
    if found:
        capture: Any = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(report(found))


@pytest.fixture(scope="module")
def walk_memory() -> Iterator[memoryview]:
    """Gives WALK_BYTES of shared, page-by-page memory that has been written once."""
    with mmap.mmap(-1, WALK_BYTES) as mapping, memoryview(mapping) as view:
        block = bytes(MIB)
        for start in range(0, WALK_BYTES, MIB):
            view[start : start + MIB] = block
        yield view


def measure(
    benchmark: Any, rows: list[Row], row: tuple[str, str], size: int, call: Callable[[], object]
) -> None:
    """Times call, which handles size bytes, and adds it to rows as (group, name)."""
    group, name = row
    group = f"{group}, {size // KIB} KiB"
    benchmark.group = group
    benchmark(call)
    if benchmark.stats is None:
        return  # --benchmark-disable: called once, to see that it runs
    stats = benchmark.stats.stats
    benchmark.extra_info["GB/s"] = size / stats.median / 1e9
    rows.append(Row(group, name, size / stats.median / 1e9, stats.iqr / stats.median))


@short
@each_size
@pytest.mark.parametrize(("algorithm", "kernel"), EXTEND_KERNELS)
def test_extend(benchmark: Any, rows: list[Row], algorithm: str, kernel: str, size: int) -> None:
    extend, data = EXTEND[algorithm], bytes(size)
    measure(benchmark, rows, ("extend", f"{algorithm} {kernel}"), size, lambda: extend(data, kernel=kernel))


def copier(kernel: str) -> Callable[[memoryview, bytes], object]:
    """Returns a function that copies its second argument to the first, with that kernel's checksum."""
    if kernel == "memcpy":
        return lambda dst, src: dst.__setitem__(slice(None), src)
    return lambda dst, src: checksum.crc64nvme_copy(dst, src, kernel=kernel)


@short
@each_size
@pytest.mark.parametrize("kernel", COPY_KERNELS)
def test_copy_to_hot_memory(benchmark: Any, rows: list[Row], kernel: str, size: int) -> None:
    copy, src, dst = copier(kernel), bytes(size), memoryview(bytearray(size))
    measure(benchmark, rows, ("copy, hot", kernel), size, lambda: copy(dst, src))


@short
@each_size
@pytest.mark.parametrize("kernel", COPY_KERNELS)
def test_copy_to_a_large_mapping(
    benchmark: Any, rows: list[Row], walk_memory: memoryview, kernel: str, size: int
) -> None:
    copy, src = copier(kernel), bytes(size)
    pieces = [walk_memory[start : start + size] for start in range(0, WALK_BYTES, size)]
    walk = itertools.cycle(pieces)
    measure(benchmark, rows, ("copy, walk", kernel), size, lambda: copy(next(walk), src))
    for piece in pieces:
        piece.release()

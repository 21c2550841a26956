"""One suite for every checksum and every kernel that this processor runs."""

from __future__ import annotations

import array
import contextlib
import ctypes
import itertools
import lzma
import mmap
import platform
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._native import checksum
from fastxfer._native.checksum import Crc32c, Crc64Nvme, Crc64Xz


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A checksum's definition, apart from any of our code, and the functions under test."""

    name: str
    bits: int
    polynomial: int  # highest power first, without x^bits, as the specifications print it
    check: int  # of b"123456789"
    extend: Callable[..., int]
    combine: Callable[[int, int, int], int]
    incremental: type[Crc64Nvme] | type[Crc64Xz] | type[Crc32c]
    copy: Callable[..., int] | None = None

    @property
    def ones(self) -> int:
        return (1 << self.bits) - 1


NVME = Algorithm(
    name="crc64nvme",
    bits=64,
    polynomial=0xAD93D23594C93659,
    check=0xAE8B14860A799888,
    extend=checksum.crc64nvme,
    combine=checksum.crc64nvme_combine,
    incremental=Crc64Nvme,
    copy=checksum.crc64nvme_copy,
)
XZ = Algorithm(
    name="crc64xz",
    bits=64,
    polynomial=0x42F0E1EBA9EA3693,
    check=0x995DC9BBDF1939FA,
    extend=checksum.crc64xz,
    combine=checksum.crc64xz_combine,
    incremental=Crc64Xz,
    copy=checksum.crc64xz_copy,
)
CRC32C = Algorithm(
    name="crc32c",
    bits=32,
    polynomial=0x1EDC6F41,
    check=0xE3069283,
    extend=checksum.crc32c,
    combine=checksum.crc32c_combine,
    incremental=Crc32c,
)
ALGORITHMS = [NVME, XZ, CRC32C]

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
each_kernel = pytest.mark.parametrize(
    ("algorithm", "kernel"),
    [pytest.param(a, k, id=f"{a.name}-{k}") for a in ALGORITHMS for k in (*checksum.kernels(a.name), None)],
)
each_copy_kernel = pytest.mark.parametrize(
    ("algorithm", "kernel"),
    [pytest.param(a, k, id=f"{a.name}-{k}") for a in (NVME, XZ) for k in (*checksum.kernels(a.name), None)],
)


# ---- The references: the definition bit by bit, and polynomial arithmetic on plain integers ----


def reversed_bits(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


def prefixes(algorithm: Algorithm, data: bytes, value: int = 0) -> list[int]:
    """Returns the checksums of all prefixes of data, the empty one first, each going on from value."""
    polynomial = reversed_bits(algorithm.polynomial, algorithm.bits)
    state = value ^ algorithm.ones
    found = [value]
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (polynomial if state & 1 else 0)
        found.append(state ^ algorithm.ones)
    return found


def times(algorithm: Algorithm, a: int, b: int) -> int:
    """Returns the product of two polynomials (bit i is x^i) modulo the algorithm's."""
    product = 0
    for i in reversed(range(algorithm.bits)):
        product <<= 1
        if product >> algorithm.bits:
            product ^= 1 << algorithm.bits | algorithm.polynomial
        if a >> i & 1:
            product ^= b
    return product


def concatenated(algorithm: Algorithm, crc1: int, crc2: int, len2: int) -> int:
    """Returns the checksum of A and B by the definition: crc1 * x^(8 len2) + crc2, with reflected values."""
    factor, square = 1, 1 << 8
    while len2:
        if len2 & 1:
            factor = times(algorithm, factor, square)
        square = times(algorithm, square, square)
        len2 >>= 1
    moved = times(algorithm, reversed_bits(crc1, algorithm.bits), factor)
    return reversed_bits(moved, algorithm.bits) ^ crc2


def some_bytes(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


# ---- Known values ----


@each_kernel
def test_check_value_is_the_published_one(algorithm: Algorithm, kernel: str | None) -> None:
    assert algorithm.extend(b"123456789", kernel=kernel) == algorithm.check


@each_algorithm
def test_reference_itself_gives_the_check_value(algorithm: Algorithm) -> None:
    assert prefixes(algorithm, b"123456789")[-1] == algorithm.check


ASCENDING = bytes(range(256))

VECTORS = [
    # NVM Express, NVM Command Set Specification, 64b CRC test cases: 4 KiB of data
    (NVME, bytes(4096), 0x6482D367EB22B64E),
    (NVME, b"\xff" * 4096, 0xC0DDBA7302ECA3AC),
    (NVME, ASCENDING * 16, 0x3E729F5F6750449C),
    (NVME, ASCENDING[::-1] * 16, 0x9A2DF64B8E9E517E),
    # RFC 3720, appendix B.4, which prints the bytes in the order they are sent, the lowest first
    (CRC32C, bytes(32), 0x8A9136AA),
    (CRC32C, b"\xff" * 32, 0x62A8AB43),
    (CRC32C, ASCENDING[:32], 0x46DD794E),
    (CRC32C, ASCENDING[31::-1], 0x113FDB5C),
    (
        CRC32C,  # an iSCSI SCSI Read (10) command
        bytes.fromhex(
            "01c000000000000000000000000000001400000000000400000000140000001828000000000000000200000000000000"
        ),
        0xD9963A56,
    ),
]


@pytest.mark.parametrize(("algorithm", "data", "expected"), VECTORS)
def test_published_vectors_hold_on_every_kernel(algorithm: Algorithm, data: bytes, expected: int) -> None:
    for kernel in checksum.kernels(algorithm.name):
        assert algorithm.extend(data, kernel=kernel) == expected, kernel


@pytest.mark.parametrize("kernel", checksum.kernels("crc64xz"))
@pytest.mark.parametrize("length", [1, 100, 5000, 100_000])
def test_crc64xz_is_what_liblzma_stores_in_an_xz_file(length: int, kernel: str) -> None:
    data = some_bytes(length)
    packed = lzma.compress(data, check=lzma.CHECK_CRC64)
    # The 12-byte footer says in its second word how long the index before it is; the check ends the block
    # before that (the .xz file format, 2.1.2 and 3).
    index = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
    stored = packed[-12 - index - 8 : -12 - index]
    assert checksum.crc64xz(data, kernel=kernel) == int.from_bytes(stored, "little")


# ---- Against the definition ----


@each_kernel
@pytest.mark.parametrize("offset", [0, 1, 13])
def test_every_length_up_to_1100_agrees_with_the_definition(
    algorithm: Algorithm, kernel: str | None, offset: int
) -> None:
    data = some_bytes(1100 + offset)
    view = memoryview(data)[offset:]
    expected = prefixes(algorithm, data[offset:])
    assert [algorithm.extend(view[:n], kernel=kernel) for n in range(1101)] == expected


@each_kernel
@given(length=st.integers(0, 6000), offset=st.integers(0, 63), seed=st.integers(0), data=st.data())
def test_any_bytes_at_any_offset_agree_with_the_definition(
    algorithm: Algorithm, kernel: str | None, *, length: int, offset: int, seed: int, data: st.DataObject
) -> None:
    value = data.draw(st.integers(0, algorithm.ones))
    padded = some_bytes(offset + length, seed)
    found = algorithm.extend(memoryview(padded)[offset:], value, kernel=kernel)
    assert found == prefixes(algorithm, padded[offset:], value)[-1]


@each_kernel
@pytest.mark.parametrize("length", [64 * 1024, 64 * 1024 + 1, 300_001])
def test_long_input_is_the_same_in_one_call_and_in_small_ones(
    algorithm: Algorithm, kernel: str | None, length: int
) -> None:
    data = some_bytes(length)
    value = 0
    for start in range(0, length, 1000):
        value = algorithm.extend(data[start : start + 1000], value, kernel="portable")
    assert algorithm.extend(data, kernel=kernel) == value


@each_kernel
@given(st.binary(max_size=700), st.lists(st.integers(0, 700)))
def test_any_split_gives_the_checksum_of_the_whole(
    algorithm: Algorithm, kernel: str | None, data: bytes, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    value = 0
    for start, stop in itertools.pairwise(edges):
        value = algorithm.extend(data[start:stop], value, kernel=kernel)
    assert value == algorithm.extend(data, kernel=kernel)


@each_kernel
def test_no_bytes_change_nothing(algorithm: Algorithm, kernel: str | None) -> None:
    assert algorithm.extend(b"") == 0
    assert algorithm.extend(b"", 12345, kernel=kernel) == 12345


# ---- Copy ----


def check_copy(
    algorithm: Algorithm,
    kernel: str | None,
    src: memoryview,
    *,
    dst_offset: int,
    expected: int,
    room: int = 0,
) -> None:
    """Copies src into guarded memory and checks each byte of it; dst has `room` bytes to spare."""
    assert algorithm.copy is not None
    memory = bytearray(b"\xa5" * (dst_offset + len(src) + room + 128))
    found = algorithm.copy(memoryview(memory)[dst_offset : dst_offset + len(src) + room], src, kernel=kernel)
    assert found == expected
    assert memory == b"\xa5" * dst_offset + bytes(src) + b"\xa5" * (room + 128)


@each_copy_kernel
@pytest.mark.parametrize(("src_offset", "dst_offset"), [(0, 0), (1, 0), (0, 1), (5, 13), (63, 64)])
def test_copy_of_every_length_writes_these_bytes_and_no_others(
    algorithm: Algorithm, kernel: str | None, src_offset: int, dst_offset: int
) -> None:
    data = some_bytes(700 + src_offset)
    expected = prefixes(algorithm, data[src_offset:])
    view = memoryview(data)[src_offset:]
    for length in range(701):
        check_copy(algorithm, kernel, view[:length], dst_offset=dst_offset, expected=expected[length])


@each_copy_kernel
@given(
    length=st.integers(0, 40_000),
    offsets=st.tuples(st.integers(0, 127), st.integers(0, 127)),
    room=st.integers(0, 100),
    seed=st.integers(0),
)
def test_copy_of_anything_agrees_with_extend(
    algorithm: Algorithm, kernel: str | None, *, length: int, offsets: tuple[int, int], room: int, seed: int
) -> None:
    view = memoryview(some_bytes(offsets[0] + length, seed))[offsets[0] :]
    expected = algorithm.extend(view, kernel="portable")
    check_copy(algorithm, kernel, view, dst_offset=offsets[1], expected=expected, room=room)


@each_copy_kernel
def test_copy_extends_the_value_it_is_given(algorithm: Algorithm, kernel: str | None) -> None:
    assert algorithm.copy is not None
    data = some_bytes(16 * 1024 + 7)
    dst = bytearray(len(data))
    before = algorithm.extend(data[:10])
    assert algorithm.copy(dst, data[10:], before, kernel=kernel) == algorithm.extend(data)


@pytest.fixture
def guarded_page() -> Iterator[Callable[[], memoryview]]:
    """Gives a function that returns a page of memory between two pages whose touch ends the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    with contextlib.ExitStack() as kept:

        def make() -> memoryview:
            mapping = kept.enter_context(mmap.mmap(-1, 3 * page))
            anchor = ctypes.c_char.from_buffer(mapping)
            address = ctypes.addressof(anchor)
            del anchor
            for guard in (address, address + 2 * page):
                assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0  # PROT_NONE
            whole = kept.enter_context(memoryview(mapping))
            return kept.enter_context(whole[page : 2 * page])

        yield make


@each_copy_kernel
def test_copy_touches_nothing_before_or_after_its_memory(
    algorithm: Algorithm, kernel: str | None, guarded_page: Callable[[], memoryview]
) -> None:
    assert algorithm.copy is not None
    src, dst = guarded_page(), guarded_page()
    data = src[:] = some_bytes(len(src))
    for length in range(600):
        for part in (slice(0, length), slice(len(src) - length, None)):
            with src[part] as source, dst[part] as target:
                found = algorithm.copy(target, source, kernel=kernel)
                assert found == algorithm.extend(data[part], kernel="portable")
                assert target == source


@each_kernel
def test_extend_reads_nothing_before_or_after_its_memory(
    algorithm: Algorithm, kernel: str | None, guarded_page: Callable[[], memoryview]
) -> None:
    src = guarded_page()
    data = src[:] = some_bytes(len(src))
    for length in range(len(src)):
        for part in (slice(0, length), slice(len(src) - length, None)):
            with src[part] as source:
                assert algorithm.extend(source, kernel=kernel) == algorithm.extend(data[part])


@each_copy_kernel
def test_copy_over_64_kib_is_whole(algorithm: Algorithm, kernel: str | None) -> None:
    view = memoryview(some_bytes(1_000_003))
    check_copy(algorithm, kernel, view, dst_offset=3, expected=algorithm.extend(view, kernel="portable"))


def test_copy_into_too_little_room_writes_nothing() -> None:
    dst = bytearray(b"\xa5" * 9)
    with pytest.raises(ValueError, match="10 bytes do not fit into 9"):
        checksum.crc64nvme_copy(dst, bytes(10))
    assert dst == b"\xa5" * 9


@pytest.mark.parametrize("shift", [-99, -1, 0, 1, 99])
def test_copy_within_overlapping_memory_is_refused_and_writes_nothing(shift: int) -> None:
    memory = bytearray(some_bytes(300))
    before = bytes(memory)
    view = memoryview(memory)
    with pytest.raises(ValueError, match="overlap"):
        checksum.crc64nvme_copy(view[100 + shift : 200 + shift], view[100:200])
    assert memory == before


def test_copy_between_neighbours_in_the_same_memory_is_not_an_overlap() -> None:
    memory = bytearray(some_bytes(200))
    view = memoryview(memory)
    assert checksum.crc64nvme_copy(view[100:], view[:100]) == checksum.crc64nvme(memory[:100])
    assert memory[100:] == memory[:100]


def test_copy_into_read_only_memory_is_refused() -> None:
    with pytest.raises(BufferError):
        checksum.crc64nvme_copy(bytes(10), b"abc")


# ---- Combine ----


@each_algorithm
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combine_gives_the_checksum_of_the_concatenation(algorithm: Algorithm, a: bytes, b: bytes) -> None:
    assert algorithm.combine(algorithm.extend(a), algorithm.extend(b), len(b)) == algorithm.extend(a + b)


@each_algorithm
def test_combine_with_nothing_changes_nothing(algorithm: Algorithm) -> None:
    assert algorithm.combine(algorithm.check, 0, 0) == algorithm.check
    assert algorithm.combine(0, algorithm.check, 9) == algorithm.check


@each_algorithm
@given(st.integers(0, 2**64 - 1), st.data())
def test_combine_of_any_length_agrees_with_the_algebra(
    algorithm: Algorithm, len2: int, data: st.DataObject
) -> None:
    crc1 = data.draw(st.integers(0, algorithm.ones))
    crc2 = data.draw(st.integers(0, algorithm.ones))
    assert algorithm.combine(crc1, crc2, len2) == concatenated(algorithm, crc1, crc2, len2)


@each_algorithm
@pytest.mark.parametrize("len2", [2**32 - 1, 2**32, 2**32 + 1, 5 * 2**40 + 123, 2**63, 2**64 - 1])
def test_combine_past_4_gib_agrees_with_the_algebra(algorithm: Algorithm, len2: int) -> None:
    crc1, crc2 = algorithm.extend(b"left"), algorithm.extend(b"right")
    assert algorithm.combine(crc1, crc2, len2) == concatenated(algorithm, crc1, crc2, len2)


@each_algorithm
@pytest.mark.parametrize("len2", [-1, 2**64])
def test_combine_refuses_a_length_outside_64_bits(algorithm: Algorithm, len2: int) -> None:
    with pytest.raises(OverflowError):
        algorithm.combine(1, 2, len2)


# ---- Arguments ----


@each_algorithm
def test_kernel_that_is_not_there_is_an_error_that_names_those_that_are(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match="no kernel 'abacus'") as caught:
        algorithm.extend(b"abc", kernel="abacus")
    for name in checksum.kernels(algorithm.name):
        assert name in str(caught.value)


def test_copy_with_a_kernel_that_is_not_there_writes_nothing() -> None:
    dst = bytearray(3)
    with pytest.raises(ValueError, match="no kernel 'abacus'"):
        checksum.crc64nvme_copy(dst, b"abc", kernel="abacus")
    assert dst == bytes(3)


def test_kernels_of_an_unknown_checksum_are_an_error() -> None:
    with pytest.raises(ValueError, match="no checksum 'crc7'; there are crc64nvme, crc64xz, crc32c"):
        checksum.kernels("crc7")


@each_algorithm
def test_portable_kernel_is_everywhere_and_last(algorithm: Algorithm) -> None:
    assert checksum.kernels(algorithm.name)[-1] == "portable"


KERNEL_FLAGS = [
    ("crc64nvme", "vpclmul", {"avx512f", "vpclmulqdq"}),
    ("crc64nvme", "pclmul", {"pclmulqdq", "sse4_1"}),
    ("crc64nvme", "pmull", {"pmull"}),
    ("crc32c", "sse4.2", {"sse4_2"}),
    ("crc32c", "armv8-crc", {"crc32"}),
]


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="reads Linux's flags"
)
@pytest.mark.parametrize(("algorithm", "kernel", "flags"), KERNEL_FLAGS)
def test_kernel_is_there_exactly_when_the_processor_has_its_instructions(
    algorithm: str, kernel: str, flags: set[str]
) -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next(line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features")))
    assert (kernel in checksum.kernels(algorithm)) == (flags <= set(processor))


@each_algorithm
def test_data_may_be_anything_with_a_contiguous_buffer(algorithm: Algorithm) -> None:
    numbers = array.array("d", [1.5, -2.5, 1e300])
    expected = algorithm.extend(numbers.tobytes())
    matrix = np.array(numbers).reshape(3, 1)
    for data in (bytearray(numbers.tobytes()), memoryview(numbers), numbers, matrix):
        assert algorithm.extend(data) == expected


@each_algorithm
@pytest.mark.parametrize(
    "data",
    [memoryview(bytes(10))[::2], np.zeros(10)[::2], np.zeros((3, 4), order="F"), memoryview(bytes(10))[::-1]],
    ids=["memoryview", "array", "fortran", "backwards"],
)
def test_data_that_is_not_contiguous_is_refused(algorithm: Algorithm, data: Any) -> None:
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        algorithm.extend(data)


@each_algorithm
def test_data_that_is_not_bytes_is_a_type_error(algorithm: Algorithm) -> None:
    with pytest.raises(TypeError):
        algorithm.extend("text")


@each_algorithm
def test_value_that_does_not_fit_is_refused(algorithm: Algorithm) -> None:
    for value in (-1, algorithm.ones + 1):
        with pytest.raises(OverflowError):
            algorithm.extend(b"abc", value)


@each_algorithm
def test_data_is_free_again_after_the_call(algorithm: Algorithm) -> None:
    data = bytearray(100)
    algorithm.extend(data)
    if algorithm.copy is not None:
        algorithm.copy(data, b"abc")
        with pytest.raises(ValueError, match="do not fit"):
            algorithm.copy(data, bytes(101))
    data.append(0)  # a bytearray that somebody holds a buffer of cannot change its size: BufferError


# ---- The incremental objects ----


@each_algorithm
@given(st.lists(st.binary(max_size=200)))
def test_incremental_object_gives_the_checksum_of_its_pieces(
    algorithm: Algorithm, pieces: list[bytes]
) -> None:
    made = algorithm.incremental()
    for piece in pieces:
        made.update(piece)
    whole = b"".join(pieces)
    assert made.value == algorithm.extend(whole)
    assert made.digest() == algorithm.incremental(whole).digest()


@each_algorithm
def test_incremental_object_has_the_face_of_hashlib(algorithm: Algorithm) -> None:
    made = algorithm.incremental(b"12345")
    made.update(b"6789")
    assert made.name == algorithm.name
    assert made.digest_size * 8 == algorithm.bits
    assert made.digest() == algorithm.check.to_bytes(made.digest_size, "big")
    assert made.hexdigest() == f"{algorithm.check:0{algorithm.bits // 4}x}"


@each_algorithm
def test_digest_of_nothing_is_all_zeros(algorithm: Algorithm) -> None:
    assert algorithm.incremental().digest() == bytes(algorithm.bits // 8)


@each_algorithm
def test_copy_of_an_incremental_object_goes_its_own_way(algorithm: Algorithm) -> None:
    made = algorithm.incremental(b"1234")
    other = made.copy()
    other.update(b"56789")
    assert type(other) is algorithm.incremental
    assert other.value == algorithm.check
    assert made.value == algorithm.extend(b"1234")

"""The buffers that parts pass through on their way from one server to another: bytes, bounds, checksums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._native.checksum import crc64nvme, crc64xz
from fastxfer._native.memory import PartBuffer
from fastxfer._native.reader import MemoryReader
from fastxfer._native.writer import Throttle, Writer
from tests.servers.objects import make_bytes

DATA = make_bytes(300_000, 5)
PAUSE = 0x10000001  # CURL_WRITEFUNC_PAUSE


@given(st.integers(0, 3000), st.lists(st.integers(0, 700), max_size=9), st.booleans())
def test_what_comes_is_there_with_its_checksum(room: int, sizes: list[int], xz: bool) -> None:
    buffer, writer, at = PartBuffer(3000, xz), Writer(), 0
    buffer.begin(room)
    writer.fill(buffer)
    crc = crc64xz if xz else crc64nvme
    for size in sizes:
        fits = at + size <= room
        assert writer(DATA[at : at + size]) == (None if fits else 0)
        at = min(room, at + size)
        assert bytes(buffer) == DATA[:at] and buffer.crc == crc(DATA[:at])
        assert (len(buffer), buffer.filled, buffer.full) == (at, at, at == room)
        if not fits:
            assert writer.overrun
            return
    assert not writer.overrun and writer.received == at


def test_a_part_goes_on_where_it_stopped() -> None:
    buffer, writer = PartBuffer(1000), Writer()
    writer.fill(buffer)
    writer(DATA[:300])
    writer.refuse()
    assert writer(b"x") == 0
    writer.fill(buffer)
    writer(DATA[300:1000])
    assert bytes(buffer) == DATA[:1000] and buffer.crc == crc64nvme(DATA[:1000])


@given(st.integers(1, 5000), st.lists(st.integers(1, 9000), min_size=1, max_size=12))
def test_a_stream_fills_one_buffer_after_another(capacity: int, sizes: list[int]) -> None:
    writer, full, told = Writer(), [PartBuffer(capacity)], [0]

    def on_full() -> None:
        told[0] += 1

    writer.fill(full[0], on_full)
    at = 0
    for size in sizes:
        slice_ = DATA[at : at + size]
        calls = told[0]
        while writer(slice_) == PAUSE:
            assert writer(slice_) == PAUSE and told[0] == calls + 1 and full[-1].full
            calls += 1
            full.append(PartBuffer(capacity))
            writer.fill_on(full[-1])
        at += size
    assert b"".join(map(bytes, full)) == DATA[:at] and writer.received == at


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        PartBuffer(0)
    buffer, writer = PartBuffer(10), Writer()
    with pytest.raises(ValueError, match="no more bytes"):
        buffer.begin(11)
    with pytest.raises(ValueError, match="no buffer is full"):
        writer.fill_on(buffer)
    with pytest.raises((BufferError, TypeError)):
        memoryview(buffer)[0] = 1


@given(st.integers(0, 100_000), st.integers(1, 70_000), st.booleans())
def test_a_reader_gives_what_is_in_memory(size: int, step: int, xz: bool) -> None:
    reader = MemoryReader(DATA[:size], xz)
    for _ in range(2):
        blocks = []
        while block := reader(step):
            assert isinstance(block, bytes)
            blocks.append(block)
        assert b"".join(blocks) == DATA[:size] and reader.pos == reader.stop == len(reader) == size
        assert reader.crc == (crc64xz if xz else crc64nvme)(DATA[:size])
        assert reader.seek(0) == 0
    assert reader.given == 2 * size and reader.error == 0 and reader.reason == ""


def test_a_reader_keeps_its_bytes() -> None:
    buffer, writer = PartBuffer(1 << 20), Writer()
    writer.fill(buffer)
    writer(DATA)
    reader = MemoryReader(buffer)
    del buffer, writer
    assert reader(len(DATA)) == DATA


def test_a_buffer_is_filled_as_the_rates_allow() -> None:
    writer, throttle, buffer = Writer(), Throttle(10), PartBuffer(1000)
    writer.limit(throttle)
    writer.fill(buffer)
    assert writer(memoryview(DATA[:100])) is None
    assert writer(memoryview(DATA[100:200])) == PAUSE
    assert (writer.waiting, throttle.tokens, bytes(buffer)) == (True, -90, DATA[:100])
    throttle.tokens = 1
    assert writer(memoryview(DATA[100:200])) is None
    assert (writer.waiting, throttle.tokens, bytes(buffer)) == (False, -99, DATA[:200])

"""What the tests of uploads to tus servers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer._native.checksum import crc64nvme
from fastxfer.errors import FastxferError
from fastxfer.put_results import PutResult
from tests.servers.gateway import Inbound
from tests.servers.objects import make_bytes
from tests.servers.raw import Request
from tests.servers.tus_book import TusBook, times

KIB = 1 << 10
MIB = 1 << 20


def make_file(directory: Path, size: int, *, seed: int = 1, name: str = "data.bin") -> tuple[Path, bytes]:
    """Makes a file of random bytes; returns it with them."""
    data = make_bytes(size, seed=seed)
    path = directory / name
    path.write_bytes(data)
    return path, data


def crc_of(data: bytes) -> dict[str, str]:
    """Returns the checksum that a PutResult has to have."""
    return {"crc64nvme": f"{crc64nvme(data):016x}"}


def left_beside(path: Path) -> list[str]:
    """Returns what there is in a file's directory beside it."""
    return sorted(each.name for each in path.parent.iterdir() if each != path)


def checkpoint_of(path: Path) -> Path:
    """Returns the one checkpoint beside a file."""
    (found,) = path.parent.glob("*.fxput")
    return found


def take_and_cut(server: TusBook, count: int, request: Request, connection: Inbound) -> None:
    """Takes so many bytes of a PATCH's body, and cuts the connection."""
    upload = server.uploads[request.target.rpartition("/")[2]]
    taken = bytearray()
    for piece in connection.pieces():
        taken += piece
        if len(taken) >= count:
            break
    upload.data += taken[:count]
    connection.reset()


def interrupted(server: TusBook, path: Path, count: int, **more: Any) -> FastxferError:
    """Uploads a file until the server has so many bytes; returns the error that it ended with."""
    before, server.trouble = server.trouble, times(1, "PATCH", lambda r, c: take_and_cut(server, count, r, c))
    with pytest.raises(FastxferError) as caught:
        fastxfer.put(path, server.target, retries=0, **more)
    server.trouble = before
    return caught.value


def put(server: TusBook, path: Path, **more: Any) -> PutResult:
    """Uploads a file, and sees that the server has it and nothing is left beside it."""
    result = fastxfer.put(path, server.target, **more)
    data = path.read_bytes()
    assert server.data_of(result.url) == data
    assert (result.size, result.checksums) == (len(data), crc_of(data))
    assert left_beside(path) == []
    return result

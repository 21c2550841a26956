"""What a store says that an object's bytes come to is held against what arrived."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer._native.checksum import Crc32c, Crc64Nvme, Crc64Xz
from tests.faults.scenarios import wait
from tests.servers.gateway import Call
from tests.servers.objects import make_bytes
from tests.servers.proxy import SLOW_DOWN, Harm, Proxy
from tests.servers.store import Store
from tests.stores import known, url

MIB = 1 << 20
DATA = make_bytes(6 * MIB + 11, 2)
SMALL = make_bytes(3000, 2)
Made = dict[str, Callable[[], Any]]
MAKERS: Made = {"crc64nvme": Crc64Nvme, "crc32c": Crc32c, "crc64xz": Crc64Xz}


def crc(name: str, data: bytes) -> str:
    hasher = MAKERS[name]()
    hasher.update(data)
    digest: str = hasher.hexdigest()
    return digest


def put(store: Store, data: bytes, name: str = "crc64nvme") -> None:
    """Puts the object o; S3 is given its checksum, which OSS reckons itself."""
    text = base64.b64encode(bytes.fromhex(crc(name, data))).decode()
    store.put("o", data, **({} if store.kind == "oss" else {f"Checksum{name.upper()}": text}))


@pytest.fixture(params=["seaweedfs", "rclone", "oss"])
def telling(request: pytest.FixtureRequest) -> Store:
    """A new bucket of each store that keeps checksums of whole objects."""
    made: Store = request.getfixturevalue(request.param).store().make_bucket()
    return made


def test_what_arrived_is_what_the_store_has(telling: Store, tmp_path: Path) -> None:
    put(telling, DATA)
    with Proxy(telling) as proxy:
        result = fastxfer.fetch(url(telling, "o"), tmp_path / "o", **known(proxy.store))
    assert (tmp_path / "o").read_bytes() == DATA
    assert result.verified == "server"
    assert "the store's checksum verified" in str(result)
    name = "crc64xz" if telling.kind == "oss" else "crc64nvme"
    assert result.checksums[name] == crc(name, DATA)
    asked = [each.call.operation for each in proxy.calls()]
    assert asked.count("HeadObject") == (0 if telling.kind == "oss" else 1)
    assert result.requests == len(asked)


@pytest.mark.parametrize("name", ["seaweedfs", "rclone"])
def test_a_crc32c_is_one_too(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    put(store, DATA, "crc32c")
    result = fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(store))
    assert (result.verified, result.checksums["crc32c"]) == ("server", crc("crc32c", DATA))


# Of a range SeaweedFS tells none, though it be all of the object.
@pytest.mark.parametrize(
    ("name", "verified"), [("seaweedfs", "none"), ("rclone", "server"), ("oss", "server")]
)
def test_an_object_of_one_answer_costs_one_request(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, verified: str
) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    put(store, SMALL)
    result = fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(store))
    assert (result.requests, result.verified) == (1, verified)


def test_a_store_that_tells_nothing_is_no_failure(rgw: Any, tmp_path: Path) -> None:
    store: Store = rgw.store().make_bucket()
    put(store, DATA)
    result = fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(store))
    assert (result.verified, result.size) == ("none", len(DATA))


@pytest.mark.parametrize("harm", [Harm(status=403), Harm(status=503, body=SLOW_DOWN), Harm(cut_answer=0)])
def test_a_question_that_is_not_answered_is_no_failure(seaweedfs: Any, tmp_path: Path, harm: Harm) -> None:
    store: Store = seaweedfs.store().make_bucket()
    put(store, DATA)
    with Proxy(store, lambda call, number: harm if call.operation == "HeadObject" else None) as proxy:
        result = fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(proxy.store))
    assert (tmp_path / "o").read_bytes() == DATA
    assert result.verified == "none"


def test_a_question_that_fails_once_is_asked_again(seaweedfs: Any, tmp_path: Path) -> None:
    store: Store = seaweedfs.store().make_bucket()
    put(store, DATA)

    def harm(call: Call, number: int) -> Harm | None:
        return Harm(status=503) if call.operation == "HeadObject" and not number else None

    with Proxy(store, harm) as proxy:
        result = fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(proxy.store))
    assert result.verified == "server"


def test_the_end_waits_for_the_answer_and_a_cancel_does_not(seaweedfs: Any, tmp_path: Path) -> None:
    store: Store = seaweedfs.store().make_bucket()
    put(store, DATA)
    gate, asked = threading.Event(), threading.Event()

    def harm(call: Call, number: int) -> Harm | None:
        if call.operation != "HeadObject":
            return None
        asked.set()
        return Harm(hold=gate)

    with Proxy(store, harm) as proxy:
        transfer = fastxfer.start(url(store, "o"), tmp_path / "o", **known(proxy.store))
        assert asked.wait(60)
        proxy.calls("GetObject", count=1)
        assert not (tmp_path / "o").exists()
        transfer.cancel()
        with pytest.raises(fastxfer.InterruptedTransferError):
            wait(transfer, 60)
        gate.set()
        result = fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(proxy.store))
    assert (result.verified, result.resumed + result.transferred) == ("server", len(DATA))
    assert (tmp_path / "o").read_bytes() == DATA


@pytest.mark.parametrize("size", [len(DATA), len(SMALL)])
def test_bytes_that_the_store_did_not_mean_are_refused(rclone: Any, tmp_path: Path, size: int) -> None:
    store: Store = rclone.store().make_bucket()  # it believes any checksum
    data = DATA[:size]
    wrong = base64.b64encode(bytes.fromhex(crc("crc64nvme", data[:-1]))).decode()
    store.put("o", data, ChecksumCRC64NVME=wrong)
    with pytest.raises(fastxfer.ChecksumError, match="crc64nvme") as caught:
        fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(store))
    assert caught.value.expected == crc("crc64nvme", data[:-1])
    assert not (tmp_path / "o").exists()


def test_bytes_that_are_changed_on_the_way_are_refused(oss: Any, tmp_path: Path) -> None:
    store: Store = oss.store().make_bucket()
    store.put("o", SMALL)
    other = bytes([SMALL[0] ^ 1]) + SMALL[1:]
    fields = {
        "Content-Range": f"bytes 0-{len(SMALL) - 1}/{len(SMALL)}",
        "ETag": '"A"',
        "x-oss-hash-crc64ecma": str(int(crc("crc64xz", SMALL), 16)),
    }
    change = lambda call, number: Harm(status=206, fields=fields, body=other)  # noqa: E731
    with Proxy(store, change) as proxy, pytest.raises(fastxfer.ChecksumError, match="crc64xz"):
        fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(proxy.store))
    assert not (tmp_path / "o").exists()


def test_the_callers_checksum_counts_more(oss: Any, tmp_path: Path) -> None:
    store: Store = oss.store().make_bucket()
    store.put("o", SMALL)
    checksum = f"crc32c:{crc('crc32c', SMALL)}"
    result = fastxfer.fetch(url(store, "o"), tmp_path / "o", checksum=checksum, **known(store))
    assert result.verified == "checksum"

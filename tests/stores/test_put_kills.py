"""SIGKILL at random points of an upload in 500 parts: it goes on, and no part that the store has is sent
again.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, environment, events
from tests.kills import SOAK
from tests.servers import HOST
from tests.servers.gateway import Call
from tests.servers.oss_facade import OssFacade
from tests.servers.proxy import Harm, Proxy
from tests.servers.store import Store
from tests.stores.putting import OSS_PART, S3_PART, crc_of, left_beside, make_file, options, url

KILLS = 25
PARTS = 500
FEWER = 120  # of 5 MiB
DEADLINE_S = 120.0
WITHIN_S = 0.03  # of the request that is waited for, it is killed at any moment


@dataclass
class Counted:
    """Counts the parts that clients have begun to send, and says when it is so many."""

    begun: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, call: Call, _: int) -> Harm | None:
        if call.operation == "UploadPart":
            with self._changed:
                self.begun += 1
                self._changed.notify_all()
        return None

    def wait(self, count: int, process: subprocess.Popen[bytes]) -> None:
        """Returns when so many have begun. Fails where the process ends before."""
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while not self._changed.wait_for(lambda: self.begun >= count, 0.5):
                assert process.poll() is None and time.monotonic() < deadline, f"{self.begun} parts"


def command(store: Store, path: Path, part_size: int) -> list[str]:
    known = {**options(store), "part_size": part_size, "connections": 3}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in known.items()]
    return [*COMMAND, "put", str(path), url(store), "--json", *given]


def killed_at(argv: list[str], counted: Counted, count: int, delay_s: float) -> None:
    """Runs the command, and kills it when so many parts have begun, after so many seconds more."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment()) as process:
        try:
            counted.wait(count, process)
            threading.Event().wait(delay_s)
        finally:
            process.kill()


def listed(store: Store, upload_id: str) -> set[int]:
    """Returns the parts that the store has, as a client that is not ours is told."""
    pages = store.client.get_paginator("list_parts").paginate(
        Bucket=store.bucket, Key="o", UploadId=upload_id
    )
    return {part["PartNumber"] for page in pages for part in page.get("Parts", ())}


def parts_sent(proxy: Proxy, counted: Counted) -> set[int]:
    """Returns the numbers of the parts that were sent since the last call, when all is quiet."""
    until_all_are_accepted(proxy)
    proxy.drop()
    sent = proxy.calls("UploadPart", count=counted.begun)
    assert len(sent) == counted.begun
    proxy.forget()
    counted.begun = 0
    return {each.call.part for each in sent}


def until_all_are_accepted(proxy: Proxy) -> None:
    """Returns when no connection waits any more to be accepted: they are in the order in which they came."""
    connection = HTTPConnection(HOST, proxy.port, timeout=DEADLINE_S)
    try:
        connection.request("HEAD", "/")
        connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture(params=["rgw", "oss", "seaweedfs"])
def case(request: pytest.FixtureRequest, oss: OssFacade) -> tuple[Store, int, int]:
    """A store, its size of parts and their number: SeaweedFS takes none of under 5 MiB."""
    if request.param == "seaweedfs":
        store: Store = request.getfixturevalue("seaweedfs").store().make_bucket()
        return store, S3_PART, PARTS if SOAK else FEWER
    made = oss.store().make_bucket()
    if request.param == "oss":
        return made, OSS_PART, PARTS
    assert made.behind is not None
    return made.behind.make_bucket(), OSS_PART, PARTS


def test_no_part_that_the_store_has_is_sent_again(case: tuple[Store, int, int], tmp_path: Path) -> None:
    store, part_size, count = case
    path, data = make_file(tmp_path, part_size * count - 17)
    chance = random.Random(11)
    kills = KILLS if SOAK or store.kind != "oss" else KILLS // 4
    points = sorted(chance.sample(range(2, count - count // 4), kills))
    counted, has, ids = Counted(), set[int](), set[str]()
    with Proxy(store, counted) as proxy:
        argv = command(proxy.store, path, part_size)
        for point in points:
            killed_at(argv, counted, max(1, point - len(has)), chance.uniform(0, WITHIN_S))
            sent = parts_sent(proxy, counted)
            assert not has & sent
            ids |= {upload_id for _, upload_id in store.list_uploads()}
            assert len(ids) == 1
            has = listed(store, min(ids))
        done = subprocess.run(argv, capture_output=True, env=environment(), timeout=DEADLINE_S, check=True)
        sent = parts_sent(proxy, counted)
    assert sent == set(range(1, count + 1)) - has
    result = events(done.stdout.decode())[-1]
    assert (result["parts"], result["parts_resumed"]) == (count, len(has))
    assert result["checksums"] == crc_of(store, data) and result["verified"] in ("server", "etag", "none")
    assert store.get("o") == data
    assert store.list_uploads() == [] and left_beside(path) == []

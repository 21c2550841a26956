"""What the proxy before an object store writes down, and the harm that it does, seen with botocore."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, ResponseStreamingError

from tests.servers.proxy import INTERNAL_ERROR, SLOW_DOWN, Harm, Proxy
from tests.servers.raw import Connection, RawServer, Request
from tests.servers.rgw import Rgw
from tests.servers.store import Credentials, Part, Store, make_client

MIB = 1 << 20
DEADLINE_S = 20.0


@pytest.fixture
def store(rgw: Rgw) -> Store:
    """A new bucket of RGW."""
    return rgw.store().make_bucket()


class Through:
    """The calls of a Store, by way of a proxy that does this harm to the first such operation on "o"."""

    def __init__(self, store: Store, operation: str, harm: Harm) -> None:
        chosen = (operation, "o", 0)
        self.proxy = Proxy(
            store, lambda call, number: harm if (call.operation, call.key, number) == chosen else None
        )
        self.store = Store(
            store.kind, self.proxy.store.endpoint, store.user, store.stranger, bucket=store.bucket
        )

    def __enter__(self) -> Through:
        self.proxy.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.proxy.__exit__(*error)


@pytest.fixture
def upload(store: Store) -> Iterator[tuple[str, list[Part]]]:
    """An upload of the key "o" that has all its parts."""
    upload_id = store.begin("o")
    yield (
        upload_id,
        [store.put_part("o", upload_id, 1, bytes(5 * MIB)), store.put_part("o", upload_id, 2, b"t")],
    )


def test_each_request_is_written_down(s3_store: Store) -> None:
    with Through(s3_store, "", Harm()) as through:
        behind = through.store
        behind.put("a b+ü", b"hello")
        assert behind.get("a b+ü") == b"hello"
        upload_id = behind.begin("m")
        parts = [behind.put_part("m", upload_id, number, bytes(5 * MIB)) for number in (1, 2)]
        behind.list_parts("m", upload_id)
        behind.complete("m", upload_id, parts)
        calls = through.proxy.calls(count=7)
    assert [(each.call.operation, each.call.key, each.call.part) for each in calls] == [
        ("PutObject", "a b+ü", 0),
        ("GetObject", "a b+ü", 0),
        ("CreateMultipartUpload", "m", 0),
        ("UploadPart", "m", 1),
        ("UploadPart", "m", 2),
        ("ListParts", "m", 0),
        ("CompleteMultipartUpload", "m", 0),
    ]
    assert {(each.status, each.store_status) for each in calls} == {(200, 200)}
    assert [each.received for each in calls[:5]] == [5, 0, 0, 5 * MIB, 5 * MIB]
    assert calls[1].sent == 5
    assert {each.call.upload_id for each in calls[3:]} == {upload_id}
    assert {each.call.bucket for each in calls} == {s3_store.bucket}


def test_the_proxys_store_asks_the_store_itself(store: Store) -> None:
    with Proxy(store) as proxy:
        proxy.store.put("o", b"x")
        assert proxy.store.keys() == ["o"]
        assert proxy.calls() == []
        client = make_client(proxy.store.endpoint, store.user)
        assert client.head_object(Bucket=store.bucket, Key="o")["ContentLength"] == 1
        assert [each.call.operation for each in proxy.calls(count=1)] == ["HeadObject"]


def test_an_answer_in_its_place_keeps_a_request_from_the_store(store: Store) -> None:
    slow = Harm(status=503, fields={"Retry-After": "1"}, body=SLOW_DOWN)
    with Through(store, "PutObject", slow) as through:
        with pytest.raises(ClientError) as caught:
            through.store.put("o", b"hello")
        assert caught.value.response["Error"]["Code"] == "SlowDown"
        assert store.head("o") is None
        (call,) = through.proxy.calls("PutObject", count=1)
        assert (call.status, call.store_status, call.received) == (503, 0, 5)
        through.store.put("o", b"again")
    assert store.get("o") == b"again"


def test_a_completion_can_be_a_200_with_an_error(store: Store, upload: tuple[str, list[Part]]) -> None:
    harm = Harm(status=200, body=INTERNAL_ERROR)
    with Through(store, "CompleteMultipartUpload", harm) as through:
        with pytest.raises(ClientError) as caught:
            through.store.complete("o", *upload)
        assert caught.value.response["Error"]["Code"] == "InternalError"
        assert store.head("o") is None


def test_a_completion_can_be_carried_out_and_its_answer_lost(
    store: Store, upload: tuple[str, list[Part]]
) -> None:
    with Through(store, "CompleteMultipartUpload", Harm(carry_out=True, cut_answer=0)) as through:
        with pytest.raises((ConnectionClosedError, HTTPClientError)):
            through.store.complete("o", *upload)
        (call,) = through.proxy.calls("CompleteMultipartUpload", count=1)
        assert (call.status, call.store_status) == (0, 200)
    assert store.get("o") == bytes(5 * MIB) + b"t"


def test_what_was_carried_out_can_be_answered_otherwise(store: Store, upload: tuple[str, list[Part]]) -> None:
    harm = Harm(carry_out=True, status=500, body=INTERNAL_ERROR)
    with Through(store, "CompleteMultipartUpload", harm) as through, pytest.raises(ClientError):
        through.store.complete("o", *upload)
    assert store.get("o") == bytes(5 * MIB) + b"t"


def test_a_part_can_be_cut_off(store: Store) -> None:
    upload_id = store.begin("o")
    with Through(store, "UploadPart", Harm(cut_request=MIB)) as through:
        with pytest.raises((ConnectionClosedError, HTTPClientError)):
            through.store.put_part("o", upload_id, 1, bytes(5 * MIB))
        (call,) = through.proxy.calls("UploadPart", count=1)
        assert MIB < call.received < 5 * MIB
    assert store.list_parts("o", upload_id) == []


def test_an_object_can_be_cut_off(store: Store) -> None:
    store.put("o", bytes(MIB))
    with Through(store, "GetObject", Harm(cut_answer=1000)) as through:
        with pytest.raises((ResponseStreamingError, ConnectionClosedError, HTTPClientError)):
            through.store.get("o")
        (call,) = through.proxy.calls("GetObject", count=1)
        assert call.sent == 1000


@pytest.mark.parametrize("place", ["hold", "hold_answer"])
def test_a_request_or_its_answer_can_be_held(store: Store, place: str) -> None:
    go = threading.Event()
    harm = Harm(hold=go) if place == "hold" else Harm(hold_answer=go)
    with Through(store, "PutObject", harm) as through, ThreadPoolExecutor(1) as pool:
        held = pool.submit(through.store.put, "o", b"held")
        through.proxy.wait_for_requests(1)
        through.store.put("other", b"not held")
        assert [each.call.key for each in through.proxy.calls("PutObject", count=1)] == ["other"]
        assert not held.done()
        if place == "hold":
            assert store.head("o") is None
        go.set()
        held.result(DEADLINE_S)
    assert store.get("o") == b"held"


def test_a_store_that_goes_away_within_an_answer_is_a_lost_connection() -> None:
    def half(request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Content-Length": "10"})
        connection.send(b"half")
        connection.close()

    def nothing(request: Request, connection: Connection) -> None:
        connection.send(b"no answer of HTTP\r\n\r\n")
        connection.close()

    for handler in (half, nothing):
        with RawServer(handler) as gone, Proxy(Store("gone", gone.url(""), Credentials("a", "b"))) as proxy:
            client = make_client(proxy.store.endpoint, Credentials("a", "b"))
            with pytest.raises((ResponseStreamingError, ConnectionClosedError, HTTPClientError)):
                client.get_object(Bucket="b", Key="o")["Body"].read()
            assert len(proxy.calls("GetObject", count=1)) == 1

"""What the object stores of the tests do that speak S3, seen with botocore, without fastxfer.

Where they differ it is said here for each: a test of fastxfer can rely on it, and must not fall for it.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningCredentials
from botocore.exceptions import ClientError

from tests.servers import Authority
from tests.servers.objects import make_bytes
from tests.servers.rgw import Cluster, Rgw
from tests.servers.seaweedfs import SeaweedFs
from tests.servers.store import REGION, Credentials, Part, Store, make_client, unquoted

MIB = 1 << 20
PART = 5 * MIB
OBJECT = bytes(range(256)) * 4


def refused(call: Callable[[], Any]) -> tuple[int, str]:
    """Returns status and code of the error that the call must end with."""
    with pytest.raises(ClientError) as caught:
        call()
    answer: dict[str, Any] = dict(caught.value.response)
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def ask(
    url: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Returns status, header fields and body of one request; a host ending in "localhost" is 127.0.0.1."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", split.port or 0, timeout=30)
    try:
        target = f"{split.path}?{split.query}" if split.query else split.path
        connection.request(method, target, body, {"Host": split.netloc, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def presigned(store: Store, key: str, *, expires_s: int = 600, client: Any = None) -> str:
    """Returns a URL that gets an object."""
    url: str = (client or store.client).generate_presigned_url(
        "get_object", Params={"Bucket": store.bucket, "Key": key}, ExpiresIn=expires_s
    )
    return url


def upload(store: Store, key: str, contents: list[bytes]) -> tuple[str, list[Part]]:
    """Begins an upload and sends these parts, the last one first where the store takes them so."""
    upload_id = store.begin(key)
    numbered = list(enumerate(contents, 1))
    parts = [store.put_part(key, upload_id, number, data) for number, data in reversed(numbered)]
    return upload_id, sorted(parts, key=lambda part: part.number)


# ---- objects ----


@pytest.mark.parametrize("key", ["plain", "a b+c%d&e?f=#", "ü/日本", "x!'()*~,;:@$"])
def test_an_object_comes_back_under_its_key(s3_store: Store, key: str) -> None:
    s3_store.put(key, OBJECT)
    assert s3_store.get(key) == OBJECT
    assert s3_store.keys() == [key]
    s3_store.delete(key)
    assert s3_store.head(key) is None


def test_a_range_has_a_content_range_and_is_a_206_but_for_rclone(s3_store: Store) -> None:
    s3_store.put("o", OBJECT)
    url = presigned(s3_store, "o")
    partial = 200 if s3_store.kind == "rclone" else 206
    for wanted, start, stop in (("0-9", 0, 10), ("1000-2000", 1000, 1024), ("-5", 1019, 1024)):
        status, headers, body = ask(url, {"Range": f"bytes={wanted}"})
        assert (status, headers["Content-Range"]) == (partial, f"bytes {start}-{stop - 1}/1024")
        assert body == OBJECT[start:stop]
    assert ask(url, {"Range": "bytes=1024-"})[0] == 416


def test_a_stale_if_range_still_gets_the_range_from_all(s3_store: Store) -> None:
    s3_store.put("o", OBJECT)
    headers = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert len(ask(presigned(s3_store, "o"), headers)[2]) == 10


def test_if_match_is_heeded_but_by_rclone(s3_store: Store) -> None:
    s3_store.put("o", OBJECT)
    expected = 200 if s3_store.kind == "rclone" else 412
    assert ask(presigned(s3_store, "o"), {"If-Match": '"another"'})[0] == expected


# ---- who may ----


def test_a_wrong_secret_an_unknown_key_and_none_are_refused(s3_store: Store) -> None:
    s3_store.put("o", OBJECT)
    liar = replace(s3_store, user=Credentials(s3_store.access_key, "not the secret"))
    assert refused(liar.keys) == (403, "SignatureDoesNotMatch")
    assert refused(replace(s3_store, user=Credentials("NOBODY", "x")).keys) == (403, "InvalidAccessKeyId")
    anonymous = ask(f"{s3_store.endpoint}/{s3_store.bucket}/o")[0]
    assert anonymous == (400 if s3_store.kind == "rclone" else 403)


@pytest.mark.parametrize("name", ["rgw", "seaweedfs"])
def test_a_user_without_permission_may_nothing(name: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(name).store().make_bucket()
    store.put("o", OBJECT)
    stranger = replace(store, user=store.stranger)
    for call in (lambda: stranger.get("o"), lambda: stranger.put("n", b""), lambda: stranger.begin("n")):
        assert refused(call) == (403, "AccessDenied")
    assert store.keys() == ["o"]


def test_what_was_signed_long_ago_is_refused(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.put("o", OBJECT)
    fresh = presigned(s3_store, "o", expires_s=600)
    past = datetime.now(timezone.utc) - timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: past)
    stale = presigned(s3_store, "o", expires_s=600)
    rclone = s3_store.kind == "rclone"
    skewed = (400, "AccessDenied") if rclone else (403, "RequestTimeTooSkewed")
    assert refused(s3_store.keys) == skewed
    assert ask(fresh)[0] == 200
    assert ask(stale)[0] == (400 if rclone else 403)


def test_the_region_that_is_signed_for_does_not_matter(s3_store: Store) -> None:
    s3_store.put("o", OBJECT)
    client = make_client(s3_store.endpoint, s3_store.user, region="eu-west-3")
    assert client.head_object(Bucket=s3_store.bucket, Key="o")["ContentLength"] == len(OBJECT)


@pytest.mark.parametrize("name", ["rgw", "seaweedfs"])
def test_the_bucket_may_be_in_the_name_of_the_host(name: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(name).store().make_bucket()
    store.put("o", OBJECT)
    client = make_client(
        store.endpoint.replace("127.0.0.1", "localhost"), store.user, s3={"addressing_style": "virtual"}
    )
    url = presigned(store, "o", client=client)
    assert urlsplit(url).hostname == f"{store.bucket}.localhost"
    assert ask(url)[::2] == (200, OBJECT)


# ---- checksums ----


def test_another_content_md5_is_refused_by_all(s3_store: Store) -> None:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert refused(lambda: s3_store.put("o", OBJECT, ContentMD5=wrong)) == (400, "BadDigest")
    assert s3_store.head("o") is None


def test_a_body_of_another_hash_than_was_signed_is_refused_by_rgw_alone(s3_store: Store) -> None:
    signed = AWSRequest("PUT", f"{s3_store.endpoint}/{s3_store.bucket}/o", data=b"signed")
    credentials = SigningCredentials(s3_store.access_key, s3_store.secret_key)
    S3SigV4Auth(credentials, "s3", REGION).add_auth(signed)
    status, _, body = ask(signed.url, dict(signed.headers.items()), "PUT", b"forged")
    assert status == (400 if s3_store.kind == "rgw" else 200)
    assert (b"XAmzContentSHA256Mismatch" in body) == (s3_store.kind == "rgw")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA256"])
def test_another_checksum_is_refused_by_seaweedfs_alone(s3_store: Store, algorithm: str) -> None:
    size = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA256": 32}[algorithm]
    wrong = {f"Checksum{algorithm}": base64.b64encode(bytes(size)).decode()}
    if s3_store.kind == "seaweedfs":
        assert refused(lambda: s3_store.put("o", OBJECT, **wrong)) == (400, "BadDigest")
    else:
        s3_store.put("o", OBJECT, **wrong)
    assert (s3_store.head("o") is None) == (s3_store.kind == "seaweedfs")


# ---- multipart uploads ----


def test_parts_become_an_object(s3_store: Store) -> None:
    contents = [make_bytes(PART, 1), make_bytes(PART, 2), b"tail"]
    upload_id, parts = upload(s3_store, "o", contents)
    assert s3_store.list_uploads() == [("o", upload_id)]
    assert s3_store.list_parts("o", upload_id) == parts
    assert s3_store.head("o") is None
    told = s3_store.complete("o", upload_id, parts)
    assert s3_store.get("o") == b"".join(contents)
    of_parts = hashlib.md5(b"".join(hashlib.md5(content).digest() for content in contents)).hexdigest() + "-3"
    of_all = hashlib.md5(b"".join(contents)).hexdigest()
    head = s3_store.head("o")
    assert head is not None
    assert unquoted(head["ETag"]) == (of_all if s3_store.kind == "rclone" else of_parts)
    assert told == ("" if s3_store.kind == "rgw" else of_parts)
    assert s3_store.list_uploads() == []


def test_list_parts_has_pages_but_rclone_begins_one_part_early(s3_store: Store) -> None:
    upload_id, _ = upload(s3_store, "o", [b"1", b"2", b"3", b"4", b"5"])

    def page(marker: int) -> tuple[list[int], bool]:
        about = {"Bucket": s3_store.bucket, "Key": "o", "UploadId": upload_id}
        answer = s3_store.client.list_parts(**about, MaxParts=2, PartNumberMarker=marker)
        return [part["PartNumber"] for part in answer.get("Parts", ())], answer.get("IsTruncated", False)

    assert page(0) == ([1, 2], True)
    assert page(2) == (([2, 3], True) if s3_store.kind == "rclone" else ([3, 4], True))
    assert page(4) == (([4, 5], False) if s3_store.kind == "rclone" else ([5], False))


def test_of_a_part_that_is_sent_twice_the_second_counts(s3_store: Store) -> None:
    first, second, other = make_bytes(PART, 1), make_bytes(PART, 2), make_bytes(PART, 3)
    upload_id = s3_store.begin("o")
    s3_store.put_part("o", upload_id, 1, first)
    part = s3_store.put_part("o", upload_id, 2, second)
    if s3_store.kind == "rclone":
        again = refused(lambda: s3_store.put_part("o", upload_id, 2, other))
        assert again == (501, "NotImplemented")
        return
    part = s3_store.put_part("o", upload_id, 2, other)
    listed = s3_store.list_parts("o", upload_id)
    assert [each.number for each in listed] == ([1, 2, 2] if s3_store.kind == "seaweedfs" else [1, 2])
    s3_store.complete("o", upload_id, [listed[0], part])
    assert s3_store.get("o") == first + other


def test_a_part_of_another_etag_is_no_part_and_rclone_forgets_the_upload(s3_store: Store) -> None:
    upload_id, parts = upload(s3_store, "o", [make_bytes(PART), b"tail"])
    wrong = [parts[0], replace(parts[1], etag="0" * 32)]
    assert refused(lambda: s3_store.complete("o", upload_id, wrong)) == (400, "InvalidPart")
    if s3_store.kind == "rclone":
        assert refused(lambda: s3_store.list_parts("o", upload_id)) == (404, "NoSuchUpload")
    else:
        assert s3_store.list_parts("o", upload_id) == parts
        s3_store.complete("o", upload_id, parts)
        assert s3_store.get("o") == make_bytes(PART) + b"tail"


def test_a_second_completion_is_answered_by_each_in_its_own_way(s3_store: Store) -> None:
    upload_id, parts = upload(s3_store, "o", [b"all"])
    etag = s3_store.complete("o", upload_id, parts)
    if s3_store.kind == "rclone":
        again = refused(lambda: s3_store.complete("o", upload_id, parts))
        assert again == (404, "NoSuchUpload")
    else:
        head = s3_store.head("o") or {}
        assert s3_store.complete("o", upload_id, parts) == unquoted(head["ETag"])
        assert etag == ("" if s3_store.kind == "rgw" else unquoted(head["ETag"]))
    assert s3_store.get("o") == b"all"


def test_a_second_completion_of_other_parts_is_an_internal_error_of_rgw(rgw: Rgw) -> None:
    store = rgw.store().make_bucket()
    upload_id, parts = upload(store, "o", [b"all"])
    store.complete("o", upload_id, parts)
    other = [replace(parts[0], etag="0" * 32)]
    assert refused(lambda: store.complete("o", upload_id, other)) == (500, "InternalError")


def test_parts_in_the_wrong_order_are_refused_but_by_rgw(s3_store: Store) -> None:
    contents = [make_bytes(PART, 1), make_bytes(PART, 2)]
    upload_id, parts = upload(s3_store, "o", contents)
    if s3_store.kind == "rgw":
        s3_store.complete("o", upload_id, parts[::-1])
        assert s3_store.get("o") == b"".join(contents)
    else:
        wrong = refused(lambda: s3_store.complete("o", upload_id, parts[::-1]))
        assert wrong == (400, "InvalidPartOrder")


def test_a_small_part_that_is_not_the_last_is_refused_but_by_rclone(s3_store: Store) -> None:
    upload_id, parts = upload(s3_store, "o", [b"small", b"last"])
    if s3_store.kind == "rclone":
        s3_store.complete("o", upload_id, parts)
        assert s3_store.get("o") == b"smalllast"
    else:
        small = refused(lambda: s3_store.complete("o", upload_id, parts))
        assert small == (400, "EntityTooSmall")
        assert s3_store.list_parts("o", upload_id) == parts


def test_a_completion_that_leaves_out_a_part_is_refused_but_by_seaweedfs(s3_store: Store) -> None:
    upload_id, parts = upload(s3_store, "o", [b"kept", b"left out"])
    if s3_store.kind == "seaweedfs":
        s3_store.complete("o", upload_id, parts[:1])
        assert s3_store.get("o") == b"kept"
    else:
        partly = refused(lambda: s3_store.complete("o", upload_id, parts[:1]))
        assert partly == (400, "InvalidPart")


def test_an_aborted_upload_is_gone(s3_store: Store) -> None:
    upload_id, parts = upload(s3_store, "o", [b"all"])
    s3_store.abort("o", upload_id)
    assert s3_store.list_uploads() == []
    assert refused(lambda: s3_store.put_part("o", upload_id, 2, b"more")) == (404, "NoSuchUpload")
    listing = refused(lambda: s3_store.list_parts("o", upload_id))
    assert listing == (404, "NoSuchKey" if s3_store.kind == "rgw" else "NoSuchUpload")
    completion = refused(lambda: s3_store.complete("o", upload_id, parts))
    assert completion == ((500, "InternalError") if s3_store.kind == "rgw" else (404, "NoSuchUpload"))


# ---- the servers themselves ----


def listening(pid: int) -> set[str]:
    """Returns the addresses, in the kernel's hexadecimal, on which a process listens for TCP."""
    links = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    own = {os.readlink(link) for link in links if os.path.islink(link)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1].partition(":")[0])
    return found


def test_all_listen_on_127_0_0_1_alone(rgw: Rgw, ceph: Cluster, seaweedfs: SeaweedFs) -> None:
    for pid in (rgw.pid, *ceph.pids, seaweedfs.pid):
        assert listening(pid) == {"0100007F"}


def test_a_cluster_ends_and_leaves_nothing(authority: Authority) -> None:
    with Cluster(authority) as cluster, Rgw(cluster) as server:
        root, prefix = cluster.root, server.prefix
        pids = [*cluster.pids, server.pid]
        server.store().make_bucket().put("o", OBJECT)
    assert not root.exists()
    assert not prefix.exists()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_seaweedfs_ends_and_leaves_nothing(authority: Authority) -> None:
    before = set(Path("/tmp").glob("seaweedfs-*.sock"))
    with SeaweedFs(authority=authority) as server:
        pid, prefix = server.pid, server.prefix
        server.store().make_bucket().put("o", OBJECT)
        ports = set(server.ports.values())
    left = {
        path
        for path in set(Path("/tmp").glob("seaweedfs-*.sock")) - before
        if int(path.stem.rpartition("-")[2]) in ports
    }
    assert not left
    assert not prefix.exists()
    assert not Path(f"/proc/{pid}").exists()

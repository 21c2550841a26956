"""What the stand-in for Alibaba's OSS does, seen with Alibaba's SDK, without fastxfer."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

import alibabacloud_oss_v2 as sdk
import pytest
from alibabacloud_oss_v2.crc import Crc64
from alibabacloud_oss_v2.signer import SignerV1, SignerV4

from tests.servers.objects import make_bytes
from tests.servers.oss_facade import LEAST_PART_BYTES
from tests.servers.store import Credentials, Store

OBJECT = b"123456789"
CHECK = "11051210869376104954"  # of CRC-64/XZ for these nine bytes: 0x995dc9bbdf1939fa
KEY = "a b+ü/o"
PATH = "a%20b%2B%C3%BC/o"
SIGNERS = {"v4": SignerV4, "v1": SignerV1}


def client_of(store: Store, version: str = "v4", user: Credentials | None = None) -> Any:
    """Returns a client of the SDK that signs by this version."""
    who = user or store.user
    config = sdk.config.load_default()
    config.credentials_provider = sdk.credentials.StaticCredentialsProvider(who.access_key, who.secret_key)
    config.region, config.endpoint = store.region, store.endpoint
    config.signature_version = version
    config.retry_max_attempts = 1
    return sdk.Client(config)


@pytest.fixture(params=["v4", "v1"])
def version(request: pytest.FixtureRequest) -> str:
    """Both versions of the signature, one after the other."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def client(oss_store: Store, version: str) -> Any:
    """A client of the SDK for the bucket of `oss_store`."""
    return client_of(oss_store, version)


def refused(call: Callable[[], Any]) -> tuple[int, str, str]:
    """Returns status, code and EC of the error that the call must end with."""
    with pytest.raises(sdk.exceptions.OperationError) as caught:
        call()
    error = caught.value.unwrap()
    assert isinstance(error, sdk.exceptions.ServiceError)
    assert error.request_id
    return error.status_code, error.code, error.ec


def crc_of(data: bytes) -> str:
    """Returns CRC-64/XZ in decimal, by the SDK."""
    crc = Crc64(0)
    crc.update(data)
    return str(crc.sum64())


def signing(
    store: Store, at: datetime, *, key: str | None = KEY, query: str = "", bucket: str | None = None
) -> Any:
    """Returns what the SDK's signers sign: a GET of the object KEY, or of its bucket."""
    path = f"/{store.bucket}/" + (PATH if key else "")
    return sdk.types.SigningContext(
        product="oss",
        region=store.region,
        bucket=bucket or store.bucket,
        key=key,
        request=sdk.types.HttpRequest("GET", store.endpoint + path + query, headers={}),
        credentials=sdk.types.Credentials(store.access_key, store.secret_key),
        signing_time=at,
    )


def signed_url(store: Store, version: str, *, at: datetime, for_s: int, bucket: str | None = None) -> str:
    """Returns a URL that gets the object KEY, signed at that time for so many seconds."""
    context = signing(store, at, bucket=bucket)
    context.auth_method_query = True
    context.expiration_time = at + timedelta(seconds=for_s)
    SIGNERS[version]().sign(context)
    url: str = context.request.url
    return url


def ask(url: str, method: str = "GET", host: str | None = None, **headers: str) -> tuple[int, bytes]:
    """Returns status and body of one request, to 127.0.0.1 whatever the host."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", split.port or 0, timeout=30)
    try:
        fields = {"Host": host or split.netloc, **headers}
        target = f"{split.path}?{split.query}" if split.query else split.path
        connection.request(method, target, headers=fields)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


# ---- objects ----


def test_an_object_comes_back_with_its_crc(oss_store: Store, client: Any) -> None:
    bucket = oss_store.bucket
    put = client.put_object(sdk.PutObjectRequest(bucket=bucket, key=KEY, body=OBJECT, metadata={"who": "me"}))
    assert put.hash_crc64 == CHECK
    got = client.get_object(sdk.GetObjectRequest(bucket=bucket, key=KEY))
    assert (got.body.content, got.hash_crc64, dict(got.metadata)) == (OBJECT, CHECK, {"who": "me"})
    assert got.etag == '"25F9E794323B453885F5181F1B624D0B"'
    head = client.head_object(sdk.HeadObjectRequest(bucket=bucket, key=KEY))
    assert (head.content_length, head.hash_crc64, head.object_type) == (9, CHECK, "Normal")
    assert oss_store.get(KEY) == OBJECT


def test_a_range_has_the_crc_of_the_whole_object(oss_store: Store, client: Any) -> None:
    oss_store.put(KEY, OBJECT)  # by another way: its CRC is made when it is asked for
    wanted = sdk.GetObjectRequest(bucket=oss_store.bucket, key=KEY, range_header="bytes=2-4")
    got = client.get_object(wanted)
    assert (got.status_code, got.body.content, got.hash_crc64) == (206, b"345", CHECK)
    assert got.content_range == "bytes 2-4/9"


@pytest.mark.parametrize("wanted", ["bytes=2-20", "bytes=9-", "bytes=-10", "octets=0-1"])
def test_a_range_past_the_end_is_all_of_the_object(oss_store: Store, client: Any, wanted: str) -> None:
    oss_store.put(KEY, OBJECT)
    got = client.get_object(
        sdk.GetObjectRequest(bucket=oss_store.bucket, key=KEY, range_header=wanted, range_behavior="")
    )
    assert (got.status_code, got.body.content, got.content_range) == (200, OBJECT, None)


def test_with_standard_behaviour_it_is_clipped_or_a_416(oss_store: Store, client: Any) -> None:
    oss_store.put(KEY, OBJECT)

    def get(wanted: str) -> Any:
        return client.get_object(
            sdk.GetObjectRequest(
                bucket=oss_store.bucket, key=KEY, range_header=wanted, range_behavior="standard"
            )
        )

    got = get("bytes=2-20")
    assert (got.status_code, got.body.content) == (206, OBJECT[2:])
    assert refused(lambda: get("bytes=9-"))[:2] == (416, "InvalidRange")


def test_what_is_not_there_is_an_error_of_get_and_head(oss_store: Store, client: Any) -> None:
    missing = (404, "NoSuchKey", "0026-00000001")
    bucket = oss_store.bucket
    assert refused(lambda: client.get_object(sdk.GetObjectRequest(bucket=bucket, key=KEY))) == missing
    assert refused(lambda: client.head_object(sdk.HeadObjectRequest(bucket=bucket, key=KEY))) == missing


def test_another_content_md5_and_a_forbidden_overwrite_are_refused(oss_store: Store, client: Any) -> None:
    def put(**more: Any) -> Any:
        return client.put_object(sdk.PutObjectRequest(bucket=oss_store.bucket, key=KEY, body=OBJECT, **more))

    assert refused(lambda: put(content_md5="CY9rzUYh03PK3k6DJie09g=="))[:2] == (400, "InvalidDigest")
    assert put(forbid_overwrite=True).status_code == 200
    assert refused(lambda: put(forbid_overwrite=True))[:2] == (409, "FileAlreadyExists")


# ---- who may ----


def test_a_wrong_secret_an_unknown_key_and_a_stranger_are_refused(oss_store: Store, version: str) -> None:
    oss_store.put(KEY, OBJECT)

    def get(user: Credentials, **more: str) -> tuple[int, str, str]:
        client = client_of(oss_store, version, user)
        wanted = sdk.GetObjectRequest(bucket=oss_store.bucket, key=KEY, **more)
        return refused(lambda: client.get_object(wanted))

    assert get(Credentials(oss_store.access_key, "x")) == (403, "SignatureDoesNotMatch", "0002-00000040")
    assert get(Credentials("NOBODY", "x")) == (403, "InvalidAccessKeyId", "0002-00000902")
    assert oss_store.stranger is not None
    assert get(oss_store.stranger) == (403, "AccessDenied", "0003-00000001")
    assert get(oss_store.stranger, range_header="bytes=0-1")[:2] == (403, "AccessDenied")
    assert ask(f"{oss_store.endpoint}/{oss_store.bucket}/o")[0] == 403


def test_another_region_is_refused(oss_store: Store) -> None:
    client = client_of(oss_store)
    client._client._options.region = "cn-beijing"
    error = refused(lambda: client.list_objects_v2(sdk.ListObjectsV2Request(bucket=oss_store.bucket)))
    assert error == (400, "InvalidArgument", "0002-00000228")


def test_what_was_signed_an_hour_ago_is_refused(oss_store: Store, version: str) -> None:
    oss_store.put(KEY, OBJECT)
    now = datetime.now(timezone.utc)
    path = f"/{oss_store.bucket}/{PATH}"
    for at, answer in ((now, (200, b"")), (now - timedelta(hours=1), (403, b"RequestTimeTooSkewed"))):
        context = signing(oss_store, at)
        SIGNERS[version]().sign(context)
        status, body = ask(oss_store.endpoint + path, **dict(context.request.headers))
        assert (status, answer[1] in body) == (answer[0], True)


def test_a_query_that_is_encoded_otherwise_was_signed_otherwise(oss_store: Store) -> None:
    context = signing(oss_store, datetime.now(timezone.utc), key=None, query="?prefix=a/b&uploads")
    SignerV4().sign(context)
    status, body = ask(context.request.url, **dict(context.request.headers))
    assert (status, b"SignatureDoesNotMatch" in body) == (403, True)
    context = signing(oss_store, datetime.now(timezone.utc), key=None, query="?prefix=a%2Fb&uploads")
    SignerV4().sign(context)
    assert ask(context.request.url, **dict(context.request.headers))[0] == 200


def test_a_presigned_url_opens_one_object_until_it_expires(oss_store: Store, version: str) -> None:
    oss_store.put(KEY, OBJECT)
    now = datetime.now(timezone.utc)
    assert ask(signed_url(oss_store, version, at=now, for_s=600)) == (200, OBJECT)
    status, body = ask(signed_url(oss_store, version, at=now, for_s=600, bucket="another"))
    assert (status, b"SignatureDoesNotMatch" in body) == (403, True)
    status, body = ask(signed_url(oss_store, version, at=now - timedelta(hours=1), for_s=600))
    assert (status, b"0002-00000069" in body) == (403, True)


def test_a_v4_url_may_last_a_week_and_no_longer(oss_store: Store) -> None:
    oss_store.put(KEY, OBJECT)
    now = datetime.now(timezone.utc)
    assert ask(signed_url(oss_store, "v4", at=now, for_s=604800))[0] == 200
    status, body = ask(signed_url(oss_store, "v4", at=now, for_s=604801))
    assert (status, b"0002-00000232" in body) == (400, True)


def test_the_bucket_may_be_in_the_name_of_the_host(oss_store: Store, version: str) -> None:
    oss_store.put(KEY, OBJECT)
    url = signed_url(oss_store, version, at=datetime.now(timezone.utc), for_s=600)
    host = f"{oss_store.bucket}.oss-cn-hangzhou.aliyuncs.com"
    assert ask(url.replace(f"/{oss_store.bucket}/", "/", 1), host=host) == (200, OBJECT)


# ---- multipart uploads ----


class Upload:
    """An upload by the SDK."""

    def __init__(self, client: Any, store: Store) -> None:
        self.client = client
        self.about = {"bucket": store.bucket, "key": KEY}
        self.about["upload_id"] = client.initiate_multipart_upload(
            sdk.InitiateMultipartUploadRequest(**self.about)
        ).upload_id

    def put(self, number: int, data: bytes) -> Any:
        return self.client.upload_part(sdk.UploadPartRequest(**self.about, part_number=number, body=data))

    def page(self, **more: Any) -> Any:
        return self.client.list_parts(sdk.ListPartsRequest(**self.about, **more))

    def complete(self, *parts: tuple[int, str]) -> Any:
        listed = [sdk.UploadPart(part_number=number, etag=etag) for number, etag in parts]
        return self.client.complete_multipart_upload(
            sdk.CompleteMultipartUploadRequest(
                **self.about, complete_multipart_upload=sdk.CompleteMultipartUpload(parts=listed)
            )
        )


def test_parts_of_100_kib_become_an_object_with_its_crc(oss_store: Store, client: Any) -> None:
    contents = [make_bytes(LEAST_PART_BYTES, 1), make_bytes(LEAST_PART_BYTES, 2), b"tail"]
    upload = Upload(client, oss_store)
    parts = [upload.put(number, data) for number, data in enumerate(contents, 1)]
    assert [part.hash_crc64 for part in parts] == [crc_of(data) for data in contents]
    first, second = upload.page(max_parts=2), upload.page(max_parts=2, part_number_marker=2)
    assert (first.is_truncated, first.next_part_number_marker, second.is_truncated) == (True, 2, False)
    assert [
        (each.part_number, each.size, each.etag, each.hash_crc64) for each in first.parts + second.parts
    ] == [
        (number, len(data), part.etag, part.hash_crc64)
        for number, (data, part) in enumerate(zip(contents, parts, strict=True), 1)
    ]
    assert first.key == KEY
    done = upload.complete(*((number, part.etag) for number, part in enumerate(parts, 1)))
    whole = b"".join(contents)
    assert (done.hash_crc64, done.key) == (crc_of(whole), KEY)
    assert done.etag.endswith('-3"')
    head = client.head_object(sdk.HeadObjectRequest(bucket=oss_store.bucket, key=KEY))
    assert (head.hash_crc64, head.etag, head.object_type) == (crc_of(whole), done.etag, "Multipart")
    assert oss_store.get(KEY) == whole


def test_a_completion_is_checked(oss_store: Store, client: Any) -> None:
    upload = Upload(client, oss_store)
    first, second = upload.put(1, bytes(LEAST_PART_BYTES)).etag, upload.put(2, b"t").etag
    assert refused(lambda: upload.complete((2, second), (1, first)))[1] == "InvalidPartOrder"
    assert refused(lambda: upload.complete((1, first), (2, '"0"')))[1] == "InvalidPart"
    assert refused(lambda: upload.complete((1, first), (3, second)))[1] == "InvalidPart"
    assert oss_store.head(KEY) is None
    assert upload.complete((1, first), (2, second)).status_code == 200
    gone = (404, "NoSuchUpload", "0017-00000244")
    assert refused(lambda: upload.complete((1, first), (2, second))) == gone


def test_a_part_under_100_kib_that_is_not_the_last_is_too_small(oss_store: Store, client: Any) -> None:
    upload = Upload(client, oss_store)
    parts = [(number, upload.put(number, bytes(LEAST_PART_BYTES - 1)).etag) for number in (1, 2)]
    assert refused(lambda: upload.complete(*parts)) == (400, "EntityTooSmall", "0042-00000213")
    assert oss_store.head(KEY) is None


def test_a_part_that_was_sent_twice_counts_once(oss_store: Store, client: Any) -> None:
    upload = Upload(client, oss_store)
    upload.put(1, b"first")
    part = upload.put(1, b"second")
    assert [each.etag for each in upload.page().parts] == [part.etag]
    assert upload.complete((1, part.etag)).hash_crc64 == crc_of(b"second")
    assert oss_store.get(KEY) == b"second"


def test_part_numbers_end_at_10000_and_an_abort_ends_the_upload(oss_store: Store, client: Any) -> None:
    upload = Upload(client, oss_store)
    for number in (0, 10001):
        wrong = refused(lambda number=number: upload.put(number, b"x"))  # type: ignore[misc]
        assert wrong == (400, "InvalidArgument", "0017-00000220")
    assert upload.put(10000, b"x").status_code == 200
    client.abort_multipart_upload(sdk.AbortMultipartUploadRequest(**upload.about))
    gone = (404, "NoSuchUpload", "0017-00000244")
    assert refused(lambda: upload.put(1, b"x")) == gone
    assert refused(upload.page) == gone
    assert refused(lambda: upload.complete((10000, '"0"'))) == gone
    assert oss_store.list_uploads() == []


def test_what_it_does_not_know_is_refused(oss_store: Store, client: Any) -> None:
    error = refused(lambda: client.get_object_acl(sdk.GetObjectAclRequest(bucket=oss_store.bucket, key=KEY)))
    assert error[:2] == (501, "NotImplemented")

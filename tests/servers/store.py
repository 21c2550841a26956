"""A real object store as a test sees it: where it is, who may enter, and a client that is not ours.

The client is botocore's: what it says is in a bucket is there, whatever fastxfer believes. It tries each
request once and adds no checksums of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "us-east-1"
CLIENT_DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key and its secret."""

    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Part:
    """A part as ListParts tells it; the ETag without its quotes."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True)
class Store:
    """An object store, and one `bucket` of it that the calls with a key are about.

    `endpoint` is what the code under test is given. `stranger` is a user without any permission, where the
    store can have one. `behind` is the same store, and the calls ask it for the truth, where `endpoint` does
    not speak S3 (OSS) or is not to be asked (a proxy that counts).
    """

    kind: str
    endpoint: str
    user: Credentials = field(repr=False)
    stranger: Credentials | None = field(default=None, repr=False)
    region: str = REGION
    bucket: str = ""
    behind: Store | None = field(default=None, repr=False)

    @property
    def access_key(self) -> str:
        """The access key of the user."""
        return self.user.access_key

    @property
    def secret_key(self) -> str:
        """The secret of the user's access key."""
        return self.user.secret_key

    @cached_property
    def client(self) -> Any:
        """botocore's client of this store, with the user's credentials."""
        return self.behind.client if self.behind else make_client(self.endpoint, self.user)

    def make_bucket(self) -> Store:
        """Returns the store with a new bucket, that no other test has."""
        made = replace(self, bucket=f"test-{uuid.uuid4().hex}")
        made.client.create_bucket(Bucket=made.bucket)
        return made

    def through(self, endpoint: str) -> Store:
        """Returns the same store and bucket behind another endpoint; the calls go the old way."""
        return replace(self, endpoint=endpoint, behind=self.behind or self)

    def put(self, key: str, data: bytes, **fields: Any) -> str:
        """Puts an object at once; returns its ETag."""
        answer = self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **fields)
        return unquoted(answer["ETag"])

    def get(self, key: str) -> bytes:
        """Returns an object's bytes."""
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def head(self, key: str) -> Mapping[str, Any] | None:
        """Returns what HEAD tells of an object; None if there is none."""
        try:
            answer: Mapping[str, Any] = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return answer

    def keys(self) -> list[str]:
        """Returns the keys of all objects in the bucket, in their order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def delete(self, key: str) -> None:
        """Deletes an object."""
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def begin(self, key: str) -> str:
        """Begins a multipart upload; returns its id."""
        upload_id: str = self.client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        return upload_id

    def put_part(self, key: str, upload_id: str, number: int, data: bytes) -> Part:
        """Uploads a part; returns it."""
        answer = self.client.upload_part(
            Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=data
        )
        return Part(number, len(data), unquoted(answer["ETag"]))

    def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> str:
        """Completes an upload of these parts, in the order given; returns the object's ETag."""
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        answer = self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed}
        )
        return unquoted(answer["ETag"])

    def abort(self, key: str, upload_id: str) -> None:
        """Ends an upload; its parts are gone."""
        self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def list_uploads(self) -> list[tuple[str, str]]:
        """Returns the (key, id) of the uploads that were begun and neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [(upload["Key"], upload["UploadId"]) for upload in answer.get("Uploads", ())]

    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """Returns the parts that an upload has so far (up to 1000)."""
        answer = self.client.list_parts(Bucket=self.bucket, Key=key, UploadId=upload_id)
        return [
            Part(part["PartNumber"], part["Size"], unquoted(part["ETag"])) for part in answer.get("Parts", ())
        ]


def make_client(endpoint: str, user: Credentials, *, region: str = REGION, **config: Any) -> Any:
    """Returns a new client of botocore; `config` is what its Config takes."""
    settings: dict[str, Any] = {
        "signature_version": "s3v4",
        "s3": {"addressing_style": "path"},
        "retries": {"total_max_attempts": 1},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "connect_timeout": CLIENT_DEADLINE_S,
        "read_timeout": CLIENT_DEADLINE_S,
        "proxies": {},
        "ignore_configured_endpoint_urls": True,
    }
    return botocore.session.Session(
        session_vars={"config_file": (None, None, "/dev/null", None)}
    ).create_client(
        "s3",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=user.access_key,
        aws_secret_access_key=user.secret_key,
        config=Config(**{**settings, **config}),
    )


def unquoted(etag: str) -> str:
    """Returns an ETag without its quotes."""
    return etag.strip('"')

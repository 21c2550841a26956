"""The stores' own libraries as judges: the same request signed by botocore, by Alibaba's two SDKs.

Each takes a request of ours and returns the URL and the fields as the library would send them.
"""

from __future__ import annotations

import datetime
import types
from unittest import mock

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import oss2
import oss2.auth
import oss2.credentials
import oss2.http
import oss2.utils
from alibabacloud_oss_v2.credentials import StaticCredentialsProvider
from alibabacloud_oss_v2.signer.v1 import SignerV1
from alibabacloud_oss_v2.signer.v4 import SignerV4
from alibabacloud_oss_v2.types import HttpRequest, SigningContext

from fastxfer.sources.credentials import Credentials
from fastxfer.sources.locations import encode_query
from fastxfer.sources.oss_signing import SUB_RESOURCES
from fastxfer.sources.store_request import StoreRequest

Sent = tuple[str, dict[str, str]]
"""The URL, and the fields by their names in lower case."""


def moment(now_epoch_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(now_epoch_s), datetime.timezone.utc)


def _url(request: StoreRequest) -> str:
    query = encode_query(request.query)
    return request.address.url + (f"?{query}" if query else "")


def _low(headers: object) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}  # type: ignore[attr-defined]


def _botocore(request: StoreRequest, body: bytes | None) -> botocore.awsrequest.AWSRequest:
    made = botocore.awsrequest.AWSRequest(
        method=request.method, url=_url(request), headers=dict(request.headers), data=body
    )
    # A signature of the body only where one is asked for, as on http.
    made.context["client_config"] = types.SimpleNamespace(s3={"payload_signing_enabled": body is not None})
    return made


def _aws(credentials: Credentials) -> botocore.credentials.Credentials:
    return botocore.credentials.Credentials(credentials.access_key_id, credentials.secret, credentials.token)


def botocore_sign(
    request: StoreRequest, credentials: Credentials, region: str, now_epoch_s: float, body: bytes | None
) -> Sent:
    """S3SigV4Auth: the body signed by its SHA-256, or UNSIGNED-PAYLOAD for None."""
    made = _botocore(request, body)
    now = moment(now_epoch_s).replace(tzinfo=None)
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda: now):
        botocore.auth.S3SigV4Auth(_aws(credentials), "s3", region).add_auth(made)
    return made.url, _low(made.headers)


def botocore_presign(
    request: StoreRequest, credentials: Credentials, region: str, now_epoch_s: float, expires_s: int
) -> str:
    """S3SigV4QueryAuth."""
    made = _botocore(request, None)
    now = moment(now_epoch_s).replace(tzinfo=None)
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda: now):
        botocore.auth.S3SigV4QueryAuth(_aws(credentials), "s3", region, expires_s).add_auth(made)
    return str(made.url)


def alibaba(
    signer: type[SignerV1] | type[SignerV4],
    request: StoreRequest,
    credentials: Credentials,
    region: str | None,
    now_epoch_s: float,
    *,
    expires_s: int | None = None,
    additional: tuple[str, ...] = (),
) -> Sent:
    """The signers of alibabacloud-oss-v2: by the header, or with `expires_s` in the URL."""
    made = HttpRequest(request.method, _url(request), headers=dict(request.headers))
    keys = StaticCredentialsProvider(credentials.access_key_id, credentials.secret, credentials.token)
    context = SigningContext(
        product="oss",
        region=region,
        bucket=request.address.bucket or None,
        key=request.address.key or None,
        request=made,
        credentials=keys.get_credentials(),
        signing_time=moment(now_epoch_s),
        additional_headers=set(additional),
    )
    context.sub_resource = sorted(SUB_RESOURCES)
    if expires_s is not None:
        context.auth_method_query = True
        context.expiration_time = moment(now_epoch_s) + datetime.timedelta(seconds=expires_s)
    signer().sign(context)
    return made.url, _low(made.headers)


def _oss2(request: StoreRequest) -> oss2.http.Request:
    return oss2.http.Request(
        request.method, request.address.url, params=dict(request.query), headers=dict(request.headers)
    )


def _oss2_auth(credentials: Credentials) -> oss2.auth.ProviderAuth:
    return oss2.auth.ProviderAuth(
        oss2.credentials.StaticCredentialsProvider(
            credentials.access_key_id, credentials.secret, credentials.token or ""
        )
    )


def oss2_sign(request: StoreRequest, credentials: Credentials, now_epoch_s: float) -> Sent:
    """The first SDK's V1, by the header."""
    made = _oss2(request)
    date = moment(now_epoch_s).strftime("%a, %d %b %Y %H:%M:%S GMT")
    with mock.patch.object(oss2.utils, "http_date", lambda *_: date):
        _oss2_auth(credentials)._sign_request(made, request.address.bucket, request.address.key)
    return made.url, _low(made.headers)


def oss2_presign(request: StoreRequest, credentials: Credentials, now_epoch_s: float, expires_s: int) -> str:
    """The first SDK's V1, in the URL."""
    made = _oss2(request)
    with mock.patch.object(oss2.auth.time, "time", lambda: now_epoch_s):
        signed = _oss2_auth(credentials)._sign_url(
            made, request.address.bucket, request.address.key, expires_s
        )
    return str(signed)

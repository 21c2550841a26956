"""Whether a request to Alibaba's OSS is signed well: V4 and V1, in the header or in the query of a URL.

Alibaba's own signer signs the same request once more, with the secret that the access key has; the two must
be equal. What it takes from the request is first brought into the one form that OSS knows (a query that is
encoded otherwise was signed otherwise). The codes are those of OSS's list of errors (EC), where it names one.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from alibabacloud_oss_v2 import Credentials, HttpRequest, SigningContext
from alibabacloud_oss_v2.signer import SignerV1, SignerV4

from tests.servers.raw import Request

V4 = "OSS4-HMAC-SHA256"
MOST_SKEW = timedelta(minutes=15)
MOST_EXPIRES_S = 7 * 86400
UNKNOWN_EC = "0000-00000000"
_TIME = "%Y%m%dT%H%M%SZ"


class Refusal(Exception):
    """What OSS answers instead; `ec` tells causes apart that share a code, `more` is what else is told."""

    def __init__(self, status: int, code: str, message: str, ec: str = UNKNOWN_EC, **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.ec = ec
        self.more = more


def verify(request: Request, bucket: str, key: str, secrets: Mapping[str, str], region: str) -> str:
    """Returns the access key that has signed the request; a Refusal if none has, or not well."""
    authorization = request.headers.get("authorization", "")
    query = dict(parse_qsl(urlsplit(request.target).query, keep_blank_values=True))
    verifier = _Verifier(request, bucket, key, secrets, region, query)
    if authorization.startswith(f"{V4} "):
        return verifier.v4_header(authorization)
    if authorization.startswith("OSS "):
        return verifier.v1_header(authorization)
    if authorization:
        raise Refusal(400, "InvalidArgument", "Authorization header is invalid.", "0002-00000203")
    if "x-oss-signature-version" in query:
        return verifier.v4_query()
    if "Signature" in query:
        return verifier.v1_query()
    raise Refusal(403, "AccessDenied", "You have no right to access this object.", "0003-00000001")


class _Verifier:
    def __init__(
        self,
        request: Request,
        bucket: str,
        key: str,
        secrets: Mapping[str, str],
        region: str,
        query: Mapping[str, str],
    ) -> None:
        self._request = request
        self._bucket = bucket
        self._key = key
        self._secrets = secrets
        self._region = region
        self._query = query

    def v4_header(self, authorization: str) -> str:
        fields = dict(_pair(each.strip()) for each in authorization[len(V4) :].split(","))
        if not fields.get("Credential"):
            raise Refusal(400, "InvalidArgument", "Credential is missing.", "0002-00000205")
        if not fields.get("Signature"):
            raise Refusal(400, "InvalidArgument", "Signature is missing.", "0002-00000208")
        access_key, date = self._scope(fields["Credential"], "0002-00000213", "0002-00000228")
        if self._request.headers.get("x-oss-content-sha256") != "UNSIGNED-PAYLOAD":
            raise Refusal(400, "InvalidArgument", "x-oss-content-sha256 is invalid.", "0002-00000214")
        moment = self._moment(self._request.headers.get("x-oss-date", ""), date)
        _check_skew(moment)
        context = self._context(access_key, moment, _names(fields.get("AdditionalHeaders", "")))
        SignerV4().sign(context)
        expected = context.request.headers["Authorization"].rpartition("Signature=")[2]
        return self._equal(fields["Signature"], expected, access_key, context)

    def v4_query(self) -> str:
        query = self._query
        if query["x-oss-signature-version"] != V4:
            raise Refusal(400, "InvalidArgument", "x-oss-signature-version is invalid.", "0002-00000066")
        for name, ec in (("x-oss-signature", "0002-00000219"), ("x-oss-expires", "0002-00000215")):
            if not query.get(name):
                raise Refusal(400, "InvalidArgument", f"{name} is missing.", ec)
        access_key, date = self._scope(query.get("x-oss-credential", ""), "0002-00000224", "0002-00000226")
        moment = self._moment(query.get("x-oss-date", ""), date)
        expires = query["x-oss-expires"]
        if not (expires.isascii() and expires.isdecimal() and 1 <= int(expires) <= MOST_EXPIRES_S):
            raise Refusal(400, "InvalidArgument", "x-oss-expires is invalid.", "0002-00000232")
        end = moment + timedelta(seconds=int(expires))
        _check_expiry(end)
        context = self._context(access_key, moment, _names(query.get("x-oss-additional-headers", "")), end)
        SignerV4().sign(context)
        expected = unquote(context.request.url.rpartition("x-oss-signature=")[2])
        return self._equal(query["x-oss-signature"], expected, access_key, context)

    def v1_header(self, authorization: str) -> str:
        access_key, _, signature = authorization[len("OSS ") :].partition(":")
        if not signature:
            raise Refusal(400, "InvalidArgument", "Authorization header is invalid.", "0002-00000065")
        date = self._request.headers.get("x-oss-date") or self._request.headers.get("date", "")
        try:
            moment = parsedate_to_datetime(date)
        except ValueError:
            raise Refusal(403, "AccessDenied", "OSS authentication requires a valid Date.") from None
        _check_skew(moment)
        context = self._context(access_key, moment)
        SignerV1().sign(context)
        expected = context.request.headers["Authorization"].rpartition(":")[2]
        return self._equal(signature, expected, access_key, context)

    def v1_query(self) -> str:
        access_key, expires = self._query.get("OSSAccessKeyId", ""), self._query.get("Expires", "")
        if not (expires.isascii() and expires.isdecimal() and int(expires) < 1 << 35):
            raise Refusal(400, "InvalidArgument", "Expires is invalid.", "0002-00000070")
        end = datetime.fromtimestamp(int(expires), timezone.utc)
        _check_expiry(end)
        context = self._context(access_key, end, end=end)
        SignerV1().sign(context)
        expected = unquote(context.request.url.rpartition("&Signature=")[2])
        return self._equal(self._query["Signature"], expected, access_key, context)

    def _scope(self, credential: str, ec: str, region_ec: str) -> tuple[str, str]:
        """Returns the access key and the date of a credential for this region."""
        pieces = credential.split("/")
        if len(pieces) != 5 or pieces[3:] != ["oss", "aliyun_v4_request"]:
            raise Refusal(400, "InvalidArgument", "Credential is invalid.", ec)
        if pieces[2] != self._region:
            raise Refusal(400, "InvalidArgument", "The signing region in credential is invalid.", region_ec)
        return pieces[0], pieces[1]

    def _moment(self, text: str, date: str) -> datetime:
        """Returns the time of signing, which must lie on the date of the credential."""
        try:
            moment = datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)
        except ValueError:
            raise Refusal(403, "AccessDenied", "x-oss-date is missing or invalid.") from None
        if text != moment.strftime(_TIME) or text[:8] != date:
            raise Refusal(400, "InvalidArgument", "The date of the credential is not that of x-oss-date.")
        return moment

    def _context(
        self,
        access_key: str,
        moment: datetime,
        additional: frozenset[str] = frozenset(),
        end: datetime | None = None,
    ) -> SigningContext:
        """Returns what the signer is to sign: with an `end` by the query of the URL, else by the header."""
        secret = self._secrets.get(access_key)
        if secret is None:
            message = "The OSS Access Key Id you provided does not exist in our records."
            raise Refusal(403, "InvalidAccessKeyId", message, "0002-00000902", OSSAccessKeyId=access_key)
        headers = {name: value for name, value in self._request.headers.items() if name != "authorization"}
        context = SigningContext(
            product="oss",
            region=self._region,
            bucket=self._bucket or None,
            key=self._key or None,
            request=HttpRequest(self._request.method, self._normal_url(), headers=headers),
            credentials=Credentials(access_key, secret, headers.get("x-oss-security-token")),
            signing_time=moment,
            additional_headers=set(additional),
        )
        context.auth_method_query = end is not None
        context.expiration_time = end
        return context

    def _normal_url(self) -> str:
        """Returns the URL with its query in the form that is signed, and without the signature itself."""
        pairs = [
            f"{quote(name, safe='')}={quote(value, safe='')}" if value else quote(name, safe="")
            for name, value in parse_qsl(urlsplit(self._request.target).query, keep_blank_values=True)
            if name not in ("x-oss-signature", "Signature")
        ]
        return "http://oss/" + (f"?{'&'.join(pairs)}" if pairs else "")

    def _equal(self, given: str, expected: str, access_key: str, context: SigningContext) -> str:
        if hmac.compare_digest(given.encode(), expected.encode()):
            return access_key
        message = (
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method."
        )
        told = {"SignatureProvided": given, "StringToSign": context.string_to_sign}
        raise Refusal(
            403, "SignatureDoesNotMatch", message, "0002-00000040", OSSAccessKeyId=access_key, **told
        )


def _pair(field: str) -> tuple[str, str]:
    name, equals, value = field.partition("=")
    if not equals:
        raise Refusal(400, "InvalidArgument", "Authorization header is invalid.", "0002-00000203")
    return name, value


def _names(joined: str) -> frozenset[str]:
    return frozenset(joined.split(";")) if joined else frozenset()


def _check_skew(moment: datetime) -> None:
    if abs(datetime.now(timezone.utc) - moment) > MOST_SKEW:
        message = "The difference between the request time and the current time is too large."
        raise Refusal(403, "RequestTimeTooSkewed", message, "0002-00000504")


def _check_expiry(end: datetime) -> None:
    if datetime.now(timezone.utc) > end:
        raise Refusal(403, "AccessDenied", "Request has expired.", "0002-00000069")

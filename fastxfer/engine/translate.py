"""libcurl's errors as fastxfer's own, in this one place (libcurl-errors(3))."""

from __future__ import annotations

import errno
import os
import re

import pycurl

from fastxfer.errors import (
    AuthError,
    BadResponseError,
    DNSError,
    FastxferError,
    NetworkError,
    OptionError,
    TLSError,
    TransferTimeoutError,
)

_DNS = {pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY}
_TLS = {
    pycurl.E_PEER_FAILED_VERIFICATION: "the server's identity does not hold",
    pycurl.E_SSL_ISSUER_ERROR: "the server's identity does not hold",
    pycurl.E_SSL_CERTPROBLEM: "the client certificate cannot be used",
    pycurl.E_SSL_CACERT_BADFILE: "the file of certificate authorities cannot be used",
    pycurl.E_SSL_CIPHER: "TLS cannot be set up",
    pycurl.E_SSL_ENGINE_NOTFOUND: "TLS cannot be set up",
}
_WITHIN_TLS = {pycurl.E_SSL_CONNECT_ERROR, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR}
# The alerts by which a server refuses a client, for good (RFC 8446 section 6.2): handshake_failure, those on
# the client's certificate, access_denied, protocol_version, insufficient_security, unrecognized_name,
# certificate_required, no_application_protocol.
_REFUSING_ALERTS = {40, 41, 42, 43, 44, 45, 46, 48, 49, 70, 71, 112, 116, 120}
# OpenSSL's number of an error of its TLS library (20): the reason of an alert received is 1000 and the alert.
_OPENSSL_ERROR = re.compile(r"error:0A000([0-9A-F]{3}):")
_BAD_ANSWER = {
    pycurl.E_BAD_CONTENT_ENCODING,
    pycurl.E_FILESIZE_EXCEEDED,
    pycurl.E_TOO_MANY_REDIRECTS,
    pycurl.E_UNSUPPORTED_PROTOCOL,  # the scheme was checked before: the answer is not HTTP/1 or later
    8,  # CURLE_WEIRD_SERVER_REPLY
    100,  # CURLE_TOO_LARGE: a header field or a line past libcurl's limits
}
# What libcurl tells may quote a URL, a proxy's for one, with its password.
_USER_INFO = re.compile(r"//[^/\s]*@")
_REFUSED_BY_PROXY = {401, 403, 407}
_BAD_URL = {pycurl.E_URL_MALFORMAT}
# What a connection that failed had reached; all of these are worth another try.
_FAILED = {
    16: "the HTTP/2 connection failed",  # CURLE_HTTP2: GOAWAY, or frames that do not hold
    pycurl.E_PARTIAL_FILE: "the answer ended early",
    pycurl.E_SSL_CONNECT_ERROR: "the TLS handshake failed",
    pycurl.E_GOT_NOTHING: "the server closed the connection without an answer",
    92: "the HTTP/2 stream failed",  # CURLE_HTTP2_STREAM: RST_STREAM, or an answer that does not hold
}


def translate(
    code: int, detail: str, os_errno: int, *, tls: bool = True, proxy_status: int = 0
) -> FastxferError:
    """Returns the error for libcurl's `code`; `detail` is its own text, `os_errno` the system's number or
    0. `proxy_status` is what a proxy answered to CONNECT, or 0.
    """
    text = _USER_INFO.sub("//", detail) or f"libcurl's error {code}"
    if proxy_status in _REFUSED_BY_PROXY:
        return AuthError(
            f"the proxy answered {proxy_status}: it does not let this through", status=proxy_status
        )
    if code in _DNS:
        return DNSError(f"the host's name was not found ({text})")
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return TransferTimeoutError(f"timed out ({text})")
    if code in _TLS or (tls and code in _WITHIN_TLS and _refused(text)):
        return TLSError(f"{_TLS.get(code, 'the server refused the TLS handshake')} ({text})")
    # A receive that fails without the system saying why, and without TLS beneath: the framing does not hold.
    if code in _BAD_ANSWER or (code == pycurl.E_RECV_ERROR and not os_errno and not tls):
        return BadResponseError(f"the server's answer breaks HTTP ({text})")
    if code in _BAD_URL:
        return OptionError(f"the URL cannot be used ({text})")
    if code == pycurl.E_COULDNT_CONNECT and os_errno in (0, errno.ECONNREFUSED):
        return NetworkError(f"no connection was made ({text})")
    if code == pycurl.E_COULDNT_CONNECT:
        return NetworkError(f"no connection was made ({text}: {os.strerror(os_errno)})")
    return NetworkError(f"{_FAILED.get(code, 'the connection failed')} ({text})")


def _refused(text: str) -> bool:
    number = _OPENSSL_ERROR.search(text)
    return number is not None and int(number[1], 16) - 1000 in _REFUSING_ALERTS

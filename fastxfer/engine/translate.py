"""libcurl's errors as fastxfer's own, in this one place (libcurl-errors(3))."""

from __future__ import annotations

import errno
import os
import re

import pycurl

from fastxfer.errors import (
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
    pycurl.E_PEER_FAILED_VERIFICATION,
    pycurl.E_SSL_CERTPROBLEM,
    pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_SSL_ISSUER_ERROR,
    pycurl.E_SSL_ENGINE_NOTFOUND,
}
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
_BAD_URL = {pycurl.E_URL_MALFORMAT}


def translate(code: int, detail: str, os_errno: int, *, tls: bool = True) -> FastxferError:
    """Returns the error for libcurl's `code`; `detail` is its own text, `os_errno` the system's number or
    0.
    """
    text = _USER_INFO.sub("//", detail) or pycurl.error(code).__class__.__name__
    if code in _DNS:
        return DNSError(f"the host's name was not found ({text})")
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return TransferTimeoutError(f"timed out ({text})")
    if code in _TLS:
        return TLSError(f"the server's identity does not hold ({text})")
    # A receive that fails without the system saying why, and without TLS beneath: the framing does not hold.
    if code in _BAD_ANSWER or (code == pycurl.E_RECV_ERROR and not os_errno and not tls):
        return BadResponseError(f"the server's answer breaks HTTP ({text})")
    if code in _BAD_URL:
        return OptionError(f"the URL cannot be used ({text})")
    if code == pycurl.E_COULDNT_CONNECT and os_errno in (0, errno.ECONNREFUSED):
        return NetworkError(f"no connection was made ({text})")
    reason = f"{text}: {os.strerror(os_errno)}" if os_errno else text
    return NetworkError(f"the connection failed ({reason})")

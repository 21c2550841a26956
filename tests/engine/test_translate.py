"""What libcurl's errors become: a class, which says if another try helps, and words for what happened."""

from __future__ import annotations

import errno

import pycurl
import pytest

from fastxfer.engine.translate import translate
from fastxfer.errors import (
    AuthError,
    BadResponseError,
    DNSError,
    FastxferError,
    NetworkError,
    Retry,
    TLSError,
    TransferTimeoutError,
)

HTTP2, HTTP2_STREAM = 16, 92


def openssl(alert: int) -> str:
    """Returns what libcurl tells of an alert received."""
    return f"TLS connect error: error:0A000{1000 + alert:03X}:SSL routines::some words"


@pytest.mark.parametrize(
    ("code", "detail", "os_errno", "kind", "words"),
    [
        (HTTP2, "nghttp2 shuts down", 0, NetworkError, "the HTTP/2 connection failed (nghttp2 shuts down)"),
        (HTTP2_STREAM, "reset by server", 0, NetworkError, "the HTTP/2 stream failed (reset by server)"),
        (
            pycurl.E_PARTIAL_FILE,
            "9 bytes missing",
            0,
            NetworkError,
            "the answer ended early (9 bytes missing)",
        ),
        (pycurl.E_GOT_NOTHING, "Empty reply", 0, NetworkError, "the server closed the connection without"),
        (
            pycurl.E_RECV_ERROR,
            "",
            errno.ECONNRESET,
            NetworkError,
            "the connection failed (libcurl's error 56)",
        ),
        (pycurl.E_COULDNT_CONNECT, "no way", errno.ENETUNREACH, NetworkError, "(no way: Network is unreach"),
        (pycurl.E_COULDNT_RESOLVE_PROXY, "who", 0, DNSError, "the host's name was not found (who)"),
        (pycurl.E_OPERATION_TIMEDOUT, "late", 0, TransferTimeoutError, "timed out (late)"),
        (pycurl.E_PEER_FAILED_VERIFICATION, "expired", 0, TLSError, "the server's identity does not hold"),
        (pycurl.E_SSL_CERTPROBLEM, "no file", 0, TLSError, "the client certificate cannot be used"),
        (pycurl.E_SSL_CONNECT_ERROR, "cut", errno.ECONNRESET, NetworkError, "the TLS handshake failed (cut)"),
        (pycurl.E_SSL_CONNECT_ERROR, openssl(70), 0, TLSError, "the server refused the TLS handshake"),
        (pycurl.E_RECV_ERROR, openssl(116), 0, TLSError, "the server refused the TLS handshake"),
        (pycurl.E_RECV_ERROR, openssl(20), 0, NetworkError, "the connection failed"),
        (HTTP2_STREAM, openssl(116), 0, NetworkError, "the HTTP/2 stream failed"),
    ],
)
def test_an_error_says_what_happened(
    code: int, detail: str, os_errno: int, kind: type[FastxferError], words: str
) -> None:
    error = translate(code, detail, os_errno)
    assert type(error) is kind
    assert words in str(error)
    assert (error.retry is Retry.SAME_SOURCE) == (kind is not TLSError)


def test_a_receive_that_fails_without_tls_and_without_a_reason_breaks_http() -> None:
    assert type(translate(pycurl.E_RECV_ERROR, "chunk", 0, tls=False)) is BadResponseError
    assert type(translate(pycurl.E_RECV_ERROR, openssl(116), 0, tls=False)) is BadResponseError


@pytest.mark.parametrize(
    ("status", "kind"), [(407, AuthError), (403, AuthError), (502, NetworkError), (200, NetworkError)]
)
def test_what_a_proxy_answers_to_connect_tells_whose_fault_it_is(
    status: int, kind: type[FastxferError]
) -> None:
    error = translate(pycurl.E_COULDNT_CONNECT, "tunnel failed", 0, proxy_status=status)
    assert type(error) is kind


def test_a_url_in_libcurls_words_loses_its_user_info() -> None:
    error = translate(pycurl.E_COULDNT_RESOLVE_PROXY, "http://user:canary@host:1 is not known", 0)
    assert "canary" not in str(error)
    assert "http://host:1" in str(error)

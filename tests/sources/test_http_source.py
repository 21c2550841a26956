"""HTTP sources: URLs made safe, request headers, and where a redirect may lead."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer._version import __version__
from fastxfer.errors import BadResponseError, FastxferError, OptionError
from fastxfer.options import TransferOptions
from fastxfer.sources.http import MAX_REDIRECTS, HttpSource, origin, safe_url

SECRETS = {
    "Authorization": "Bearer canary-1",
    "Cookie": "canary-2",
    "Proxy-Authorization": "canary-3",
    "X-Amz-Security-Token": "canary-4",
    "x-oss-security-token": "canary-5",
    "X-API-Key": "canary-6",
    "X-Auth-Token": "canary-7",
}


def source(url: str = "https://example.org/dir/data.bin?q=1", **options: Any) -> HttpSource:
    return HttpSource.of(url, TransferOptions.build(**options))


# ---- the URL ----


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("http://example.org", "http://example.org/"),
        ("HTTP://EXAMPLE.ORG/A", "http://example.org/A"),
        ("  https://h/x\n", "https://h/x"),
        ("https://h:8443/x", "https://h:8443/x"),
        ("https://h:/x", "https://h/x"),
        ("https://h/a#fragment", "https://h/a"),
        ("https://h/a?b=c&d=%20#x", "https://h/a?b=c&d=%20"),
        ("https://h?b", "https://h/?b"),
        ("https://h/%41%2f%zz", "https://h/%41%2f%zz"),
        ("https://h/\u00e9?\u00e9", "https://h/%C3%A9?%C3%A9"),
        ("https://h/a;b,c:d@e!$&'()*+=~", "https://h/a;b,c:d@e!$&'()*+=~"),
        ("https://b\u00fccher.example/x", "https://xn--bcher-kva.example/x"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://[2001:DB8::1]/", "http://[2001:db8::1]/"),
        ("http://user:pass@h/x", "http://h/x"),
        ("http://a@b@h/x", "http://h/x"),
        ("http://good.example\\@evil.example/x", "http://evil.example/x"),
    ],
)
def test_a_url_is_cleaned(url: str, clean: str) -> None:
    made = source(url)
    assert made.url == clean
    assert made.home == origin(clean)
    assert made.url.isascii()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org/x",
        "/x",
        "//h/x",
        "ftp://h/x",
        "file:///etc/passwd",
        "data:,x",
        "javascript:x",
        "http:",
        "http://",
        "http:///x",
        "http://:80/x",
        "http://user@/x",
        "http://h:port/x",
        "http://h:99999/x",
        "http://h:-1/x",
        "http://[::1/x",
        "http://[::1]x:80/",
        "http://[v1.x]/",
        "http://h[::1]/",
        "http://h/a b",
        "http://h/a\tb",
        "http://h/a\r\nHost: evil",
        "http://h/a\0b",
        "http://h/a\x7fb",
        "http://h\n.evil/x",
        "http://\u00e9..x/",
        "http://\u00af/",
        "http://a<b/",
        "http://a,b/",
        "http://" + "\u00e9" * 70 + "/",
        "http://h/\ud800",
        "http://h/?\udcff",
        "http://u%0d%0a:p@h/",
        "http://u:p%00@h/",
        "http://u%3ax:p@h/",
    ],
    ids=ascii,
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(OptionError):
        source(url)


@pytest.mark.parametrize("url", [None, b"http://h/x", 7])
def test_what_is_no_text_is_no_url(url: Any) -> None:
    with pytest.raises(OptionError):
        HttpSource.of(url, TransferOptions.build())


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("http://h/", None),
        ("http://user:pass@h/", ("user", "pass")),
        ("http://user@h/", ("user", "")),
        ("http://us%40er:p%3Aa%2Fss@h/", ("us@er", "p:a/ss")),
        ("http://us%C3%A9r:p@h/", ("us\u00e9r", "p")),
        ("http://u:p:q@h/", ("u", "p:q")),
    ],
)
def test_user_info_becomes_credentials_and_leaves_the_url(
    url: str, credentials: tuple[str, str] | None
) -> None:
    made = source(url)
    assert made.credentials == credentials
    assert made.url == made.display == "http://h/"


def test_credentials_given_apart_win_over_user_info() -> None:
    assert source("http://user:pass@h/", auth=("other", "word")).credentials == ("other", "word")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/x?token=canary#canary", "http://h/x"),
        ("http://canary:canary@h:81/x;y", "http://h:81/x;y"),
        ("http://canary@canary@h/", "http://h/"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert safe_url(url) == shown


@given(st.text(max_size=60), st.text(alphabet=string.ascii_letters, min_size=1, max_size=5))
def test_any_text_is_a_clean_url_or_an_option_error(text: str, host: str) -> None:
    for url in (text, f"http://{text}", f"http://{host}/{text}", f"http://{text}@{host}/?{text}"):
        try:
            made = source(url)
        except OptionError:
            continue
        assert made.url.isascii() and made.url.isprintable() and " " not in made.url
        assert made.url.startswith(("http://", "https://"))
        assert "@" not in made.url.split("/")[2]
        assert source(made.url).url == made.url


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://h/", "http://h:80/x?y", True),
        ("https://h/", "https://H:443/", True),
        ("http://h/", "https://h/", False),
        ("http://h/", "http://h:8080/", False),
        ("http://h/", "http://h:0/", False),
        ("http://h/", "http://h.evil/", False),
        ("http://h/", "http://sub.h/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    assert (origin(one) == origin(other)) is same


# ---- the request ----


def fields(made: HttpSource, span: tuple[int, int] | None, if_range: str | None = None) -> dict[str, str]:
    lines = made.header_lines(span, if_range)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_request_asks_for_identity_and_its_range() -> None:
    assert fields(source(), (0, 1024)) == {
        "User-Agent": f"fastxfer/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Range": "bytes=0-1023",
    }


def test_the_validator_stands_beside_a_range_only() -> None:
    assert fields(source(), (5, 6), '"v1"')["If-Range"] == '"v1"'
    assert "If-Range" not in fields(source(), None, '"v1"')
    assert "Range" not in fields(source(), None, '"v1"')


def test_a_callers_fields_replace_ours_and_may_be_empty() -> None:
    made = source(headers=["user-agent: mine", "X-Empty:", "X-A: 1", "X-A: 2"])
    lines = made.header_lines(None, None)
    assert lines == (
        "Accept: */*",
        "Accept-Encoding: identity",
        "user-agent: mine",
        "X-Empty;",
        "X-A: 1",
        "X-A: 2",
    )


# ---- redirects ----


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/other", "https://example.org/other"),
        ("other?x=1", "https://example.org/dir/other?x=1"),
        ("?x=2", "https://example.org/dir/data.bin?x=2"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://cdn.example", "https://cdn.example/"),
        ("HTTPS://CDN.example/x", "https://CDN.example/x"),
        ("../../../x", "https://example.org/x"),
        ("https://cdn.example/x#frag", "https://cdn.example/x"),
        ("https://cdn.example/%c3%a9", "https://cdn.example/%c3%a9"),
        ("https://cdn.example/\xc3\xa9?\xe9", "https://cdn.example/%C3%A9?%E9"),
        ("https://cdn.example/a|b{c}\\d", "https://cdn.example/a|b{c}\\d"),
    ],
)
def test_a_location_is_followed(location: str, url: str) -> None:
    moved = source().redirected(location)
    assert (moved.url, moved.redirects) == (url, 1)
    assert moved.url.isascii()


@pytest.mark.parametrize(
    "location",
    [
        "http://example.org/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "scp://h/x",
        "data:,x",
        "javascript:alert(1)",
        "https://user:pass@h/x",
        "//user@h/x",
        "https://good.example\\@evil.example/",
        "https://[::1/x",
        "//[bad/x",
        "https://h:99999/",
        "https://h:x/",
        "https://[::1]x/",
        "https://[v1.x]/",
        "/a b",
        "/a\r\nX: y",
        "/a\tb",
        "/a\0",
    ],
    ids=ascii,
)
def test_a_location_that_leads_astray_is_refused(location: str) -> None:
    with pytest.raises(BadResponseError):
        source().redirected(location)


def test_from_http_to_https_is_followed() -> None:
    assert source("http://h/x").redirected("https://h/x").url == "https://h/x"


@pytest.mark.parametrize("location", ["/other", "https://example.org:443/other", "https://EXAMPLE.org/other"])
def test_the_same_origin_keeps_the_secrets(location: str) -> None:
    made = source(headers=SECRETS, auth=("user", "canary-8")).redirected(location)
    assert made.credentials == ("user", "canary-8")
    assert dict(made.headers) == SECRETS


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/x",
        "https://example.org.evil.example/x",
        "https://example.org:8443/x",
        "https://sub.example.org/x",
        "https://example.org\\.evil.example/x",
        "https://example.org%2eevil.example/x",
    ],
)
def test_another_origin_gets_none_of_the_secrets(location: str) -> None:
    made = source(headers={**SECRETS, "X-Trace": "kept"}, auth=("user", "canary-8"))
    moved = made.redirected(location)
    assert moved.credentials is None
    assert moved.headers == (("X-Trace", "kept"),)
    assert "canary" not in repr(moved)
    back = moved.redirected(made.url)
    assert back.credentials is None
    assert back.headers == (("X-Trace", "kept"),)


def test_another_scheme_is_another_origin() -> None:
    made = source("http://h/x", headers=SECRETS).redirected("https://h/x")
    assert made.headers == ()


def test_redirects_end() -> None:
    made = source()
    for number in range(MAX_REDIRECTS):
        made = made.redirected(f"/{number}")
    assert made.redirects == MAX_REDIRECTS == 10
    with pytest.raises(BadResponseError, match="more than 10"):
        made.redirected("/once-more")


@given(st.text(max_size=60))
def test_any_location_is_followed_to_a_clean_url_or_refused(location: str) -> None:
    for text in (location, f"//{location}", f"https://{location}", f"https://h/{location}"):
        try:
            moved = source().redirected(text)
        except FastxferError as error:
            assert isinstance(error, BadResponseError)
            continue
        assert moved.url.isascii() and moved.url.isprintable() and " " not in moved.url
        assert moved.url.startswith("https://")

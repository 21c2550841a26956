"""What presigned URLs say of their end."""

from __future__ import annotations

from calendar import timegm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.plan.expiry import expires_at

NOON = timegm((2026, 11, 21, 12, 0, 0))


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261121T115500Z&X-Amz-Expires=300&X-Amz-Signature=ab",
        "X-Goog-Date=20261121T110000Z&X-Goog-Expires=3600&X-Goog-Signature=ab",
        "x-oss-date=20261121T115959Z&x-oss-expires=1&x-oss-signature=ab",
        f"AWSAccessKeyId=me&Expires={NOON}&Signature=a%2Bb%3D",
        f"OSSAccessKeyId=me&Expires={NOON}&Signature=ab",
        f"Expires={NOON}&Signature=ab&Key-Pair-Id=K",
        "sv=2024-11-04&se=2026-11-21T12%3A00%3A00Z&sr=b&sp=r&sig=ab",
        "se=2026-11-21T13%3A00%3A00%2B01%3A00&sig=ab",
        "se=2026-11-21T12%3A00&sig=ab",
        "se=2026-11-21T07:00:00.5-05:00&sig=ab",
    ],
)
def test_a_presigned_url_says_when_it_expires(query: str) -> None:
    assert expires_at(f"https://bucket.example/key?{query}") == NOON


@pytest.mark.parametrize(
    "query",
    [
        "",
        f"Expires={NOON}",
        "X-Amz-Date=20261121T115500Z",
        "X-Amz-Date=yesterday&X-Amz-Expires=300",
        "X-Amz-Date=20261121T115500Z&X-Amz-Expires=-300",
        "X-Amz-Date=20261121T115500Z&X-Amz-Expires=1e3",
        "Expires=9999999999999&Signature=ab",
        "Expires=tomorrow&Signature=ab",
        "se=soon&sig=ab",
        "se=2026-13-21T12:00Z&sig=ab",
        "X-Amz-Date=00001399T115500Z&X-Amz-Expires=300",
        "se=2026-11-21",
    ],
)
def test_other_urls_do_not(query: str) -> None:
    assert expires_at(f"https://bucket.example/key?{query}") is None


@given(
    st.sampled_from(["X-Amz-Date={}&X-Amz-Expires={}", "Expires={}&Signature={}", "se={}&sig={}"]),
    st.text(),
    st.text(),
)
def test_no_query_is_too_odd(form: str, one: str, two: str) -> None:
    found = expires_at("https://host.example/?" + form.format(one, two))
    assert found is None or isinstance(found, float)

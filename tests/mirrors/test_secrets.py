"""What the caller gave for the first URL is sent to no other origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.options import TransferOptions
from fastxfer.sources.http import HttpSource
from tests.faults.scenarios import wait
from tests.faults.test_canaries import CANARY, arrived
from tests.mirrors.group import DEADLINE_S, Copy, Group

GIVEN: dict[str, Any] = {
    "headers": {
        "Authorization": f"Bearer {CANARY}",
        "Cookie": f"session={CANARY}",
        "X-Token": CANARY,
        "User-Agent": "harmless/1",
    },
}


@pytest.mark.parametrize("given", [GIVEN, {"auth": ("user", CANARY)}], ids=["headers", "auth"])
def test_a_mirror_of_another_origin_gets_no_secret(tmp_path: Path, given: dict[str, Any]) -> None:
    with Group(tmp_path, Copy(), Copy()) as group:
        result = wait(group.start(**given), DEADLINE_S)
        first, other = group.servers
        assert any(CANARY in arrived(request) for request in first.requests)
        assert other.requests
        assert not any(CANARY in arrived(request) for request in other.requests)
        if "headers" in given:
            assert {request.headers["user-agent"] for request in other.requests} == {"harmless/1"}
    assert CANARY not in f"{result!r} {result.to_dict()}"


def test_user_info_of_a_mirrors_own_url_goes_to_it_alone(tmp_path: Path) -> None:
    with Group(tmp_path, Copy(), Copy()) as group:
        url, mirror = group.urls
        secret = mirror.replace("://", f"://user:{CANARY}@") + f"?signature={CANARY}"
        transfer = fastxfer.start(url, group.out, mirrors=[secret], **group.options)
        result = wait(transfer, DEADLINE_S)
        assert any(CANARY in arrived(request) for request in group.servers[1].requests)
        assert not any(CANARY in arrived(request) for request in group.servers[0].requests)
    assert CANARY not in f"{result!r} {result.to_dict()}"


def test_a_mirror_of_the_same_origin_gets_what_the_first_url_gets() -> None:
    options = TransferOptions.build(auth=("user", "pass"), client_cert="cert.pem", **GIVEN)
    first = HttpSource.of("https://a.example/x", options)
    same, other = first.mirror("https://a.example:443/y"), first.mirror("https://b.example/x")
    assert (same.credentials, same.headers, same.client_cert) == (first.credentials, first.headers, True)
    assert (other.credentials, other.headers, other.client_cert) == (
        None,
        (("User-Agent", "harmless/1"),),
        False,
    )
    assert first.mirror("http://a.example/x").credentials is None, "another scheme is another origin"


def test_a_source_without_the_callers_secrets_gives_its_mirrors_none() -> None:
    options = TransferOptions.build(auth=("user", "pass"), **GIVEN)
    other = HttpSource.of("https://a.example/x", options).mirror("https://b.example/x")
    again = other.mirror("https://b.example/y")
    assert (again.credentials, again.headers) == (None, (("User-Agent", "harmless/1"),))


def test_a_mirror_that_redirects_to_the_first_urls_origin_gets_no_secret_there() -> None:
    options = TransferOptions.build(auth=("user", "pass"))
    first = HttpSource.of("https://a.example/x", options)
    assert first.mirror("https://b.example/x").redirected("https://a.example/x").credentials is None

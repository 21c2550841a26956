"""What a store refuses: the typed error, or another try that is signed anew; and never a secret in sight."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.sources import store_access
from tests.cli.command import fastxfer as command
from tests.cli.command import one_error
from tests.servers.gateway import Call
from tests.servers.objects import make_bytes
from tests.servers.proxy import SLOW_DOWN, Harm, Proxy
from tests.servers.rgw import Rgw
from tests.servers.store import Credentials, Store
from tests.stores import known, url
from tests.stores.expiring import Keys, expired

MIB = 1 << 20
DATA = make_bytes(6 * MIB + 11, 2)


@pytest.fixture
def rgw_store(rgw: Rgw) -> Store:
    """A new bucket of RGW, with the object o."""
    made = rgw.store().make_bucket()
    made.put("o", DATA)
    return made


def refused(store: Store, out: Path, key: str = "o", **options: Any) -> fastxfer.StoreError:
    with pytest.raises(fastxfer.StoreError) as caught:
        fastxfer.fetch(url(store, key), out, **{**known(store), **options})
    assert not list(out.parent.iterdir())
    return caught.value


# ---- who refuses, and why ----


def test_a_missing_key_is_not_found(store: Store, tmp_path: Path) -> None:
    error = refused(store, tmp_path / "o")
    assert isinstance(error, fastxfer.NotFoundError)
    assert (error.code, error.status, error.exit_code) == ("NoSuchKey", 404, 3)
    assert url(store, "o") in str(error)


def test_a_missing_bucket_says_what_to_check(store: Store, tmp_path: Path) -> None:
    error = refused(replace(store, bucket="no-such-bucket-here"), tmp_path / "o")
    assert (error.code, error.exit_code) == ("NoSuchBucket", 3)
    assert "check the bucket's name" in str(error)


def test_a_wrong_secret_is_refused_and_not_told(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    error = refused(store, tmp_path / "o", credentials=f"{store.access_key}:hunter2")
    assert isinstance(error, fastxfer.AuthError)
    assert (error.code, error.exit_code) == ("SignatureDoesNotMatch", 24)
    assert "check the secret key" in str(error)
    assert "hunter2" not in str(error.to_dict())


def test_an_unknown_key_id_is_refused(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    error = refused(store, tmp_path / "o", credentials="NOBODY:hunter2")
    assert (error.code, error.exit_code) == ("InvalidAccessKeyId", 24)


@pytest.mark.parametrize("name", ["rgw", "seaweedfs", "oss"])
def test_a_stranger_may_not(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store: Store = request.getfixturevalue(name).store().make_bucket()
    store.put("o", DATA)
    assert store.stranger is not None
    stranger = f"{store.stranger.access_key}:{store.stranger.secret_key}"
    error = refused(store, tmp_path / "o", credentials=stranger)
    assert (error.code, error.status, error.exit_code) == ("AccessDenied", 403, 24)
    assert "look at the bucket's policy" in str(error)


def test_what_a_store_calls_the_request_is_told(rgw_store: Store, tmp_path: Path) -> None:
    error = refused(rgw_store, tmp_path / "o", "missing")
    assert error.request_id.startswith("tx") and error.request_id in str(error)
    assert error.to_dict()["request_id"] == error.request_id


def test_the_command_line_prints_the_cause(store: Store, tmp_path: Path) -> None:
    options = [f"--{name}={value}" for name, value in known(store).items()]
    done = command("fetch", url(store, "missing"), "-o", tmp_path / "o", "--json", *options)
    assert "NoSuchKey" in one_error(done, 3)
    error = json.loads(done.stdout.splitlines()[-1])
    assert (error["type"], error["code"]) == ("StoreNotFoundError", "NoSuchKey")
    assert set(error) >= {"code", "request_id", "host_id", "ec"}


def test_a_probe_is_refused_as_a_fetch_is(store: Store) -> None:
    with pytest.raises(fastxfer.StoreNotFoundError, match="NoSuchKey"):
        fastxfer.probe(url(store, "missing"), **known(store))


def test_without_any_credentials_nothing_is_asked(
    rgw_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Proxy(rgw_store) as proxy, pytest.raises(fastxfer.CredentialsError, match="AWS_ACCESS_KEY_ID"):
        fastxfer.fetch(url(rgw_store, "o"), tmp_path / "o", endpoint=proxy.store.endpoint)
    assert proxy.calls() == []


def test_a_public_object_needs_none(rgw: Rgw, tmp_path: Path) -> None:
    store = rgw.store().make_bucket()
    store.put("o", DATA, ACL="public-read")
    fastxfer.fetch(url(store, "o"), tmp_path / "o", endpoint=store.endpoint, anonymous=True)
    assert (tmp_path / "o").read_bytes() == DATA


def test_credentials_come_from_the_environment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("o", DATA)
    names = (
        ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_ENDPOINT", "OSS_REGION")
        if store.kind == "oss"
        else ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_REGION")
    )
    for name, value in zip(
        names, (store.access_key, store.secret_key, store.endpoint, store.region), strict=True
    ):
        monkeypatch.setenv(name, value)
    fastxfer.fetch(url(store, "o"), tmp_path / "o")
    assert (tmp_path / "o").read_bytes() == DATA


# ---- another try ----


def test_a_store_that_is_overloaded_is_asked_later(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    slow = lambda call, number: Harm(status=503, body=SLOW_DOWN) if number in (0, 2) else None  # noqa: E731
    with Proxy(store, slow) as proxy:
        result = fastxfer.fetch(url(store, "o"), tmp_path / "o", 2, **known(proxy.store))
    assert result.retries >= 2
    assert (tmp_path / "o").read_bytes() == DATA


def test_a_store_that_wants_to_be_left_alone_is_so_by_all_who_ask_it(rgw: Rgw, tmp_path: Path) -> None:
    stores = [rgw.store().make_bucket() for _ in range(2)]
    for each in stores:
        each.put("o", DATA)
    asked: list[tuple[float, str]] = []
    told: list[float] = []
    lock = threading.Lock()

    def harm(call: Call, number: int) -> Harm | None:
        with lock:
            asked.append((time.monotonic(), call.bucket))
            if len(asked) < 6 or told:
                return None
            told.append(time.monotonic())
            return Harm(status=503, body=SLOW_DOWN, fields={"Retry-After": "3"})

    with Proxy(stores[0], harm) as proxy:
        options = {**known(proxy.store), "connections": 2, "chunk_size": "64K"}
        transfers = [
            fastxfer.start(url(each, "o"), tmp_path / str(n), **options) for n, each in enumerate(stores)
        ]
        for transfer in transfers:
            transfer.wait(60)
    assert all((tmp_path / str(n)).read_bytes() == DATA for n in range(2))
    assert {bucket for at, bucket in asked if at > told[0]} == {each.bucket for each in stores}
    assert [bucket for at, bucket in asked if told[0] + 1.5 < at < told[0] + 2.9] == []


@pytest.mark.parametrize("hours", [-5, 3])
def test_a_wrong_clock_costs_one_request(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    store.put("o", DATA)
    make = store_access.StoreAccess.of

    def of_another_time(*args: Any, **kwargs: Any) -> store_access.StoreAccess:
        access = make(*args, **kwargs)
        access._clock = lambda: time.time() + hours * 3600
        return access

    monkeypatch.setattr(store_access.StoreAccess, "of", of_another_time)
    with Proxy(store) as proxy:
        fastxfer.fetch(url(store, "o"), tmp_path / "o", 1, **known(proxy.store))
    assert (tmp_path / "o").read_bytes() == DATA
    statuses = [each.status for each in proxy.calls("GetObject")]
    assert statuses[0] in (400, 403)
    assert all(status in (200, 206) for status in statuses[1:])


def test_credentials_that_expire_in_mid_way_are_renewed_once_for_all(store: Store, tmp_path: Path) -> None:
    data = make_bytes(24 * MIB, 4)
    store.put("o", data)
    keys = Keys(store)

    def harm(call: Call, number: int) -> Harm | None:
        return expired(store) if number > 2 and keys.asked == 1 else None

    with Proxy(store, harm) as proxy:
        result = fastxfer.fetch(
            url(store, "o"), tmp_path / "o", 8, **{**known(proxy.store), "credentials": keys}
        )
    assert (tmp_path / "o").read_bytes() == data
    assert (keys.asked, result.restarts) == (2, 0)
    assert any(each.status in (400, 403) for each in proxy.calls("GetObject"))


def test_credentials_that_stay_expired_end_it_with_what_is_there(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    keys = Keys(store)
    harm = lambda call, number: expired(store) if number > 1 else None  # noqa: E731
    with Proxy(store, harm) as proxy:
        with pytest.raises(fastxfer.StoreAuthError, match="expired") as caught:
            fastxfer.fetch(
                url(store, "o"),
                tmp_path / "o",
                2,
                chunk_size="256K",
                **{**known(proxy.store), "credentials": keys},
            )
        assert keys.asked <= 1 + store_access.LESSONS
    assert caught.value.kept
    fastxfer.fetch(url(store, "o"), tmp_path / "o", **known(store))
    assert (tmp_path / "o").read_bytes() == DATA


def test_a_redirect_is_not_followed(rgw_store: Store, tmp_path: Path) -> None:
    with Proxy(rgw_store) as other:
        away = {"Location": f"{other.store.endpoint}/{rgw_store.bucket}/o"}
        harm = lambda call, number: Harm(status=307, fields=away)  # noqa: E731
        with Proxy(rgw_store, harm) as proxy:
            error = refused(proxy.store, tmp_path / "o")
        assert error.status == 307
        assert other.calls() == []


# ---- secrets ----


def test_no_file_and_no_output_has_a_secret(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    out = tmp_path / "o"
    options = [f"--{name}={value}" for name, value in known(store).items() if name != "endpoint"]
    cut = lambda call, number: Harm(cut_answer=MIB) if number > 0 else None  # noqa: E731
    with Proxy(store, cut) as proxy:
        done = command(
            "fetch", url(store, "o"), "-o", out, "-x1", "--retries=0", "--json", "--keep-ledger",
            f"--endpoint={proxy.store.endpoint}", *options,
        )  # fmt: skip
    assert done.returncode == 6
    said = command("status", out).stdout + done.stdout + done.stderr
    for secret in (store.secret_key, "Signature", "AWS4-HMAC", "OSS4-HMAC"):
        assert secret not in said
        assert all(secret.encode() not in each.read_bytes() for each in tmp_path.iterdir())
    assert url(store, "o").encode() in (tmp_path / "o.part.ckpt").read_bytes()
    assert json.loads(done.stdout.splitlines()[-1])["kept"]


def test_a_users_own_fields_go_along_unsigned(rgw_store: Store, tmp_path: Path) -> None:
    with Proxy(rgw_store) as proxy:
        options = {
            **known(proxy.store),
            "headers": {"X-Mine": "\xe9", "User-Agent": "me", "X-Amz-Meta-A": "1"},
        }
        fastxfer.fetch(url(rgw_store, "o"), tmp_path / "o", 1, **options)
    sent = proxy.calls("GetObject")[0].request.headers
    assert (sent["user-agent"], sent["x-amz-meta-a"]) == ("me", "1")
    assert "x-mine" in sent and "x-mine" not in sent["authorization"]
    assert "x-amz-meta-a" in sent["authorization"]


def test_another_user_is_no_secret_of_ours(rgw_store: Store) -> None:
    stranger = replace(rgw_store, user=Credentials("A" * 20, "hunter2" * 3))
    with pytest.raises(fastxfer.StoreAuthError) as caught:
        fastxfer.probe(url(stranger, "o"), **known(stranger))
    assert "hunter2" not in repr(caught.value) + str(caught.value.__dict__)

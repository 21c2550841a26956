"""Credentials of object stores: what people write, the environment, the chains of the stores' libraries."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastxfer.errors import CredentialsError, OptionError
from fastxfer.sources import credential_chain
from fastxfer.sources.credential_chain import (
    AHEAD_S,
    CredentialSource,
    credential_source,
    region_and_endpoint,
)
from fastxfer.sources.credentials import (
    Credentials,
    credentials_from,
    endpoint_from,
    parse_credentials,
    region_from,
)

NOW = 1_767_225_600.0
FIRST = Credentials("AK1", "SK1", "T1", NOW + 3600)
SECOND = Credentials("AK2", "SK2", "T2", NOW + 7200)
PLAIN = Credentials("AK", "SK")
WITH_TOKEN = Credentials("AK", "SK", "T")
KINDS = pytest.mark.parametrize("kind", ["s3", "oss"])

# ---- as a value ----


@pytest.mark.parametrize(
    ("given_", "credentials"),
    [
        ("AK:SK", Credentials("AK", "SK")),
        (" AK:S/K+=:TO/K+=:EN ", Credentials("AK", "S/K+=", "TO/K+=:EN")),
        ("AK:SK:", Credentials("AK", "SK")),
        (FIRST, FIRST),
        ({"access_key_id": "AK", "secret": "SK"}, Credentials("AK", "SK")),
        ({"access_key_id": "AK", "secret_access_key": "SK", "session_token": "T"}, WITH_TOKEN),
        ({"access_key_id": "AK", "access_key_secret": "SK", "security_token": "T"}, WITH_TOKEN),
        ({"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "aws_session_token": None}, PLAIN),
        ({"AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": ""}, Credentials("AK", "SK")),
        ({"key": "AK", "secret": "SK", "token": "T", "expires": 5}, Credentials("AK", "SK", "T", 5)),
    ],
)  # fmt: skip
def test_credentials_are_written_in_many_ways(given_: object, credentials: Credentials) -> None:
    assert parse_credentials(given_) == credentials


@pytest.mark.parametrize(
    "given_",
    [
        "", "canary", "canary:", ":canary", "can ary:canary", "canary:canary\n:x", "canary:ü", 7,
        ["canary", "x"],
        {"access_key_id": "canary"}, {"secret": "canary"}, {},
        {"access_key_id": "a", "secret": "b", "canary": 1},
        {"access_key_id": "canary", "secret": "a", "secret_key": "canary"},
        {"access_key_id": "canary", "secret": 7}, {"access_key_id": "canary", "secret": None},
        {"access_key_id": "canary", "secret": "b", "expires": "canary"},
        {"access_key_id": "canary", "secret": "b", "expires": float("nan")},
        {"access_key_id": "canary\r\nX: y", "secret": "b"}, {"access_key_id": "a", "secret": "canary" * 2000},
        {1: "canary"},
    ],
)  # fmt: skip
def test_what_are_no_credentials_is_refused_without_being_repeated(given_: object) -> None:
    with pytest.raises(OptionError, match="option credentials") as refused:
        parse_credentials(given_)
    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__context__ is None


def test_credentials_print_no_secret_and_survive_a_pickle() -> None:
    made = Credentials("canary1", "canary2", "canary3", NOW)
    assert "canary" not in repr(made) + str(made)
    assert pickle.loads(pickle.dumps(made)) == made


@given(st.one_of(st.text(), st.dictionaries(st.text(), st.text()), st.none(), st.integers(), st.binary()))
def test_anything_is_credentials_or_an_option_error(given_: object) -> None:
    try:
        assert parse_credentials(given_).access_key_id
    except OptionError:
        pass


# ---- the environment ----

S3 = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
OSS = {"OSS_ACCESS_KEY_ID": "AK", "OSS_ACCESS_KEY_SECRET": "SK"}


@pytest.mark.parametrize(
    ("kind", "environ", "credentials"),
    [
        ("s3", S3, Credentials("AK", "SK")),
        ("s3", S3 | {"AWS_SESSION_TOKEN": "T"}, Credentials("AK", "SK", "T")),
        ("s3", S3 | {"AWS_SESSION_TOKEN": " "}, Credentials("AK", "SK")),
        ("s3", OSS, None),
        ("oss", OSS, Credentials("AK", "SK")),
        ("oss", OSS | {"OSS_SESSION_TOKEN": "T\n"}, Credentials("AK", "SK", "T")),
        ("oss", S3, None),
        ("oss", {"OSS_ACCESS_KEY_ID": "", "OSS_ACCESS_KEY_SECRET": " "}, None),
    ],
)
def test_the_environment_holds_credentials(
    kind: str, environ: dict[str, str], credentials: Credentials | None
) -> None:
    assert credentials_from(environ, kind) == credentials


@pytest.mark.parametrize(
    ("kind", "environ", "says"),
    [
        ("s3", {"AWS_ACCESS_KEY_ID": "canary"}, "AWS_SECRET_ACCESS_KEY is not"),
        ("s3", {"AWS_SECRET_ACCESS_KEY": "canary"}, "AWS_ACCESS_KEY_ID is not"),
        ("oss", {"OSS_ACCESS_KEY_ID": "canary"}, "OSS_ACCESS_KEY_SECRET is not"),
        ("s3", S3 | {"AWS_SESSION_TOKEN": "canary canary"}, "printable ASCII"),
    ],
)
def test_half_of_the_credentials_in_the_environment_is_an_error(
    kind: str, environ: dict[str, str], says: str
) -> None:
    with pytest.raises(CredentialsError, match=says) as refused:
        credential_source(kind, environ=environ)
    assert "canary" not in str(refused.value)
    assert refused.value.exit_code == 24


def test_the_environment_names_regions_and_endpoints() -> None:
    assert region_from({"AWS_REGION": "r1", "AWS_DEFAULT_REGION": "r2", "OSS_REGION": "r3"}, "s3") == "r1"
    assert region_from({"AWS_REGION": "", "AWS_DEFAULT_REGION": "r2"}, "s3") == "r2"
    assert region_from({"OSS_REGION": "r3", "AWS_REGION": "r1"}, "oss") == "r3"
    both = {"AWS_ENDPOINT_URL": "https://all", "AWS_ENDPOINT_URL_S3": "https://s3", "OSS_ENDPOINT": "oss"}
    assert endpoint_from(both, "s3") == "https://s3"
    assert endpoint_from({"AWS_ENDPOINT_URL": "https://all"}, "s3") == "https://all"
    assert endpoint_from(both, "oss") == "oss"
    assert endpoint_from({}, "oss") is None


# ---- the order ----


@KINDS
def test_what_the_caller_says_comes_first(kind: str) -> None:
    environ = S3 | OSS
    assert credential_source(kind, anonymous=True, credentials="x:y", environ=environ) is None
    given_ = credential_source(kind, credentials="x:y", environ=environ)
    assert given_ is not None and given_.get(NOW) == Credentials("x", "y")
    found = credential_source(kind, environ=environ)
    assert found is not None and found.get(NOW) == Credentials("AK", "SK")


def test_a_callable_is_asked_when_credentials_are_needed() -> None:
    source = credential_source("s3", credentials=lambda: {"access_key_id": "x", "secret": "y"}, environ=S3)
    assert source is not None and source.get(NOW) == Credentials("x", "y")


@pytest.mark.parametrize("gives", [lambda: "canary", lambda: None, lambda: {"x": "y"}["canary"]])
def test_a_callable_that_gives_none_is_a_typed_error(gives: Callable[[], Any]) -> None:
    source = credential_source("s3", credentials=gives, environ={})
    assert source is not None
    with pytest.raises(CredentialsError, match="the callable must return them") as refused:
        source.get(NOW)
    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is not None


# ---- fresh ones ----


class Loads:
    """Gives one after the other, an error for None, and keeps what it was asked."""

    def __init__(self, *gives: Credentials | None) -> None:
        self.gives = list(gives)
        self.asked: list[bool] = []

    def __call__(self, refused: bool) -> Credentials:
        self.asked.append(refused)
        given_ = self.gives.pop(0)
        if given_ is None:
            raise CredentialsError("none today")
        return given_


def test_credentials_are_kept_until_they_are_about_to_expire() -> None:
    load = Loads(FIRST, SECOND)
    source = CredentialSource(load)
    assert source.get(NOW) is FIRST
    assert source.get(NOW + 3600 - AHEAD_S - 1) is FIRST
    assert source.get(NOW + 3600 - AHEAD_S) is SECOND
    assert load.asked == [False, False]


def test_credentials_that_never_expire_are_kept() -> None:
    source = CredentialSource(Loads(Credentials("AK", "SK")))
    assert source.get(NOW) is source.get(NOW * 10)


def test_those_that_still_hold_are_used_on_where_there_are_no_others() -> None:
    source = CredentialSource(Loads(FIRST, None, None, SECOND))
    source.get(NOW)
    assert source.get(NOW + 3599) is FIRST
    with pytest.raises(CredentialsError, match="none today"):
        source.get(NOW + 3600)
    assert source.get(NOW + 3600) is SECOND


def test_a_library_that_keeps_them_fresh_is_asked_each_time() -> None:
    forever = Credentials("AK", "SK", "T")
    source = CredentialSource(Loads(forever, SECOND, None), live=True)
    assert source.get(NOW) is forever
    assert source.get(NOW) is SECOND
    assert source.get(NOW) is SECOND  # it failed, and these hold


def test_a_refusal_gets_others_once_for_all_who_were_refused() -> None:
    load = Loads(FIRST, SECOND)
    source = CredentialSource(load)
    used = source.get(NOW)
    assert source.refused(used)
    assert source.refused(used)
    assert source.get(NOW) is SECOND
    assert load.asked == [False, True]


def test_the_same_again_are_no_help() -> None:
    source = CredentialSource(Loads(FIRST, Credentials("AK1", "SK1", "T1", NOW + 3600)))
    assert not source.refused(source.get(NOW))
    fixed = CredentialSource(first=FIRST)
    assert not fixed.refused(fixed.get(NOW))
    assert fixed.get(NOW * 2) is FIRST


def test_no_credentials_at_all_is_a_typed_error() -> None:
    with pytest.raises(CredentialsError):
        CredentialSource().get(NOW)


def test_many_threads_ask_once() -> None:
    begun, go_on = threading.Event(), threading.Event()
    asked = []

    def load(_refused: bool) -> Credentials:
        asked.append(1)
        begun.set()
        assert go_on.wait(30)
        return FIRST

    source = CredentialSource(load)
    got: list[Credentials] = []
    threads = [threading.Thread(target=lambda: got.append(source.get(NOW))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert got == [FIRST] * 8
    assert asked == [1]


# ---- botocore's chain ----


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, an environment without a cloud's names, and no instance to ask for roles."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "OSS_", "ALIBABA_CLOUD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aliyun").mkdir()
    return tmp_path


def s3_source(**given_: Any) -> CredentialSource:
    source = credential_source("s3", environ={}, **given_)
    assert source is not None
    return source


def test_profiles_of_aws_are_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws/credentials").write_text(
        "[default]\naws_access_key_id=AK1\naws_secret_access_key=SK1\n"
        "[work]\naws_access_key_id=AK2\naws_secret_access_key=SK2\naws_session_token=T2\n"
    )
    assert s3_source().get(NOW) == Credentials("AK1", "SK1")
    assert s3_source(profile="work").get(NOW) == Credentials("AK2", "SK2", "T2")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert s3_source().get(NOW) == Credentials("AK2", "SK2", "T2")


def test_a_profile_that_is_named_comes_before_the_environment(home: Path) -> None:
    (home / ".aws/credentials").write_text("[work]\naws_access_key_id=AK2\naws_secret_access_key=SK2\n")
    source = credential_source("s3", profile="work", environ=S3)
    assert source is not None and source.get(NOW) == Credentials("AK2", "SK2")


def test_temporary_credentials_of_a_process_come_with_their_end(home: Path) -> None:
    told = {"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "T",
            "Expiration": "2099-01-01T00:00:00Z"}  # fmt: skip
    script = home / "give.py"
    script.write_text(f"print({json.dumps(json.dumps(told))})")
    (home / ".aws/config").write_text(f"[profile p]\ncredential_process = {sys.executable} {script}\n")
    got = s3_source(profile="p").get(NOW)
    assert got == Credentials("AK", "SK", "T", 4070908800.0)


def test_a_profile_names_its_region_and_its_endpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws/config").write_text(
        "[profile a]\nregion = eu-west-1\nendpoint_url = https://all.example\n"
        "[profile b]\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = https://s3.example\n"
    )
    assert region_and_endpoint("s3", profile="a", environ={}) == ("eu-west-1", "https://all.example")
    assert region_and_endpoint("s3", profile="b", environ={}) == (None, "https://s3.example")
    assert region_and_endpoint("s3", environ={}) == (None, None)
    monkeypatch.setenv("AWS_PROFILE", "a")
    assert region_and_endpoint("s3")[0] == "eu-west-1"
    assert region_and_endpoint("s3", region="x", profile="a", environ={"AWS_ENDPOINT_URL": "y"}) == ("x", "y")
    assert region_and_endpoint("s3", profile="a", environ={"AWS_REGION": "z"}) == ("z", "https://all.example")
    assert region_and_endpoint("oss", environ={"OSS_REGION": "cn-beijing"}) == ("cn-beijing", None)


@pytest.mark.parametrize("config", ["", "[default]\nregion = x\n", "[default\n"])
def test_no_credentials_anywhere_says_what_to_set(home: Path, config: str) -> None:
    (home / ".aws/config").write_text(config)
    with pytest.raises(CredentialsError, match=r"AWS_ACCESS_KEY_ID.*anonymous=True"):
        s3_source().get(NOW)


def test_a_profile_that_is_not_there_is_a_typed_error(home: Path) -> None:
    with pytest.raises(CredentialsError, match="ProfileNotFound") as refused:
        s3_source(profile="nobody").get(NOW)
    assert refused.value.__cause__ is not None
    with pytest.raises(CredentialsError, match="ProfileNotFound"):
        region_and_endpoint("s3", profile="nobody", environ={})


def test_without_botocore_the_error_says_how_to_get_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    with pytest.raises(CredentialsError, match=r"pip install 'fastxfer\[s3\]'"):
        s3_source().get(NOW)
    assert s3_source(credentials="AK:SK").get(NOW) == Credentials("AK", "SK")
    (home / ".aws/config").write_text("[default]\nregion = eu-west-1\n")
    assert region_and_endpoint("s3", environ={}) == (None, None)
    with pytest.raises(CredentialsError, match=r"pip install 'fastxfer\[s3\]'"):
        region_and_endpoint("s3", profile="p", environ={})


# ---- Alibaba's chain, in a process of its own: it reads the environment when it is imported ----

ASK = """
import json, sys
from fastxfer.errors import CredentialsError
from fastxfer.sources.credential_chain import credential_source
profile, missing = json.loads(sys.argv[1])
if missing:
    sys.modules["alibabacloud_credentials"] = None
source = credential_source("oss", profile=profile, environ={})
try:
    got = source.get(0.0)
    again = source.refused(got)
    print(json.dumps([got.access_key_id, got.secret, got.token, again]))
except CredentialsError as error:
    print(json.dumps(str(error)))
"""


def ask_alibaba(profile: str | None = None, missing: bool = False, **environ: str) -> Any:
    """Returns what a process with a home as it is gets from the chain: the parts, or the error's text."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([profile, missing])],
        capture_output=True, text=True, timeout=120, env=dict(os.environ) | environ, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_profiles_of_alibaba_are_read(home: Path) -> None:
    profiles = [
        {"name": "default", "mode": "AK", "access_key_id": "AK1", "access_key_secret": "SK1"},
        {"name": "work", "mode": "StsToken", "access_key_id": "AK2", "access_key_secret": "SK2",
         "sts_token": "T2"},
    ]  # fmt: skip
    (home / ".aliyun/config.json").write_text(json.dumps({"current": "default", "profiles": profiles}))
    assert ask_alibaba() == ["AK1", "SK1", None, False]
    assert ask_alibaba("work") == ["AK2", "SK2", "T2", False]


def test_the_environment_of_alibabas_library_is_read(home: Path) -> None:
    got = ask_alibaba(ALIBABA_CLOUD_ACCESS_KEY_ID="AK", ALIBABA_CLOUD_ACCESS_KEY_SECRET="SK")
    assert got == ["AK", "SK", None, False]


def test_no_credentials_for_oss_says_what_to_set(home: Path) -> None:
    assert "OSS_ACCESS_KEY_ID" in ask_alibaba()
    assert "anonymous=True" in ask_alibaba("nobody")


def test_without_alibabas_library_the_error_says_how_to_get_it(home: Path) -> None:
    assert "pip install 'fastxfer[oss]'" in ask_alibaba(missing=True)


def test_botocore_is_not_asked_for_a_configuration_that_is_not_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(credential_chain, "_botocore_session", asked.append)
    assert region_and_endpoint("s3", environ={}) == (None, None)
    assert asked == []


def test_nothing_of_the_stores_libraries_is_imported_before_it_is_needed() -> None:
    looked = subprocess.run(
        [sys.executable, "-c",
         "import sys\nfrom fastxfer.sources import credential_chain, signing, multipart\n"
         "print([name for name in sys.modules if name.startswith(('botocore', 'alibabacloud', 'oss2'))])"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert looked.stdout.strip() == "[]"

"""Stores that fail in the midst of an upload: it goes on where that may help, and else ends with a typed
error that says what the store said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import (
    BadResponseError,
    ChecksumError,
    FastxferError,
    StoreAuthError,
    StoreError,
    StoreOverloadedError,
    StoreServerError,
    TransferTimeoutError,
    UploadGoneError,
)
from fastxfer.sources.credentials import Credentials as OwnCredentials
from tests.servers.gateway import Call
from tests.servers.proxy import INTERNAL_ERROR, SLOW_DOWN, Harm
from tests.servers.store import Store
from tests.stores.putting import OSS_PART, left_beside, make_file
from tests.stores.rig import PARTS, Rig, checkpoint_of, nothing

COMPLETE = "CompleteMultipartUpload"
MANY = 3 * PARTS


def error_body(code: str) -> bytes:
    """Returns the document of a refusal."""
    words = f"<Code>{code}</Code><Message>In words.</Message><RequestId>req-7</RequestId><EC>0042-1</EC>"
    return f"<?xml version='1.0'?><Error>{words}</Error>".encode()


def at(operation: str, harm: Harm, *numbers: int, part: int = 0) -> Callable[[Call, int], Harm | None]:
    """Returns what does this harm to some requests of an operation, by default to all."""

    def chosen(call: Call, number: int) -> Harm | None:
        meant = call.operation == operation and part in (0, call.part)
        return harm if meant and (not numbers or number in numbers) else None

    return chosen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path, PARTS * OSS_PART - 5)[0]


def failed(rig: Rig, path: Path, kind: type[FastxferError], **more: Any) -> Any:
    """Uploads, and returns the error of this class."""
    with pytest.raises(kind) as caught:
        rig.put(path, **{"retries": 2, **more})
    assert type(caught.value) is kind
    return caught.value


# ---- parts ----


def test_a_part_that_fails_for_ever_ends_it_with_what_the_store_said(rig: Rig, path: Path) -> None:
    rig.harm = at("UploadPart", Harm(status=500, body=error_body("InternalError")), part=3)
    error = failed(rig, path, StoreServerError)
    assert (error.status, error.code, error.request_id, error.ec) == (500, "InternalError", "req-7", "0042-1")
    assert "cannot upload part 3 of s3://" in str(error) and "In words." in str(error)
    assert rig.parts_sent().count(3) == 3 and error.kept
    rig.harm = nothing
    assert rig.put_right(path).parts_resumed >= 1


def test_a_part_that_is_refused_for_good_is_asked_once(rig: Rig, path: Path) -> None:
    rig.harm = at("UploadPart", Harm(status=403, body=error_body("AccessDenied")), part=2)
    error = failed(rig, path, StoreAuthError)
    assert (error.code, error.exit_code) == ("AccessDenied", 24) and rig.parts_sent().count(2) == 1


@pytest.mark.parametrize(
    "harm",
    [
        Harm(cut_request=5000),
        Harm(cut_answer=0),
        Harm(status=500, body=INTERNAL_ERROR),
        Harm(status=400, body=error_body("BadDigest")),
        Harm(status=400, body=error_body("RequestTimeout")),
        Harm(status=200, carry_out=True),
        Harm(status=200, carry_out=True, fields={"ETag": '"e"', "x-amz-checksum-crc64nvme": "AAAAAAAAAAE="}),
        Harm(status=502, body=b"<html>" + b"x" * (1 << 20)),
    ],
)
def test_a_part_that_goes_wrong_once_is_sent_again(rig: Rig, path: Path, harm: Harm) -> None:
    bad: set[int] = set()

    def once(call: Call, number: int) -> Harm | None:
        if call.operation != "UploadPart" or call.part != 2 or bad:
            return None
        bad.add(call.part)
        return harm

    rig.harm = once
    result = rig.put_right(path)
    assert rig.parts_sent() == sorted([*range(1, PARTS + 1), 2]) and result.verified in ("etag", "none")


def test_a_checksum_that_is_never_right_is_an_error(rig: Rig, path: Path) -> None:
    wrong = {"ETag": '"e"', "x-amz-checksum-crc64nvme": "AAAAAAAAAAE="}
    rig.harm = at("UploadPart", Harm(status=200, fields=wrong), part=1)
    error = failed(rig, path, ChecksumError)
    assert (error.algorithm, error.actual, error.exit_code) == ("crc64nvme", "0000000000000001", 32)


def test_a_part_without_an_etag_is_no_answer(rig: Rig, path: Path) -> None:
    rig.harm = at("UploadPart", Harm(status=200), part=1)
    assert "told no ETag" in str(failed(rig, path, BadResponseError))


def test_a_part_that_does_not_move_is_sent_again(rig: Rig, path: Path) -> None:
    never = threading.Event()
    bad: list[int] = []

    def once(call: Call, number: int) -> Harm | None:
        if call.operation == "UploadPart" and call.part == 2 and not bad:
            bad.append(2)
            return Harm(hold=never)
        return None

    rig.harm = once
    rig.put_right(path, stall_timeout=0.5)
    never.set()


def test_a_part_that_never_moves_is_a_time_out(rig: Rig, path: Path) -> None:
    never = threading.Event()
    rig.harm = at("UploadPart", Harm(hold=never), part=2)
    error = failed(rig, path, TransferTimeoutError, stall_timeout=0.4, retries=1)
    assert error.exit_code == 2 and "part 2" in str(error)
    never.set()


def test_a_store_that_is_asked_too_much_is_asked_less(rig: Rig, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, MANY * OSS_PART)
    rig.harm = at("UploadPart", Harm(status=503, body=SLOW_DOWN, fields={"Retry-After": "1"}), 0)
    slow: list[float] = []

    def refused(call: Call, number: int) -> Harm | None:
        if call.operation != "UploadPart":
            return None
        slow.append(time.monotonic())
        return Harm(status=503, body=SLOW_DOWN, fields={"Retry-After": "1"}) if len(slow) == 4 else None

    rig.harm = refused
    rig.put_right(path, connections=2)
    gaps = [later - earlier for earlier, later in pairwise(slow)]
    assert max(gaps) > 0.8 and len(slow) == MANY + 1


def test_a_store_that_is_always_overloaded_is_left_alone(rig: Rig, path: Path) -> None:
    rig.harm = at("UploadPart", Harm(status=503, body=SLOW_DOWN))
    error = failed(rig, path, StoreOverloadedError)
    assert (error.code, error.request_id, error.exit_code) == ("SlowDown", "slow", 29)
    assert len(rig.parts_sent()) <= 6


def test_an_upload_that_somebody_aborts_is_begun_anew(rig: Rig, path: Path) -> None:
    gone: list[str] = []

    def abort(call: Call, number: int) -> Harm | None:
        if call.operation == "UploadPart" and call.part == 4 and not gone:
            gone.append(call.upload_id)
            rig.truth.abort("o", call.upload_id)
        return None

    rig.harm = abort
    result = rig.put_right(path)
    assert result.upload_id != gone[0] and result.parts_sent == PARTS
    assert any("NoSuchUpload" in note for note in result.notes)


def test_an_upload_that_is_always_lost_is_an_error(rig: Rig, path: Path) -> None:
    rig.harm = at("UploadPart", Harm(status=404, body=error_body("NoSuchUpload")), part=2)
    error = failed(rig, path, UploadGoneError)
    assert (error.code, error.exit_code) == ("NoSuchUpload", 8)
    assert rig.operations().count("CreateMultipartUpload") == 3 and rig.listed() == []


# ---- the end ----


@pytest.mark.parametrize(
    "harm",
    [
        Harm(status=200, body=error_body("InternalError")),
        Harm(status=200, body=error_body("InternalError"), carry_out=True),
        Harm(cut_answer=0),
        Harm(status=200, body=b"<half", carry_out=True),
        Harm(status=500, body=INTERNAL_ERROR),
        Harm(status=503, body=SLOW_DOWN),
    ],
)
def test_complete_is_asked_again_only_after_a_look(rig: Rig, path: Path, harm: Harm) -> None:
    rig.harm = at(COMPLETE, harm, 0)
    rig.put_right(path)
    asked = [each for each in rig.operations() if each in (COMPLETE, "HeadObject")]
    carried_out = harm.carry_out or harm.cut_answer == 0
    assert asked[:2] == [COMPLETE, "HeadObject"]
    assert asked.count(COMPLETE) == (1 if carried_out else 2)
    assert len(rig.parts_sent()) == PARTS and rig.listed() == []


def test_complete_that_takes_too_long_is_looked_after(rig: Rig, path: Path) -> None:
    never = threading.Event()
    rig.harm = at(COMPLETE, Harm(hold_answer=never), 0)
    rig.put_right(path, stall_timeout=0.3)
    assert "HeadObject" in rig.operations() and len(rig.parts_sent()) == PARTS
    never.set()


def test_complete_that_always_fails_is_an_error_with_its_code(rig: Rig, path: Path) -> None:
    rig.harm = at(COMPLETE, Harm(status=200, body=error_body("InternalError")))
    error = failed(rig, path, StoreServerError)
    assert (error.status, error.code, error.request_id, error.ec) == (200, "InternalError", "req-7", "0042-1")
    assert error.kept and rig.operations().count(COMPLETE) == 3
    rig.harm = nothing
    assert rig.put_right(path).parts_sent == 0


def test_complete_that_is_refused_is_asked_once(rig: Rig, path: Path) -> None:
    rig.harm = at(COMPLETE, Harm(status=403, body=error_body("AccessDenied")))
    error = failed(rig, path, StoreAuthError)
    assert rig.operations().count(COMPLETE) == 1 and error.kept and checkpoint_of(path).exists()


def test_parts_that_are_too_small_are_not_gone_on_with(rig: Rig, path: Path) -> None:
    rig.harm = at(COMPLETE, Harm(status=400, body=error_body("EntityTooSmall")))
    error = failed(rig, path, StoreError)
    assert (error.code, error.exit_code) == ("EntityTooSmall", 22) and "5 MiB on S3" in str(error)
    assert rig.listed() == [] and left_beside(path) == []


def test_a_part_that_the_store_lost_is_sent_again(rig: Rig, path: Path) -> None:
    rig.harm = at(COMPLETE, Harm(status=400, body=error_body("InvalidPart")), 0)
    result = rig.put_right(path)
    assert result.parts_sent == PARTS and len(rig.parts_sent()) == 2 * PARTS and rig.listed() == []


# ---- who asks ----


class Keys:
    """Gives the user's credentials, each time with another end."""

    def __init__(self, store: Store) -> None:
        self._user = store.user
        self._lock = threading.Lock()
        self.asked = 0

    def __call__(self) -> OwnCredentials:
        with self._lock:
            self.asked += 1
            expires = time.time() + 3600 * self.asked
            return OwnCredentials(self._user.access_key, self._user.secret_key, expires=expires)


def expired() -> Harm:
    return Harm(status=400, body=error_body("ExpiredToken"), fields={"Date": formatdate(usegmt=True)})


@pytest.fixture
def keys(rig: Rig) -> Iterator[Keys]:
    yield Keys(rig.truth)


def test_credentials_that_expire_are_renewed_once_for_all(rig: Rig, keys: Keys, tmp_path: Path) -> None:
    path, _ = make_file(tmp_path, MANY * OSS_PART)

    def harm(call: Call, number: int) -> Harm | None:
        late = call.operation == "UploadPart" and call.part > 5
        return expired() if late and keys.asked == 1 else None

    rig.harm = harm
    result = rig.put_right(path, credentials=keys, connections=4)
    assert (keys.asked, result.parts_resumed, result.parts_sent) == (2, 0, MANY)


def test_credentials_that_stay_expired_end_it(rig: Rig, keys: Keys, path: Path) -> None:
    rig.harm = lambda call, number: expired() if call.part > 3 else None
    error = failed(rig, path, StoreAuthError, credentials=keys)
    assert (error.code, error.exit_code) == ("ExpiredToken", 24) and error.kept
    rig.harm = nothing
    result: fastxfer.PutResult = rig.put_right(path, credentials=keys)
    assert result.parts_resumed >= 1
